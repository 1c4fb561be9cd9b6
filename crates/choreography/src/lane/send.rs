//! What a lane sends of a decided batch: outputs and dead letters, in order.

use std::collections::HashSet;

use quadrille_telemetry::propagation::TRACEPARENT;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::BaseRecord,
};

use super::{Lane, commit::confirmed};
use crate::{
    Cause, Handler, Headers, Incoming, OutputKey, StageConfig, StageTopics, client,
    decisions::Decision,
    dlq,
    handler::Emitted,
    partition_of,
    producer::{self, DeliveryFailure, LaneProducer, Tag, Undelivered},
    spans::{self, Spans},
};

/// A dead letter's headers take ten times a small record's memory: fewer of them wait for Kafka.
const DEAD_LETTERS_OUTSTANDING_MAX: i64 = 1_000;
/// Room for a batch's and a record's own framing when sizes are compared with a topic's limit.
const RECORD_OVERHEAD_BYTES: usize = 160;
/// And for a header's.
const HEADER_BYTES: usize = 10;
/// Records that were refused together are sent in so many groups, to find the one that is at fault.
const SUSPECT_GROUPS: usize = 16;
/// So many are found like that in a batch; beyond it the topic refuses whatever comes, and all are taken for refused.
const SINGLED_OUT_MAX: usize = 16;

/// Records of a batch of which the broker refused one.
#[derive(Default)]
pub(super) struct Suspects {
    /// Partition and offset.
    places: HashSet<(i32, i64)>,
    /// That many are sent together.
    together: usize,
    /// Those that were found in this batch.
    singled_out: usize,
}

impl Suspects {
    /// Forgets the records of partitions that the batch forgot.
    pub fn forget(&mut self, partitions: &[i32]) {
        let stays = |(partition, _): &(i32, i64)| !partitions.contains(partition);
        self.places.retain(stays);
    }
}

impl<H: Handler> Lane<H> {
    /// Notes what the broker refused as the records' own fault, so that the batch is sent otherwise when it is handled
    /// again: an output's record becomes a dead letter, a dead letter one that only names its original, and what was
    /// beside an outcome is dropped. The broker refuses whole requests: of several records that were refused together, it
    /// is found out first which one it is.
    pub(super) fn note_refused(&mut self, refused: &[DeliveryFailure], incoming: &[Incoming<'_>]) {
        let found = refused.iter().filter_map(|failure| {
            let record = incoming.get(failure.index)?;
            let class = client::rejection_class(&failure.error)?;
            Some((failure, (record.partition, record.offset), class))
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return;
        }
        // The next attempt is another one.
        self.failed_commits = 0;
        let places: HashSet<_> = found.iter().map(|(_, place, _)| *place).collect();
        if places.len() > 1 && self.suspects.singled_out < SINGLED_OUT_MAX {
            self.suspects.together = (places.len() / SUSPECT_GROUPS).max(1);
            self.suspects.places = places;
            return;
        }
        self.suspects.singled_out += 1;
        for (failure, place, class) in found {
            self.suspects.places.remove(&place);
            if failure.is_extra {
                self.known.extras_refused.insert(place);
            } else if let Decision::Dead { .. } = self.decisions.decision(failure.index) {
                self.known.truncated.insert(place, class);
            } else {
                let detail = format!("the broker refused its output: {}", failure.error);
                self.known.refused.insert(place, unsendable(class, detail));
            }
        }
    }

    /// Has Kafka confirm what was sent before the first suspect of a group, and then each group by itself.
    fn isolate(
        &self,
        producer: &LaneProducer,
        record: &Incoming<'_>,
        grouped: &mut usize,
    ) -> Result<(), Undelivered> {
        let place = (record.partition, record.offset);
        match self.suspects.places.contains(&place) {
            true if grouped.is_multiple_of(self.suspects.together) => {
                *grouped = 1;
                confirmed(producer)
            }
            true => {
                *grouped += 1;
                Ok(())
            }
            false if *grouped > 0 => {
                *grouped = 0;
                confirmed(producer)
            }
            false => Ok(()),
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
        self.letters_truncated = 0;
        if self.handler.keeps_state() {
            self.refuse_first(incoming)?;
        }
        let mut grouped = 0;
        for (index, record) in incoming.iter().enumerate() {
            if !self.suspects.places.is_empty() {
                self.isolate(producer, record, &mut grouped)?;
            }
            if !self.handler.keeps_state()
                && let Err(cause) = self.check_required(index, record)?
            {
                self.decisions.reject_output(index, cause);
            }
            if let Decision::Emit(_) = self.decisions.decision(index)
                && let Err(cause) = self.send_output(producer, index, record)?
            {
                self.decisions.reject_output(index, cause);
            }
            match self.decisions.decision(index) {
                Decision::Emit(_) => sent += 1,
                // Confirmed before a store failed to commit; counted when it does.
                Decision::Dead { .. } if self.is_letter_confirmed(record) => sent += 1,
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

    /// Where the handler's state has a part of each record, those whose outputs are too large are found before anything is
    /// sent: the batch is decided anew without them.
    fn refuse_first(&mut self, incoming: &[Incoming<'_>]) -> Result<(), Undelivered> {
        let mut found = Vec::new();
        for (index, record) in incoming.iter().enumerate() {
            let outcome = match self.decisions.decision(index) {
                Decision::Emit(emitted) => Some(emitted),
                Decision::Dead { .. } | Decision::Absorbed => None,
            };
            let required = self.decisions.extras(index).filter(|it| it.is_required);
            for emitted in outcome.into_iter().chain(required) {
                let sending = Sending::of(&self.config, &self.topics, emitted, index, record)?;
                if let Err(cause) = sending.check() {
                    found.push(((record.partition, record.offset), cause));
                    break;
                }
            }
        }
        let Some((_, cause)) = found.first() else {
            return Ok(());
        };
        let reason = format!("{cause}; the batch is decided anew without such records");
        self.known.refused.extend(found);
        // The next attempt is another one.
        self.failed_commits = 0;
        Err(reason.into())
    }

    fn is_letter_confirmed(&self, record: &Incoming<'_>) -> bool {
        let place = (record.partition, record.offset);
        !self.known.letters_confirmed.is_empty()
            && self.known.letters_confirmed.contains_key(&place)
    }

    /// Sends a record's output; the inner error is the record's own: it is too large.
    fn send_output(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<Result<(), Cause>, Undelivered> {
        let Decision::Emit(emitted) = self.decisions.decision(index) else {
            return Ok(Ok(()));
        };
        let sending = Sending::of(&self.config, &self.topics, emitted, index, record)?;
        sending.send(producer, &mut self.spans)
    }

    /// Whether what a record's outcome does not go without can be sent, before anything of it is; the inner error is the
    /// record's own.
    fn check_required(
        &self,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<Result<(), Cause>, Undelivered> {
        for emitted in self.decisions.extras(index).filter(|it| it.is_required) {
            let sending = Sending::of(&self.config, &self.topics, emitted, index, record)?;
            if let Err(cause) = sending.check() {
                return Ok(Err(cause));
            }
        }
        Ok(Ok(()))
    }

    /// Sends what is beside a record's outcome; what is too large and not required is dropped and counted.
    fn send_extras(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
    ) -> Result<usize, Undelivered> {
        let mut sent = 0;
        let place = (record.partition, record.offset);
        let refused = self.known.extras_refused.contains(&place);
        for emitted in self.decisions.extras(index) {
            let sending = Sending::of(&self.config, &self.topics, emitted, index, record)?;
            if refused && !emitted.is_required {
                self.extras_dropped += 1;
                continue;
            }
            match sending.send(producer, &mut self.spans)? {
                Ok(()) => sent += 1,
                Err(_) if !emitted.is_required => self.extras_dropped += 1,
                // Its outcome is sent already: the batch is handled again, and then the record is a dead letter.
                Err(cause) => {
                    let reason = cause.to_string();
                    self.known.refused.insert(place, cause);
                    self.failed_commits = 0;
                    return Err(reason.into());
                }
            }
        }
        Ok(sent)
    }

    /// Sends the original with the reason; where that cannot be, a letter that names it.
    fn send_dead_letter(
        &mut self,
        producer: &LaneProducer,
        index: usize,
        record: &Incoming<'_>,
        attempt: u32,
    ) -> Result<(), Undelivered> {
        producer.make_room(DEAD_LETTERS_OUTSTANDING_MAX);
        let size = record.payload.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
        let mut why = match size > dlq::LETTER_BYTES_MAX {
            true => Some("too_large"),
            false if self.known.truncated.is_empty() => None,
            false => {
                let place = (record.partition, record.offset);
                self.known.truncated.get(&place).copied()
            }
        };
        loop {
            let Some(letter) = self.dead_letter(index, record, attempt, why) else {
                return Ok(());
            };
            return match producer.send(letter) {
                Ok(()) => {
                    self.letters_truncated += u64::from(why.is_some());
                    Ok(())
                }
                // Its key or its headers, then.
                Err(producer::Error::TooLarge) if why.is_none() => {
                    why = Some("too_large");
                    continue;
                }
                Err(producer::Error::TooLarge) => {
                    let topic = &self.dlq_topic;
                    Err(format!("not even a short dead letter can be sent to {topic}").into())
                }
                Err(producer::Error::Failed(undelivered)) => Err(undelivered),
            };
        }
    }

    /// The letter for a record that is one; `why` its own bytes are left out, if they are.
    fn dead_letter<'a>(
        &'a mut self,
        index: usize,
        record: &'a Incoming<'_>,
        attempt: u32,
        why: Option<&'static str>,
    ) -> Option<BaseRecord<'a, [u8], [u8], usize>> {
        let Decision::Dead { cause, at } = self.decisions.decision(index) else {
            return None;
        };
        let reporter = dlq::Reporter::of::<H>(&self.config, &self.task, self.topics.generation());
        let mut letter =
            BaseRecord::with_opaque_to(&self.dlq_topic, index).partition(record.partition);
        let mut headers = match why {
            None => {
                letter.payload = record.payload;
                letter.key = record.key;
                dlq::headers(record, cause, at, attempt, &reporter)
            }
            Some(why) => {
                letter.key = dlq::short_key(record.key);
                dlq::short_headers(record, cause, at, attempt, why, &reporter)
            }
        };
        // A timestamp that the topic's own bounds refuse is left out with the rest.
        letter.timestamp = match why {
            Some("refused") => None,
            _ => record.timestamp_ms,
        };
        let span = self
            .spans
            .send(index, &self.dlq_topic, record.partition, record.key);
        // Headers that came stay as they are; what had none is found again by its trace.
        if let Some(context) = span
            && (why.is_some() || record.headers.last(TRACEPARENT).is_none())
        {
            headers = spans::inject(Some(headers), &context);
        }
        letter.headers = Some(headers);
        Some(letter)
    }
}

/// An output record on its way.
struct Sending<'a> {
    /// Of the record it is made of.
    index: usize,
    /// The number of the stage's output.
    output: usize,
    is_extra: bool,
    topic: &'a str,
    /// The largest that the topic takes.
    bytes_max: usize,
    partition: i32,
    key: Option<&'a [u8]>,
    payload: Option<&'a [u8]>,
    /// Besides the record's.
    headers: &'a [(String, Vec<u8>)],
    record: &'a Incoming<'a>,
    /// Of the record's headers, those that it passes on.
    passed_on: Headers<'a>,
}

impl<'a> Sending<'a> {
    /// # Errors
    /// The stage has no such output: the handler's mistake.
    fn of(
        config: &'a StageConfig,
        topics: &StageTopics,
        emitted: Emitted<'a>,
        index: usize,
        record: &'a Incoming<'a>,
    ) -> Result<Self, Undelivered> {
        let place = match emitted.output {
            None => 0,
            Some(name) => {
                let place = config.outputs.iter().position(|it| it.name == name);
                place.ok_or_else(|| no_output(config, name))?
            }
        };
        let (Some(output), Some(&bytes_max)) = (
            config.outputs.get(place),
            topics.outputs_bytes_max.get(place),
        ) else {
            return Err(no_output(config, "any name"));
        };
        let (key, partition) = match emitted.key {
            OutputKey::Input => (record.key, record.partition),
            OutputKey::OnInputPartition(key) => (Some(key), record.partition),
            OutputKey::Partitioned(key) => (Some(key), partition_of(key, topics.partitions)),
        };
        Ok(Sending {
            index,
            output: place,
            is_extra: !emitted.is_required,
            topic: &output.topic,
            bytes_max,
            partition,
            key,
            payload: emitted.payload,
            headers: emitted.headers,
            record,
            passed_on: match emitted.key {
                OutputKey::OnInputPartition(_) => Headers::default(),
                OutputKey::Input | OutputKey::Partitioned(_) => record.headers,
            },
        })
    }

    fn bytes(&self) -> usize {
        let header = |(name, value): &(String, Vec<u8>)| name.len() + value.len() + HEADER_BYTES;
        let headers = self.headers.iter().map(header).sum::<usize>();
        let payload = self.payload.map_or(0, <[u8]>::len);
        let key = self.key.map_or(0, <[u8]>::len);
        payload + key + headers + headers_len(self.passed_on)
    }

    /// # Errors
    /// The record's own: it is too large.
    fn check(&self) -> Result<(), Cause> {
        let (size, topic, limit) = (self.bytes(), self.topic, self.bytes_max);
        match size + RECORD_OVERHEAD_BYTES > limit {
            true => Err(too_large(format!(
                "output of {size} bytes; {topic} takes {limit} (max.message.bytes)"
            ))),
            false => Ok(()),
        }
    }

    /// The inner error is the record's own: it is too large.
    fn send(
        &self,
        producer: &LaneProducer,
        spans: &mut Spans,
    ) -> Result<Result<(), Cause>, Undelivered> {
        if let Err(cause) = self.check() {
            return Ok(Err(cause));
        }
        let topic = self.topic;
        let tag = Tag {
            index: self.index,
            output: Some(self.output),
            is_extra: self.is_extra,
        };
        let mut output = BaseRecord::with_opaque_to(topic, tag.pack()).partition(self.partition);
        output.payload = self.payload;
        output.key = self.key;
        output.timestamp = self.record.timestamp_ms;
        output.headers = self.passed_on.0.map(|headers| headers.detach());
        if !self.headers.is_empty() {
            let headers = output.headers.take().unwrap_or_default();
            let with = |all: OwnedHeaders, (key, value): &(String, Vec<u8>)| {
                let value = Some(value.as_slice());
                all.insert(Header { key, value })
            };
            output.headers = Some(self.headers.iter().fold(headers, with));
        }
        if let Some(context) = spans.send(self.index, topic, self.partition, self.key) {
            output.headers = Some(spans::inject(output.headers.take(), &context));
        }
        match producer.send(output) {
            Ok(()) => Ok(Ok(())),
            Err(producer::Error::TooLarge) => {
                let size = self.bytes();
                Ok(Err(too_large(format!("output of {size} bytes"))))
            }
            Err(producer::Error::Failed(undelivered)) => Err(undelivered),
        }
    }
}

fn no_output(config: &StageConfig, name: &str) -> Undelivered {
    let service = config.service;
    Undelivered {
        reason: format!(
            "{service} has no output of {name}, yet its handler emits to it; this is a bug"
        ),
        is_bug: true,
    }
}

fn headers_len(headers: Headers<'_>) -> usize {
    match headers.0 {
        None => 0,
        Some(_) => headers
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len) + HEADER_BYTES)
            .sum(),
    }
}

fn too_large(detail: String) -> Cause {
    unsendable("too_large", detail)
}

fn unsendable(class: &'static str, detail: String) -> Cause {
    let message = match class {
        "too_large" => format!("too large to pass on: {detail}"),
        _ => detail,
    };
    Cause { class, message }
}
