//! What a handler decides: one outcome for each record, and output records beside it. Payloads lie in one buffer.

use std::{ops::Range, sync::Arc, time::Instant};

use super::Error;
use crate::{spans::Step, status::LaneStatus};

/// What becomes of one record.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Emit(Emission),
    Absorb(&'static str),
    Fail(Error),
}

/// Where an output record goes and what it brings, besides its payload. By default the stage's first output, with the
/// input's key, partition and headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Destination<'a> {
    /// The name of one of [`crate::StageConfig::outputs`]; None is the first.
    pub output: Option<&'static str>,
    pub key: OutputKey<'a>,
    /// Added after the input's own, in this order.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// The key of an output record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputKey<'a> {
    /// The input's, on the input's partition.
    #[default]
    Input,
    /// This one, on the partition that is the key's.
    Partitioned(&'a [u8]),
    /// This one, on the input's partition: a row of the partition's state, for its changelog. It bears none of the input's headers:
    /// it stands for all records that came to it.
    OnInputPartition(&'a [u8]),
}

#[derive(Debug, Clone)]
pub(crate) enum KeyRange {
    Input,
    Partitioned(Range<usize>),
    OnInputPartition(Range<usize>),
}

#[derive(Debug, Clone)]
pub(crate) struct Emission {
    /// None: a tombstone.
    pub payload: Option<Range<usize>>,
    pub key: KeyRange,
    /// None: the first.
    pub output: Option<&'static str>,
    /// Rare, and an emission is made for every record.
    pub headers: Option<Box<OwnedHeaders>>,
}

pub(crate) type OwnedHeaders = Vec<(String, Vec<u8>)>;

/// An output record beside an outcome.
#[derive(Debug, Clone)]
pub(crate) struct Extra {
    /// The outcome's index.
    pub outcome: usize,
    pub emission: Emission,
    /// Where it cannot be sent, its record is a dead letter; otherwise it is dropped.
    pub is_required: bool,
}

/// An output record as it was decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emitted<'a> {
    pub output: Option<&'static str>,
    pub payload: Option<&'a [u8]>,
    pub key: OutputKey<'a>,
    pub headers: &'a [(String, Vec<u8>)],
    pub is_required: bool,
}

/// The decisions on a batch. Payloads lie in one buffer, reused from batch to batch.
#[derive(Default)]
pub struct Output {
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcomes: Vec<Outcome>,
    /// In the order of the outcomes they are beside.
    pub(crate) extras: Vec<Extra>,
    pub(crate) steps: Vec<Step>,
    /// Of the lane it belongs to.
    pub(crate) status: Option<Arc<LaneStatus>>,
}

impl Output {
    /// One output record, with the input's key, partition, timestamp and headers; `write` appends its payload.
    pub fn emit(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.emit_to(Destination::default(), write);
    }

    /// As [`Output::emit`], but keyed anew: the partition is the key's.
    pub fn emit_keyed(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let key = OutputKey::Partitioned(key);
        self.emit_to(
            Destination {
                key,
                ..Destination::default()
            },
            write,
        );
    }

    /// As [`Output::emit`], to an output of the handler's choice, with a key and headers of its own.
    pub fn emit_to(&mut self, to: Destination<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let emission = self.emission(to, write);
        self.outcomes.push(Outcome::Emit(emission));
    }

    fn emission(&mut self, to: Destination<'_>, write: impl FnOnce(&mut Vec<u8>)) -> Emission {
        let Destination {
            output,
            key,
            headers,
        } = to;
        let key = match key {
            OutputKey::Input => KeyRange::Input,
            OutputKey::Partitioned(key) => KeyRange::Partitioned(self.keep(key)),
            OutputKey::OnInputPartition(key) => KeyRange::OnInputPartition(self.keep(key)),
        };
        let start = self.bytes.len();
        write(&mut self.bytes);
        let headers = (!headers.is_empty()).then(|| {
            let owned = |(name, value): &(&str, &[u8])| ((*name).to_owned(), value.to_vec());
            Box::new(headers.iter().map(owned).collect())
        });
        Emission {
            payload: Some(start..self.bytes.len()),
            key,
            output,
            headers,
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// One more output record beside the outcome decided last, sent right after it in the same transaction: with
    /// the input's key, partition, timestamp and headers. It is not an outcome: one that is too large is dropped and
    /// counted, and where the record becomes a dead letter it is not sent.
    pub fn also(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let emission = self.emission(Destination::default(), write);
        self.add_extra(emission, false);
    }

    /// One more output record that the last outcome must not be sent without, such as the change of state behind it: where it
    /// cannot be sent (it is too large), the record becomes a dead letter and nothing of it is sent.
    pub fn with(&mut self, to: Destination<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let emission = self.emission(to, write);
        self.add_extra(emission, true);
    }

    /// As [`Output::with`], beside an earlier outcome, counted from 0 as [`Output::decided`] does: after all that is beside it, and
    /// before what is beside later ones.
    pub fn with_earlier(
        &mut self,
        outcome: usize,
        to: Destination<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(outcome < self.outcomes.len(), "there is no such outcome");
        let extra = Extra {
            outcome,
            emission: self.emission(to, write),
            is_required: true,
        };
        let at = self
            .extras
            .partition_point(|extra| extra.outcome <= outcome);
        self.extras.insert(at, extra);
    }

    /// How many outcomes there are so far, those of earlier calls of [`super::Handler::handle`] for the same batch included.
    pub fn decided(&self) -> usize {
        self.outcomes.len()
    }

    /// As [`Output::with`], but a tombstone: a compacted topic forgets the key.
    pub fn with_tombstone(&mut self, to: Destination<'_>) {
        let emission = Emission {
            payload: None,
            ..self.emission(to, |_| {})
        };
        self.add_extra(emission, true);
    }

    fn add_extra(&mut self, emission: Emission, is_required: bool) {
        debug_assert!(!self.outcomes.is_empty(), "there is no outcome yet");
        self.extras.push(Extra {
            outcome: self.outcomes.len().saturating_sub(1),
            emission,
            is_required,
        });
    }

    pub(crate) fn emitted<'a>(&'a self, emission: &'a Emission, is_required: bool) -> Emitted<'a> {
        let of = |range: &Range<usize>| &self.bytes[range.clone()];
        Emitted {
            output: emission.output,
            payload: emission.payload.as_ref().map(of),
            key: match &emission.key {
                KeyRange::Input => OutputKey::Input,
                KeyRange::Partitioned(key) => OutputKey::Partitioned(of(key)),
                KeyRange::OnInputPartition(key) => OutputKey::OnInputPartition(of(key)),
            },
            headers: emission.headers.as_deref().map_or(&[], |headers| headers),
            is_required,
        }
    }

    /// The record ends here by design (stored, state only, late); `reason` is a metric's label: one of a few constants.
    pub fn absorb(&mut self, reason: &'static str) {
        self.outcomes.push(Outcome::Absorb(reason));
    }

    /// The record fails; what that means is the error's variant.
    pub fn fail(&mut self, failure: Error) {
        self.outcomes.push(Outcome::Fail(failure));
    }

    /// Reports that the handler is still working: to be called now and then during a long wait, so that the lane is not
    /// taken for stuck.
    pub fn report_progress(&self) {
        if let Some(status) = &self.status {
            status.progress();
        }
    }

    /// A part of the batch's handling that ends now: a span in the trace of each of its records.
    pub fn step(&mut self, name: &'static str, start: Instant) {
        let end = Instant::now();
        self.steps.push(Step { name, start, end });
    }

    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.bytes.clear();
        self.outcomes.clear();
        self.extras.clear();
    }

    /// Forgets all decisions but the first `outcomes`.
    pub(crate) fn truncate(&mut self, outcomes: usize) {
        self.outcomes.truncate(outcomes);
        let kept = self
            .extras
            .partition_point(|extra| extra.outcome < outcomes);
        self.extras.truncate(kept);
    }

    /// What is beside one outcome.
    pub(crate) fn extras_of(&self, outcome: usize) -> impl Iterator<Item = Emitted<'_>> {
        let first = self.extras.partition_point(|extra| extra.outcome < outcome);
        let extras = self.extras[first..].iter();
        extras
            .take_while(move |extra| extra.outcome == outcome)
            .map(|extra| self.emitted(&extra.emission, extra.is_required))
    }

    /// The payload of the `index`th decision, if it was an emission. For tests of handlers.
    pub fn payload(&self, index: usize) -> Option<&[u8]> {
        match self.outcomes.get(index)? {
            Outcome::Emit(emission) => self.bytes.get(emission.payload.clone()?),
            _ => None,
        }
    }

    /// The payloads beside the `index`th decision. For tests of handlers.
    pub fn extras(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        self.extras_of(index).filter_map(|emitted| emitted.payload)
    }

    /// The failure of the `index`th decision, if it was one. For tests of handlers.
    pub fn failure(&self, index: usize) -> Option<&Error> {
        match self.outcomes.get(index)? {
            Outcome::Fail(failure) => Some(failure),
            _ => None,
        }
    }
}
