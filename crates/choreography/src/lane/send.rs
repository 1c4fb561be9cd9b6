//! What a lane sends of a decided batch: outputs and dead letters, in order.

use quadrille_telemetry::propagation::TRACEPARENT;
use rdkafka::producer::BaseRecord;

use super::Lane;
use crate::{
    Cause, Handler, Headers, Incoming, StageConfig, client, dlq,
    judge::Decision,
    partition_of,
    producer::{LaneProducer, SendError, Undelivered},
    spans::{self, Spans},
};

/// A dead letter's headers take ten times a small record's memory: fewer of them wait for Kafka.
const DEAD_LETTERS_OUTSTANDING_MAX: i64 = 1_000;
/// Room for a batch's and a record's own framing when sizes are compared with a topic's limit.
const RECORD_OVERHEAD_BYTES: usize = 160;
/// Set in the index of what was sent beside a record's outcome: batches are far smaller.
const BESIDE: usize = 1 << (usize::BITS - 1);

impl<H: Handler> Lane<H> {
    /// A record the broker refuses as too large is dead-lettered when the batch is handled again; what was beside
    /// an outcome is dropped then.
    pub(super) fn refuse_if_too_large(
        &mut self,
        undelivered: &Undelivered,
        incoming: &[Incoming<'_>],
    ) {
        if let Some(failure) = &undelivered.failure
            && client::is_too_large(&failure.error)
            && let Some(record) = incoming.get(failure.index & !BESIDE)
        {
            let place = (record.partition, record.offset);
            if failure.index & BESIDE == 0 {
                let cause = too_large("the broker refused it".to_owned());
                self.refused.insert(place, cause);
            } else {
                self.extras_refused.insert(place);
            }
        }
    }

    /// Queues an output or a dead letter for each record that has one, in order, and what is beside it.
    pub(super) fn send_all(
        &mut self,
        producer: &LaneProducer,
        incoming: &[Incoming<'_>],
        attempt: u32,
    ) -> Result<usize, Undelivered> {
        let mut sent = 0;
        self.extras_dropped = 0;
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
                // Confirmed before a store failed to commit; counted when it does.
                Decision::Dead { .. } if self.is_buried(record) => sent += 1,
                Decision::Dead { .. } => {
                    self.send_dead_letter(producer, index, record, attempt)?;
                    sent += 1;
                }
                Decision::Absorbed => {}
            }
            sent += self.send_extras(producer, index, record)?;
        }
        Ok(sent)
    }

    fn is_buried(&self, record: &Incoming<'_>) -> bool {
        let place = (record.partition, record.offset);
        !self.buried.is_empty() && self.buried.contains_key(&place)
    }

    /// Sends a record's output; the inner error is the record's own: it is too large.
    fn send_output(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<Result<(), Cause>, Undelivered> {
        let Decision::Emit { payload, key } = self.judge.decision(index) else {
            return Ok(Ok(()));
        };
        let partition = key.map_or(record.partition, |key| {
            partition_of(key, self.topics.partitions)
        });
        let sending = Sending {
            index,
            opaque: index,
            topic: output_topic(&self.config)?,
            bytes_max: self.topics.output_bytes_max,
            partition,
            key: key.or(record.key),
            payload,
            record,
        };
        sending.send(producer, &mut self.spans)
    }

    /// Sends what is beside a record's outcome; what is too large is dropped and counted.
    fn send_extras(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<usize, Undelivered> {
        let mut sent = 0;
        let refused = self
            .extras_refused
            .contains(&(record.partition, record.offset));
        for payload in self.judge.extras(index) {
            let sending = Sending {
                index,
                opaque: index | BESIDE,
                topic: output_topic(&self.config)?,
                bytes_max: self.topics.output_bytes_max,
                partition: record.partition,
                key: record.key,
                payload,
                record,
            };
            if !refused && sending.send(producer, &mut self.spans)?.is_ok() {
                sent += 1;
            } else {
                self.extras_dropped += 1;
            }
        }
        Ok(sent)
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
            generation: self.topics.generation(),
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

/// An output record on its way.
struct Sending<'a> {
    /// Of the record it is made of.
    index: usize,
    /// What the client tells of its delivery.
    opaque: usize,
    topic: &'a str,
    /// The largest that the topic takes.
    bytes_max: usize,
    partition: i32,
    key: Option<&'a [u8]>,
    payload: &'a [u8],
    record: &'a Incoming<'a>,
}

impl Sending<'_> {
    /// The inner error is the record's own: it is too large.
    fn send(
        &self,
        producer: &LaneProducer,
        spans: &mut Spans,
    ) -> Result<Result<(), Cause>, Undelivered> {
        let (topic, limit) = (self.topic, self.bytes_max);
        let key_bytes = self.key.map_or(0, <[u8]>::len);
        let size = self.payload.len() + key_bytes + headers_len(self.record.headers);
        if size + RECORD_OVERHEAD_BYTES > limit {
            let detail =
                format!("output of {size} bytes; {topic} takes {limit} (max.message.bytes)");
            return Ok(Err(too_large(detail)));
        }
        let mut output = BaseRecord::with_opaque_to(topic, self.opaque)
            .partition(self.partition)
            .payload(self.payload);
        output.key = self.key;
        output.timestamp = self.record.timestamp_ms;
        output.headers = self.record.headers.0.map(|headers| headers.detach());
        if let Some(context) = spans.send(self.index, topic, self.partition, self.key) {
            output.headers = Some(spans::carry(output.headers.take(), &context));
        }
        match producer.send(output) {
            Ok(()) => Ok(Ok(())),
            Err(SendError::TooLarge) => Ok(Err(too_large(format!("output of {size} bytes")))),
            Err(SendError::Failed(undelivered)) => Err(undelivered),
        }
    }
}

fn output_topic(config: &StageConfig) -> Result<&str, Undelivered> {
    config.output.as_deref().ok_or_else(|| {
        let service = config.service;
        format!("{service} has no output topic, yet its handler emits").into()
    })
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
