//! What a lane sends of a decided batch: outputs and dead letters, in order.

use quadrille_telemetry::propagation::TRACEPARENT;
use rdkafka::producer::BaseRecord;

use super::Lane;
use crate::{
    Cause, Handler, Headers, Incoming, client, dlq,
    judge::Decision,
    partition_of,
    producer::{LaneProducer, SendError, Undelivered},
    spans,
};

/// A dead letter's headers take ten times a small record's memory: fewer of them wait for Kafka.
const DEAD_LETTERS_OUTSTANDING_MAX: i64 = 1_000;
/// Room for a batch's and a record's own framing when sizes are compared with a topic's limit.
const RECORD_OVERHEAD_BYTES: usize = 160;

impl<H: Handler> Lane<H> {
    /// A record the broker refuses as too large is dead-lettered when the batch is handled again.
    pub(super) fn refuse_if_too_large(
        &mut self,
        undelivered: &Undelivered,
        incoming: &[Incoming<'_>],
    ) {
        if let Some(failure) = &undelivered.failure
            && client::is_too_large(&failure.error)
            && let Some(record) = incoming.get(failure.index)
        {
            let cause = too_large("the broker refused it".to_owned());
            self.refused
                .insert((record.partition, record.offset), cause);
        }
    }

    /// Queues an output or a dead letter for each record that has one, in order.
    pub(super) fn send_all(
        &mut self,
        producer: &LaneProducer,
        incoming: &[Incoming<'_>],
        attempt: u32,
    ) -> Result<usize, Undelivered> {
        let mut sent = 0;
        for (index, record) in incoming.iter().enumerate() {
            let refused = (!self.refused.is_empty())
                .then(|| {
                    self.refused
                        .get(&(record.partition, record.offset))
                        .cloned()
                })
                .flatten();
            if let Some(cause) = refused {
                self.judge.refuse(index, cause);
            }
            if let Decision::Emit { .. } = self.judge.decision(index)
                && let Err(cause) = self.send_output(producer, index, record)?
            {
                self.judge.refuse(index, cause);
            }
            match self.judge.decision(index) {
                Decision::Emit { .. } => sent += 1,
                Decision::Dead { .. } => {
                    self.send_dead_letter(producer, index, record, attempt)?;
                    sent += 1;
                }
                Decision::Absorbed => {}
            }
        }
        Ok(sent)
    }

    /// Sends one output; the inner error is the record's own: it is too large.
    fn send_output(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<Result<(), Cause>, Undelivered> {
        let Decision::Emit { payload, key } = self.judge.decision(index) else {
            return Ok(Ok(()));
        };
        let Some(topic) = &self.config.output else {
            let service = self.config.service;
            return Err(format!("{service} has no output topic, yet its handler emits").into());
        };
        let partition = key.map_or(record.partition, |key| {
            partition_of(key, self.topics.partitions)
        });
        let key = key.or(record.key);
        let size = payload.len() + key.map_or(0, <[u8]>::len) + headers_len(record.headers);
        let limit = self.topics.output_bytes_max;
        if size + RECORD_OVERHEAD_BYTES > limit {
            let detail =
                format!("output of {size} bytes; {topic} takes {limit} (max.message.bytes)");
            return Ok(Err(too_large(detail)));
        }
        let mut output = BaseRecord::with_opaque_to(topic, index)
            .partition(partition)
            .payload(payload);
        output.key = key;
        output.timestamp = record.timestamp_ms;
        output.headers = record.headers.0.map(|headers| headers.detach());
        if let Some(context) = self.spans.send(index, topic, partition, key) {
            output.headers = Some(spans::carry(output.headers.take(), &context));
        }
        match producer.send(output) {
            Ok(()) => Ok(Ok(())),
            Err(SendError::TooLarge) => Ok(Err(too_large(format!("output of {size} bytes")))),
            Err(SendError::Failed(undelivered)) => Err(undelivered),
        }
    }

    fn send_dead_letter(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
        attempt: u32,
    ) -> Result<(), Undelivered> {
        let Decision::Dead { cause, at } = self.judge.decision(index) else {
            return Ok(());
        };
        producer.make_room(DEAD_LETTERS_OUTSTANDING_MAX);
        let place = dlq::Place {
            group: &self.config.group,
            task: &self.task,
            service: self.config.service,
            handler: std::any::type_name::<H>(),
        };
        let mut letter =
            BaseRecord::with_opaque_to(&self.dlq_topic, index).partition(record.partition);
        letter.payload = record.payload;
        letter.key = record.key;
        letter.timestamp = record.timestamp_ms;
        let mut headers = dlq::headers(record, cause, at, attempt, &place);
        let span = self
            .spans
            .send(index, &self.dlq_topic, record.partition, record.key);
        // Headers that came stay as they are; what had none is found again by its trace.
        if let Some(context) = span
            && record.headers.last(TRACEPARENT).is_none()
        {
            headers = spans::carry(Some(headers), &context);
        }
        letter.headers = Some(headers);
        producer.send(letter).map_err(|error| match error {
            SendError::TooLarge => format!("dead letter too large for {}", self.dlq_topic).into(),
            SendError::Failed(undelivered) => undelivered,
        })
    }
}

fn headers_len(headers: Headers<'_>) -> usize {
    match headers.0 {
        None => 0,
        Some(_) => headers
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len) + 10)
            .sum(),
    }
}

fn too_large(detail: String) -> Cause {
    Cause {
        class: "too_large",
        message: format!("too large to pass on: {detail}"),
    }
}
