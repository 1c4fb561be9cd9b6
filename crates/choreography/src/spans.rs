//! Spans of the records that are traced, by OpenTelemetry's conventions for messaging.
//!
//! Every traced record has its own `process` span, under the context it came with; what the batch did
//! together (steps, commit) is recorded under each. The batch's own span, `poll`, is linked, never a parent.

mod attributes;
mod record;

use std::{
    ffi::CStr,
    ops::Range,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    TraceId,
    trace::{SpanContext, SpanKind},
};
use quadrille_proto::Topics;
use quadrille_telemetry::{
    Tracing,
    propagation::is_valid_traceparent,
    traces::{Attributes, Recorder, Value, forces, nanoseconds},
};

use self::attributes::{Kind, TRACEPARENT_NAME, clients, context, key, partition};
pub(crate) use self::attributes::{inject, sender};
use crate::{Cause, CommitMode, Incoming, StageConfig, StoreSpan};

/// [`quadrille_telemetry::traces::FORCE_HEADER`], as librdkafka takes names.
const FORCE: &CStr = c"quadrille-trace";

/// Of a lane, beside what was sampled.
const SLOW_PER_SECOND: u32 = 100;

/// A part of a batch's handling with a name of its own: `features`, `model`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub name: &'static str,
    pub start: Instant,
    pub end: Instant,
}

/// When the batch was made durable, and how.
pub(crate) struct Settling {
    pub start: Instant,
    pub end: Instant,
    pub store: Option<StoreSpan>,
}

/// A `send` that has begun.
struct Sent {
    context: SpanContext,
    parent: SpanContext,
    start_ns: u64,
    /// Which of [`Spans::outputs`].
    output: usize,
    /// Where its own attributes lie in [`Spans::sent_attributes`].
    attributes: Range<usize>,
}

/// A traced record of the current batch.
struct Traced {
    index: usize,
    context: SpanContext,
    parent: Option<SpanContext>,
    start_ns: u64,
    failed: Option<(&'static str, String)>,
}

/// One lane's traced records of the current batch.
pub(crate) struct Spans {
    tracing: Tracing,
    recorder: Recorder,
    /// Whether records without a context begin a trace here.
    starts_traces: bool,
    mode: CommitMode,
    poll: Kind,
    process: Kind,
    commit: Kind,
    /// Of producers: a consumer's group says nothing of what a producer does.
    sender: Attributes,
    /// `send`, by topic.
    outputs: Vec<(String, Kind)>,
    random: u64,
    objective_ms: Option<i64>,
    /// Slow records that may still be traced, and since when: a backlog is slow as a whole.
    slow: (u32, Instant),
    records: Vec<Traced>,
    clock: (Instant, u64),
    batch: Option<SpanContext>,
    /// One a record sent: outcomes, and what is beside them.
    sent: Vec<Sent>,
    sent_attributes: Vec<u8>,
    /// When Kafka had confirmed all of them.
    delivered_ns: Option<u64>,
    /// Attributes of the span being recorded, beside its kind's.
    scratch: Attributes,
}

impl Spans {
    pub fn new(tracing: Tracing, config: &StageConfig, lane: usize) -> Self {
        let topic = &config.input;
        let common = clients(config, lane, true);
        let kind = |operation, kind| Kind::new(operation, kind, topic, &common);
        let seed = nanoseconds(SystemTime::now());
        Spans {
            starts_traces: *topic == Topics::of(&config.pipeline).inbox,
            mode: config.commit,
            poll: kind(("poll", "receive"), SpanKind::Client),
            process: kind(("process", "process"), SpanKind::Consumer),
            commit: kind(("commit", "settle"), SpanKind::Client),
            sender: clients(config, lane, false),
            outputs: Vec::new(),
            random: seed ^ ((lane as u64 + 1) << 32) ^ u64::from(std::process::id()),
            objective_ms: config.latency_objective.map(|o| o.as_millis() as i64),
            slow: (SLOW_PER_SECOND, Instant::now()),
            records: Vec::new(),
            clock: (Instant::now(), seed),
            batch: None,
            sent: Vec::new(),
            sent_attributes: Vec::new(),
            delivered_ns: None,
            scratch: Attributes::default(),
            recorder: tracing.recorder(),
            tracing,
        }
    }

    /// Evenly spread, for sampling; SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn time(&self, instant: Instant) -> u64 {
        let (then, at) = self.clock;
        match instant.checked_duration_since(then) {
            Some(later) => at + later.as_nanos() as u64,
            None => at.saturating_sub(then.saturating_duration_since(instant).as_nanos() as u64),
        }
    }

    fn set_clock(&mut self) {
        self.clock = (Instant::now(), nanoseconds(SystemTime::now()));
    }

    /// Begins the spans of a batch that is about to be handled; `first_at` to `polled_at` it was gathered.
    pub fn begin_batch(
        &mut self,
        incoming: &[Incoming<'_>],
        first_at: Instant,
        polled_at: Instant,
    ) {
        self.records.clear();
        self.sent.clear();
        self.sent_attributes.clear();
        self.delivered_ns = None;
        self.batch = None;
        if !self.tracing.is_on() {
            return;
        }
        let slow_before = self.slow_before();
        for (index, record) in incoming.iter().enumerate() {
            if let Some(parent) = self.sample(record, slow_before) {
                if self.records.is_empty() {
                    self.set_clock();
                }
                self.begin(index, parent, polled_at);
            }
        }
        if !self.records.is_empty() {
            self.record_poll(incoming.len(), first_at, polled_at);
        }
    }

    /// The timestamp, in ms, before which a record is slow.
    fn slow_before(&mut self) -> Option<i64> {
        let objective = self.objective_ms?;
        if self.slow.1.elapsed().as_secs() > 0 {
            self.slow = (SLOW_PER_SECOND, Instant::now());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(now.as_millis() as i64 - objective)
    }

    fn is_slow(&mut self, record: &Incoming<'_>, slow_before: Option<i64>) -> bool {
        let slow = match (record.timestamp_ms, slow_before) {
            (Some(at), Some(before)) => at < before && self.slow.0 > 0,
            _ => false,
        };
        self.slow.0 -= u32::from(slow);
        slow
    }

    /// None: not traced. The inner one is the context the record came with.
    fn sample(
        &mut self,
        record: &Incoming<'_>,
        slow_before: Option<i64>,
    ) -> Option<Option<SpanContext>> {
        let headers = record.headers;
        let forced = (headers.is_some() && forces(headers.last_under(FORCE)))
            || self.is_slow(record, slow_before);
        let came_with = headers.last_under(TRACEPARENT_NAME);
        // Most records: their sender decided against a trace. Nothing more is read of them.
        let says_no = |value| {
            // Where traces begin, a broken context is none.
            self.tracing.honours_unsampled(value)
                && (!self.starts_traces || is_valid_traceparent(value))
        };
        if !forced && came_with.is_some_and(says_no) {
            return None;
        }
        let parent = came_with.and_then(|_| context(record));
        let traced = match &parent {
            Some(parent) => self.tracing.samples_child(parent),
            None if self.starts_traces => {
                let random = self.next_random();
                self.tracing.samples_root(random)
            }
            None => false,
        };
        (traced || forced).then_some(parent)
    }

    fn begin(&mut self, index: usize, parent: Option<SpanContext>, polled_at: Instant) {
        self.records.push(Traced {
            index,
            context: self.tracing.context(parent.as_ref()),
            parent,
            start_ns: self.time(polled_at),
            failed: None,
        });
    }

    /// Marks records that failed; traces those that were not, from here on.
    pub fn failures<'c>(
        &mut self,
        incoming: &[Incoming<'_>],
        polled_at: Instant,
        failures: impl Iterator<Item = (usize, &'c Cause)>,
    ) {
        if !self.tracing.is_on() {
            return;
        }
        let known = self.records.len();
        for (index, cause) in failures {
            let place = self.records[..known].binary_search_by_key(&index, |r| r.index);
            let place = place.unwrap_or_else(|_| {
                if self.records.is_empty() {
                    self.set_clock();
                }
                self.begin(index, context(&incoming[index]), polled_at);
                self.records.len() - 1
            });
            self.records[place].failed = Some((cause.class, cause.message.clone()));
        }
        if self.records.len() > known {
            self.records.sort_unstable_by_key(|traced| traced.index);
        }
    }

    /// Begins the `send` span of an output or dead letter of a record; its context goes into the headers.
    pub fn send(
        &mut self,
        index: usize,
        topic: &str,
        to_partition: i32,
        to_key: Option<&[u8]>,
    ) -> Option<SpanContext> {
        if self.records.is_empty() {
            return None;
        }
        let place = self
            .records
            .binary_search_by_key(&index, |r| r.index)
            .ok()?;
        let output = self.output(topic);
        self.scratch.clear();
        partition(&mut self.scratch, to_partition);
        key(&mut self.scratch, to_key);
        let from = self.sent_attributes.len();
        self.sent_attributes
            .extend_from_slice(self.scratch.as_bytes());
        let parent = self.records[place].context.clone();
        let context = self.tracing.context(Some(&parent));
        self.sent.push(Sent {
            context: context.clone(),
            parent,
            start_ns: self.time(Instant::now()),
            output,
            attributes: from..self.sent_attributes.len(),
        });
        Some(context)
    }

    fn output(&mut self, topic: &str) -> usize {
        let known = self.outputs.iter().position(|(known, _)| known == topic);
        known.unwrap_or_else(|| {
            let kind = Kind::new(("send", "send"), SpanKind::Producer, topic, &self.sender);
            self.outputs.push((topic.to_owned(), kind));
            self.outputs.len() - 1
        })
    }

    /// Kafka has confirmed what was sent.
    pub fn delivered(&mut self) {
        if !self.records.is_empty() {
            self.delivered_ns = Some(self.time(Instant::now()));
        }
    }

    /// The batch is durable: ends its spans. Their contexts are known until the next batch.
    pub fn end_committed(
        &mut self,
        incoming: &[Incoming<'_>],
        steps: &[Step],
        settling: &Settling,
    ) {
        if self.records.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.records);
        let settled = (self.time(settling.start), self.time(settling.end));
        let store = settling.store.as_ref().map(|store| {
            let pairs = store.attributes.iter();
            let all =
                |all: Attributes, (key, value): &(&str, &str)| all.with(key, Value::Text(value));
            (store.name, pairs.fold(Attributes::default(), all))
        });
        self.record_sent(settled.1, None);
        for traced in &records {
            if traced.failed.is_none() {
                self.record_steps(traced, steps);
            }
            match &store {
                Some(store) => self.record_store(traced, store, settled),
                None if self.mode.is_transactional() => {
                    self.record_commit(traced, &incoming[traced.index], settled);
                }
                None => {}
            }
            let failed = traced.failed.as_ref();
            let failed = failed.map(|(class, reason)| (*class, reason.as_str()));
            self.record_process(traced, &incoming[traced.index], settled.1, failed);
        }
        self.records = records;
        self.recorder.flush();
    }

    /// The trace of one of the batch's records, where one is traced.
    pub fn exemplar(&self) -> Option<TraceId> {
        Some(self.records.first()?.context.trace_id())
    }

    /// The trace of a record of the batch, if it is traced.
    pub fn context(&self, index: usize) -> Option<SpanContext> {
        let place = self.records.binary_search_by_key(&index, |r| r.index);
        Some(self.records.get(place.ok()?)?.context.clone())
    }

    /// This attempt came to nothing: ends its spans, each with the reason.
    pub fn end_failed(&mut self, incoming: &[Incoming<'_>], class: &'static str, reason: &str) {
        if self.records.is_empty() {
            return;
        }
        let now_ns = self.time(Instant::now());
        self.record_sent(now_ns, Some((class, reason)));
        for traced in std::mem::take(&mut self.records) {
            let (class, reason) = match &traced.failed {
                Some((class, reason)) => (*class, reason.as_str()),
                None => (class, reason),
            };
            let record = &incoming[traced.index];
            self.record_process(&traced, record, now_ns, Some((class, reason)));
        }
        self.recorder.flush();
    }
}
