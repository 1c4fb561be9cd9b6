//! What a lane tells of the records that are traced, by OpenTelemetry's conventions for messaging.
//!
//! Every traced record has its own `process` span, under the context it came with; what the batch did
//! together (steps, commit) is told under each. The batch's own span, `poll`, is linked, never a parent.

use std::{
    ffi::CStr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    KeyValue, StringValue, TraceId,
    trace::{Span as _, SpanContext, SpanKind, Status},
};
use quadrille_proto::Topics;
use quadrille_telemetry::{
    Tracing,
    propagation::{TRACEPARENT, TRACESTATE, is_valid_traceparent},
    traces::{LINKS_MAX, NewSpan, Span, context_of, forces, traceparent},
};

use rdkafka::message::{Header, OwnedHeaders};

use crate::{Cause, Delivery, Incoming, StageConfig, native};

/// [`TRACEPARENT`] and [`quadrille_telemetry::traces::FORCE_HEADER`], as librdkafka takes names.
const TRACEPARENT_NAME: &CStr = c"traceparent";
const FORCE: &CStr = c"quadrille-trace";

/// Of a lane, beside what was sampled.
const SLOW_A_SECOND: u32 = 100;

/// A part of a batch's handling with a name of its own: `features`, `model`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub name: &'static str,
    pub start: Instant,
    pub end: Instant,
}

/// How a handler's own store shows in traces.
#[derive(Debug, Clone)]
pub struct StoreSpan {
    /// Operation and target: `INSERT predictions`.
    pub name: &'static str,
    /// `db.*` of the conventions.
    pub attributes: Vec<(&'static str, &'static str)>,
}

/// When the batch was made durable, and how.
pub(crate) struct Settling {
    pub start: Instant,
    pub end: Instant,
    pub store: Option<StoreSpan>,
}

struct Traced {
    index: usize,
    process: Span,
    send: Option<Span>,
    failed: bool,
}

/// One lane's traced records of the batch in hand.
pub(crate) struct Spans {
    tracing: Tracing,
    /// Whether records without a context begin a trace here.
    begins: bool,
    delivery: Delivery,
    topic: Arc<str>,
    poll: String,
    process: String,
    commit: String,
    common: Vec<KeyValue>,
    random: u64,
    objective_ms: Option<i64>,
    /// Slow records that may still be traced, and since when: a backlog is slow as a whole.
    slow: (u32, Instant),
    records: Vec<Traced>,
    clock: (Instant, SystemTime),
    batch: Option<SpanContext>,
}

/// An attribute of many spans: cloned without copying its text.
fn shared(key: &'static str, text: Arc<str>) -> KeyValue {
    KeyValue::new(key, StringValue::from(text))
}

fn operation(name: &'static str, kind: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new("messaging.operation.name", name),
        KeyValue::new("messaging.operation.type", kind),
    ]
}

impl Spans {
    pub fn new(tracing: Tracing, config: &StageConfig, lane: usize) -> Self {
        let topic = &config.input;
        let mut common = vec![
            KeyValue::new("messaging.system", "kafka"),
            shared(
                "messaging.consumer.group.name",
                config.group.as_str().into(),
            ),
            shared(
                "messaging.client.id",
                format!("{}-{}-{lane}", config.group, config.instance).into(),
            ),
        ];
        common.extend(server(config.cluster.bootstrap_servers()));
        let seed = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = seed.unwrap_or_default().as_nanos() as u64;
        Spans {
            begins: *topic == Topics::of(&config.pipeline).inbox,
            delivery: config.delivery,
            poll: format!("poll {topic}"),
            process: format!("process {topic}"),
            commit: format!("commit {topic}"),
            topic: topic.as_str().into(),
            common,
            random: seed ^ ((lane as u64 + 1) << 32) ^ u64::from(std::process::id()),
            objective_ms: config.latency_objective.map(|o| o.as_millis() as i64),
            slow: (SLOW_A_SECOND, Instant::now()),
            records: Vec::new(),
            clock: (Instant::now(), SystemTime::now()),
            batch: None,
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

    fn time(&self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.clock.0) {
            Some(later) => self.clock.1 + later,
            None => self.clock.1 - self.clock.0.saturating_duration_since(instant),
        }
    }

    /// Begins the spans of a batch that is about to be handled; `first_at` to `polled_at` it was gathered.
    pub fn open(&mut self, incoming: &[Incoming<'_>], first_at: Instant, polled_at: Instant) {
        self.records.clear();
        self.batch = None;
        if !self.tracing.is_on() {
            return;
        }
        let slow_before = self.slow_before();
        let wanted: Vec<(usize, Option<SpanContext>)> = incoming
            .iter()
            .enumerate()
            .filter_map(|(index, record)| Some((index, self.decide(record, slow_before)?)))
            .collect();
        if wanted.is_empty() {
            return;
        }
        self.clock = (Instant::now(), SystemTime::now());
        let links = wanted.iter().filter_map(|(_, parent)| parent.clone());
        let mut attributes = self.common.clone();
        attributes.extend(operation("poll", "receive"));
        attributes.push(self.destination());
        attributes.push(KeyValue::new(
            "messaging.batch.message_count",
            incoming.len() as i64,
        ));
        let poll = NewSpan::new(self.poll.clone(), SpanKind::Client)
            .at(self.time(first_at))
            .with(attributes)
            .linked(links.take(LINKS_MAX));
        if let Some(mut poll) = self.tracing.begin(None, poll) {
            self.batch = Some(poll.span_context().clone());
            poll.end_with_timestamp(self.time(polled_at));
        }
        for (index, parent) in wanted {
            self.begin(index, &incoming[index], parent, polled_at);
        }
    }

    /// The timestamp, in ms, before which a record is slow.
    fn slow_before(&mut self) -> Option<i64> {
        let objective = self.objective_ms?;
        if self.slow.1.elapsed().as_secs() > 0 {
            self.slow = (SLOW_A_SECOND, Instant::now());
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
    fn decide(
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
            self.tracing.obeys_no(value) && (!self.begins || is_valid_traceparent(value))
        };
        if !forced && came_with.is_some_and(says_no) {
            return None;
        }
        let parent = came_with.and_then(|_| context(record));
        let traced = match &parent {
            Some(parent) => self.tracing.follows(parent),
            None if self.begins => {
                let random = self.next_random();
                self.tracing.takes_root(random)
            }
            None => false,
        };
        (traced || forced).then_some(parent)
    }

    fn begin(
        &mut self,
        index: usize,
        record: &Incoming<'_>,
        parent: Option<SpanContext>,
        polled_at: Instant,
    ) {
        let mut attributes = Vec::with_capacity(self.common.len() + 7);
        attributes.extend_from_slice(&self.common);
        attributes.extend(operation("process", "process"));
        attributes.push(self.destination());
        attributes.push(partition(record.partition));
        attributes.push(KeyValue::new("messaging.kafka.offset", record.offset));
        attributes.extend(key(record.key));
        if record.payload.is_none() {
            attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true));
        }
        let span = NewSpan::new(self.process.clone(), SpanKind::Consumer)
            .at(self.time(polled_at))
            .with(attributes)
            .linked(parent.iter().chain(&self.batch).cloned());
        if let Some(process) = self.tracing.begin(parent.as_ref(), span) {
            self.records.push(Traced {
                index,
                process,
                send: None,
                failed: false,
            });
        }
    }

    fn destination(&self) -> KeyValue {
        shared("messaging.destination.name", Arc::clone(&self.topic))
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
            let place = place.ok().or_else(|| {
                if self.records.is_empty() {
                    self.clock = (Instant::now(), SystemTime::now());
                }
                let before = self.records.len();
                self.begin(
                    index,
                    &incoming[index],
                    context(&incoming[index]),
                    polled_at,
                );
                (self.records.len() > before).then_some(before)
            });
            if let Some(traced) = place.and_then(|place| self.records.get_mut(place)) {
                traced.failed = true;
                fail(&mut traced.process, cause.class, &cause.message);
            }
        }
        if self.records.len() > known {
            self.records.sort_unstable_by_key(|traced| traced.index);
        }
    }

    /// Begins the `send` span of a record's output or dead letter; its context goes into the headers.
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
        let mut attributes: Vec<KeyValue> = self
            .common
            .iter()
            .filter(|a| is_producers(a))
            .cloned()
            .collect();
        attributes.extend(sending(topic, to_partition, to_key));
        let start = self.time(Instant::now());
        let traced = self.records.get_mut(place)?;
        let span = NewSpan::new(format!("send {topic}"), SpanKind::Producer)
            .at(start)
            .with(attributes);
        let span = self
            .tracing
            .begin(Some(traced.process.span_context()), span)?;
        let context = span.span_context().clone();
        traced.send = Some(span);
        Some(context)
    }

    /// Kafka has confirmed what was sent.
    pub fn delivered(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let now = self.time(Instant::now());
        for traced in &mut self.records {
            if let Some(mut send) = traced.send.take() {
                send.end_with_timestamp(now);
            }
        }
    }

    /// The batch is durable: ends its spans. Their contexts are known until the next batch.
    pub fn settled(&mut self, incoming: &[Incoming<'_>], steps: &[Step], settling: &Settling) {
        if self.records.is_empty() {
            return;
        }
        let mut records = std::mem::take(&mut self.records);
        let (start, end) = (self.time(settling.start), self.time(settling.end));
        for traced in &mut records {
            let parent = traced.process.span_context().clone();
            if !traced.failed {
                for step in steps {
                    let span =
                        NewSpan::new(step.name, SpanKind::Internal).at(self.time(step.start));
                    self.finish(&parent, span, self.time(step.end));
                }
            }
            let record = &incoming[traced.index];
            if let Some(store) = &settling.store {
                let span = NewSpan::new(store.name, SpanKind::Client).at(start).with(
                    store
                        .attributes
                        .iter()
                        .map(|(k, v)| KeyValue::new(*k, *v))
                        .collect(),
                );
                self.finish(&parent, span, end);
            } else if self.delivery == Delivery::ExactlyOnce {
                let mut attributes = self.common.clone();
                attributes.extend(operation("commit", "settle"));
                attributes.push(self.destination());
                attributes.push(partition(record.partition));
                attributes.push(KeyValue::new("messaging.kafka.offset", record.offset));
                let span = NewSpan::new(self.commit.clone(), SpanKind::Client)
                    .at(start)
                    .with(attributes);
                self.finish(&parent, span, end);
            }
            traced.process.end_with_timestamp(end);
        }
        self.records = records;
    }

    /// The trace of one of the batch's records, where one is traced.
    pub fn example(&self) -> Option<TraceId> {
        let traced = self.records.first()?;
        Some(traced.process.span_context().trace_id())
    }

    /// The trace of a record of the batch, if it is traced.
    pub fn context(&self, index: usize) -> Option<SpanContext> {
        let place = self.records.binary_search_by_key(&index, |r| r.index);
        let traced = self.records.get(place.ok()?)?;
        Some(traced.process.span_context().clone())
    }

    fn finish(&self, parent: &SpanContext, span: NewSpan, end: SystemTime) {
        if let Some(mut span) = self.tracing.begin(Some(parent), span) {
            span.end_with_timestamp(end);
        }
    }

    /// This attempt came to nothing: ends its spans, each with the reason.
    pub fn undone(&mut self, class: &'static str, reason: &str) {
        for mut traced in self.records.drain(..) {
            if let Some(mut send) = traced.send.take() {
                fail(&mut send, class, reason);
                send.end();
            }
            if !traced.failed {
                fail(&mut traced.process, class, reason);
            }
            traced.process.end();
        }
    }
}

/// The context a record came with, where it is valid.
fn context(record: &Incoming<'_>) -> Option<SpanContext> {
    let traceparent = record.headers.last_under(TRACEPARENT_NAME)?;
    context_of(traceparent, record.headers.last_text(TRACESTATE))
}

pub(crate) fn fail(span: &mut Span, class: &'static str, reason: &str) {
    span.set_attribute(KeyValue::new("error.type", class));
    span.set_status(Status::error(reason.to_owned()));
}

fn partition(partition: i32) -> KeyValue {
    KeyValue::new("messaging.destination.partition.id", partition.to_string())
}

fn key(key: Option<&[u8]>) -> Option<KeyValue> {
    let key = std::str::from_utf8(key?).ok()?;
    Some(KeyValue::new("messaging.kafka.message.key", key.to_owned()))
}

/// What a `send` span says of the record.
pub(crate) fn sending(topic: &str, to_partition: i32, to_key: Option<&[u8]>) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(5);
    attributes.extend(operation("send", "send"));
    attributes.push(KeyValue::new(
        "messaging.destination.name",
        topic.to_owned(),
    ));
    attributes.push(partition(to_partition));
    attributes.extend(key(to_key));
    attributes
}

/// A consumer's group says nothing of what a producer does.
fn is_producers(attribute: &KeyValue) -> bool {
    attribute.key.as_str() != "messaging.consumer.group.name"
}

/// The first bootstrap server.
pub(crate) fn server(bootstrap_servers: &str) -> Vec<KeyValue> {
    let first = bootstrap_servers.split(',').next().unwrap_or_default();
    let (host, port) = first.trim().rsplit_once(':').unwrap_or((first.trim(), ""));
    let mut attributes = vec![shared("server.address", host.into())];
    attributes.extend(
        port.parse::<i64>()
            .map(|port| KeyValue::new("server.port", port)),
    );
    attributes
}

/// Puts a context into a record's headers, in place of the one it came with.
pub(crate) fn carry(headers: Option<OwnedHeaders>, context: &SpanContext) -> OwnedHeaders {
    let mut headers = headers.unwrap_or_else(|| OwnedHeaders::new_with_capacity(1));
    native::remove_header(&mut headers, TRACEPARENT_NAME);
    headers.insert(Header {
        key: TRACEPARENT,
        value: Some(&traceparent(context)),
    })
}
