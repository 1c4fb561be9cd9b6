//! The queue of ended, encoded spans for the collector; if it is too slow, spans are dropped and counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use opentelemetry_proto::{
    tonic::{
        collector::trace::v1::ExportTraceServiceResponse, common::v1::InstrumentationScope,
        resource::v1::Resource,
    },
    transform::common::tonic::ResourceAttributesWithSchema,
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use prost::{Message, bytes::BufMut};
use tokio::sync::{Notify, watch};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

use super::wire::{self, SpanRecord};
use crate::{
    Registry,
    otlp::{self, Signal, variable},
};

/// The default of `OTEL_BSP_MAX_QUEUE_SIZE`: spans that wait for the collector; further ones are dropped. One second of
/// 10,000 traced records.
const QUEUE_MAX: usize = 65_536;
/// Bytes per span, which bounds the queue as well: spans hold keys of records. A usual one takes 400.
const SPAN_BYTES: usize = 512;
/// A request is closed at this size: receivers refuse more than 4 MiB by default, and one span may be large.
const REQUEST_BYTES: usize = 512 << 10;
/// How much a lane gathers before it hands spans over.
const CHUNK_BYTES: usize = 64 << 10;
/// From this many waiting spans on, the export starts at once.
const ENOUGH: usize = 2_048;
const EXPORT_EVERY: Duration = Duration::from_millis(500);
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const QUEUE_VARIABLE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";

type Spans = Family<[(&'static str, &'static str); 1], Counter>;

const FINE: [(&str, &str); 1] = [("error_type", "")];
const QUEUE_FULL: [(&str, &str); 1] = [("error_type", "queue_full")];
const REJECTED: [(&str, &str); 1] = [("error_type", "rejected")];

/// Encoded spans.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    spans: usize,
}

#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Chunk>,
    /// Waiting or being sent.
    spans: usize,
    bytes: usize,
    /// An empty buffer, reused for the next chunk.
    spare: Vec<u8>,
    scratch: Vec<u8>,
}

/// Spans on their way to the collector. Bounded.
pub(super) struct Queue {
    spans_max: usize,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    enough: Notify,
    processed: Spans,
    exported: Spans,
}

impl Queue {
    fn new(spans_max: usize, registry: &Registry) -> Self {
        Queue {
            spans_max,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            enough: Notify::new(),
            processed: registry.family(
                "otel.sdk.processor.span.processed",
                "Spans ended; error_type queue_full: dropped, the collector is too slow",
            ),
            exported: registry.family(
                "otel.sdk.exporter.span.exported",
                "Spans the collector took; error_type rejected: it did not",
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a chunk's content; the caller keeps the buffer.
    fn put(&self, chunk: &mut Chunk) {
        let spans = std::mem::take(&mut chunk.spans);
        if spans > 0 {
            let waiting = self.lock();
            self.add(waiting, &chunk.bytes, spans);
        }
        chunk.bytes.clear();
    }

    /// A single span, without a recorder.
    pub(super) fn put_one(&self, span: &SpanRecord<'_>, more_links: &[SpanContext]) {
        let mut waiting = self.lock();
        let mut scratch = std::mem::take(&mut waiting.scratch);
        let mut bytes = Vec::new();
        wire::append(&mut bytes, &mut scratch, span, more_links);
        waiting.scratch = scratch;
        self.add(waiting, &bytes, 1);
    }

    fn add(&self, mut waiting: MutexGuard<'_, Waiting>, bytes: &[u8], spans: usize) {
        let bytes_max = self.spans_max.saturating_mul(SPAN_BYTES);
        let full =
            waiting.spans + spans > self.spans_max || waiting.bytes + bytes.len() > bytes_max;
        let outcome = if full { &QUEUE_FULL } else { &FINE };
        if full {
            drop(waiting);
            self.processed.get_or_create(outcome).inc_by(spans as u64);
            return;
        }
        let before = waiting.spans;
        waiting.spans += spans;
        waiting.bytes += bytes.len();
        let has_room = |chunk: &Chunk| chunk.bytes.len() + bytes.len() <= REQUEST_BYTES;
        if !waiting.chunks.back().is_some_and(has_room) {
            let fresh = Chunk {
                bytes: std::mem::take(&mut waiting.spare),
                spans: 0,
            };
            waiting.chunks.push_back(fresh);
        }
        if let Some(chunk) = waiting.chunks.back_mut() {
            chunk.bytes.extend_from_slice(bytes);
            chunk.spans += spans;
        }
        let after = waiting.spans;
        drop(waiting);
        self.processed.get_or_create(outcome).inc_by(spans as u64);
        if before == 0 {
            self.arrived.notify_one();
        }
        if before < ENOUGH && after >= ENOUGH {
            self.enough.notify_one();
        }
    }

    fn next(&self) -> Option<Chunk> {
        self.lock().chunks.pop_front()
    }

    /// A chunk was sent or dropped.
    fn gone(&self, spans: usize, bytes: usize) {
        let mut waiting = self.lock();
        waiting.spans -= spans;
        waiting.bytes -= bytes;
    }

    fn recycle(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.lock().spare = buffer;
    }
}

/// One thread's buffer of ended spans: encoded at once, handed over by [`Recorder::flush`].
#[derive(Default)]
pub struct Recorder {
    queue: Option<Arc<Queue>>,
    chunk: Chunk,
    scratch: Vec<u8>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} spans)", self.chunk.spans)
    }
}

impl Recorder {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Recorder {
            queue: Some(queue),
            ..Recorder::default()
        }
    }

    pub fn record(&mut self, span: &SpanRecord<'_>) {
        self.record_linked(span, &[]);
    }

    /// With more links than a [`SpanRecord`] has.
    pub fn record_linked(&mut self, span: &SpanRecord<'_>, more_links: &[SpanContext]) {
        if self.queue.is_none() {
            return;
        }
        wire::append(&mut self.chunk.bytes, &mut self.scratch, span, more_links);
        self.chunk.spans += 1;
        if self.chunk.bytes.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    pub fn flush(&mut self) {
        if let Some(queue) = &self.queue {
            queue.put(&mut self.chunk);
        }
    }
}

/// The task that sends spans to the collector.
pub(super) struct Exporter {
    stop: watch::Sender<bool>,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Exporter {
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// The endpoint is not a URL, or a variable is wrong.
    pub(super) fn start(
        endpoint: &str,
        service: &str,
        instance: &str,
        registry: &Registry,
    ) -> Result<(Arc<Queue>, Self), String> {
        let channel = otlp::channel(endpoint, Signal::Traces)?;
        let resource = otlp::resource(service, instance);
        let resource = Resource {
            attributes: ResourceAttributesWithSchema::from(&resource).attributes.0,
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: "quadrille".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans_max = queue_max(&variable(QUEUE_VARIABLE))?;
        let queue = Arc::new(Queue::new(spans_max, registry));
        let about = About {
            resource: resource.encode_to_vec(),
            scope: scope.encode_to_vec(),
        };
        let (stop, stopping) = watch::channel(false);
        let (end, ended) = mpsc::channel();
        let sender = Sender {
            queue: Arc::clone(&queue),
            client: Grpc::new(channel),
            about: Arc::new(about),
            headers: otlp::headers(Signal::Traces)?,
            failing: false,
            _end: end,
        };
        tokio::spawn(sender.run(stopping));
        let ended = Mutex::new(ended);
        Ok((queue, Exporter { stop, ended }))
    }

    /// Exports what is waiting; whether that was done in time. Blocks.
    pub(super) fn shutdown(&self, within: Duration) -> bool {
        let _ = self.stop.send(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // The other end is dropped with the task.
        matches!(
            ended.recv_timeout(within),
            Err(RecvTimeoutError::Disconnected)
        )
    }
}

fn queue_max(text: &str) -> Result<usize, String> {
    match text.parse() {
        _ if text.is_empty() => Ok(QUEUE_MAX),
        Ok(spans) if spans > 0 => Ok(spans),
        _ => Err(format!(
            "{QUEUE_VARIABLE} is {text:?}; it must be a number of spans, 1 or more"
        )),
    }
}

/// The resource, encoded once.
struct About {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

struct Sender {
    queue: Arc<Queue>,
    client: Grpc<Channel>,
    about: Arc<About>,
    headers: tonic::metadata::MetadataMap,
    failing: bool,
    /// Dropped when the task ends.
    _end: mpsc::Sender<()>,
}

impl Sender {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            let mut stop = tokio::select! {
                () = self.queue.arrived.notified() => false,
                _ = stopping.wait_for(|stopping| *stopping) => true,
            };
            if !stop {
                stop = tokio::select! {
                    () = tokio::time::sleep(EXPORT_EVERY) => false,
                    () = self.queue.enough.notified() => false,
                    _ = stopping.wait_for(|stopping| *stopping) => true,
                };
            }
            while let Some(chunk) = self.queue.next() {
                self.send(chunk).await;
            }
            if stop {
                return;
            }
        }
    }

    async fn send(&mut self, chunk: Chunk) {
        let (spans, bytes) = (chunk.spans, chunk.bytes.len());
        let result = self.export(chunk.bytes).await;
        self.queue.gone(spans, bytes);
        let refused = match result {
            Ok(refused) => {
                self.failing = false;
                (refused as usize).min(spans)
            }
            Err(status) => {
                // Logged once, not every time: the counters go on.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        error = status.message(),
                        "the collector did not accept spans"
                    );
                }
                spans
            }
        };
        let exported = &self.queue.exported;
        if spans > refused {
            exported
                .get_or_create(&FINE)
                .inc_by((spans - refused) as u64);
        }
        if refused > 0 {
            exported.get_or_create(&REJECTED).inc_by(refused as u64);
        }
    }

    /// How many spans the collector refused.
    async fn export(&mut self, spans: Vec<u8>) -> Result<i64, Status> {
        let unavailable = |error| Status::unavailable(format!("{error}"));
        self.client.ready().await.map_err(unavailable)?;
        let batch = Batch {
            queue: Arc::clone(&self.queue),
            about: Arc::clone(&self.about),
            spans,
        };
        let mut request = Request::new(batch);
        *request.metadata_mut() = self.headers.clone();
        let path = PathAndQuery::from_static(PATH);
        let answer = self.client.unary(request, path, Otlp).await?;
        let partial = answer.into_inner().partial_success;
        Ok(partial.map_or(0, |partial| partial.rejected_spans.max(0)))
    }
}

/// A request's spans, encoded.
struct Batch {
    queue: Arc<Queue>,
    about: Arc<About>,
    spans: Vec<u8>,
}

/// The requests are encoded already; the answers are small.
#[derive(Clone, Copy)]
struct Otlp;

impl Codec for Otlp {
    type Encode = Batch;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Otlp
    }

    fn decoder(&mut self) -> Self {
        Otlp
    }
}

impl Encoder for Otlp {
    type Item = Batch;
    type Error = Status;

    fn encode(&mut self, batch: Batch, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let About { resource, scope } = &*batch.about;
        wire::request(resource, scope, &batch.spans, |part| {
            out.reserve(part.len());
            out.put_slice(part);
        });
        batch.queue.recycle(batch.spans);
        Ok(())
    }
}

impl Decoder for Otlp {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(
        &mut self,
        answer: &mut DecodeBuf<'_>,
    ) -> Result<Option<ExportTraceServiceResponse>, Status> {
        let answer = ExportTraceServiceResponse::decode(answer);
        answer
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanKind;

    use super::*;
    use crate::traces::context;

    fn queue(spans_max: usize) -> (Arc<Queue>, Registry) {
        let registry = Registry::default();
        (Arc::new(Queue::new(spans_max, &registry)), registry)
    }

    #[test]
    fn how_many_spans_may_wait_is_read() {
        assert_eq!(queue_max(""), Ok(QUEUE_MAX));
        assert_eq!(queue_max("2048"), Ok(2_048));
        for wrong in ["0", "-1", "many", "1.5"] {
            let error = queue_max(wrong).expect_err(wrong);
            assert!(error.contains("OTEL_BSP_MAX_QUEUE_SIZE"), "{error}");
        }
    }

    fn record(recorder: &mut Recorder, spans: usize) {
        let context = context::child_of(None);
        let span = SpanRecord {
            context: &context,
            parent: None,
            name: "span",
            kind: &SpanKind::Internal,
            start_ns: 1,
            end_ns: 2,
            attributes: [&[], &[]],
            links: [None, None],
            error: None,
        };
        (0..spans).for_each(|_| recorder.record(&span));
        recorder.flush();
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (queue, registry) = queue(100);
        let mut recorder = Recorder::new(Arc::clone(&queue));
        (0..110).for_each(|_| record(&mut recorder, 1));
        assert_eq!(queue.lock().spans, 100);
        let text = registry.encode();
        let dropped = "otel_sdk_processor_span_processed_total{error_type=\"queue_full\"} 10";
        assert!(text.contains(dropped), "{text}");
    }

    #[test]
    fn a_request_is_bounded_and_nothing_is_lost_between_them() {
        let (queue, _registry) = queue(20_000);
        let mut recorder = Recorder::new(Arc::clone(&queue));
        record(&mut recorder, 20_000);
        let mut spans = 0;
        while let Some(chunk) = queue.next() {
            assert!(chunk.bytes.len() <= REQUEST_BYTES);
            spans += chunk.spans;
            queue.gone(chunk.spans, chunk.bytes.len());
        }
        assert_eq!(spans, 20_000);
        let waiting = queue.lock();
        assert_eq!((waiting.spans, waiting.bytes), (0, 0));
    }
}
