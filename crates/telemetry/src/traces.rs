//! Traces over OTLP: one provider a service, so that in one process each shows under its own name.
//!
//! A span is made where a trace is sampled and nowhere else: what is not sampled costs the look at a flag.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind, TraceContextExt, TraceState, Tracer, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SamplingDecision, SamplingResult, SdkTracer,
        SdkTracerProvider, ShouldSample, SpanData, SpanExporter, SpanProcessor,
    },
};
use prometheus_client::metrics::{counter::Counter, family::Family};

use crate::{
    Registry,
    otlp::{self, Signal, variable},
    propagation,
};

pub use opentelemetry_sdk::trace::Span;

/// A record, or a request, with this header is traced whatever the sampler says; `0` does not ask.
pub const FORCE_HEADER: &str = "quadrille-trace";
/// Spans that wait for the collector; beyond it they are dropped, and counted. A span takes about 1 KB.
const QUEUE_MAX: usize = 16_384;
const EXPORT_BATCH_MAX: usize = 2_048;
const EXPORT_EVERY: Duration = Duration::from_millis(500);
/// How long the end of a process waits for the last spans to be taken.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// Of links of one span: a batch's poll links the records it brought.
pub const LINKS_MAX: usize = 128;

/// What decides where nobody has decided yet, as `OTEL_TRACES_SAMPLER` names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether a decision that came along is followed.
    parent_based: bool,
    /// Share of traces that begin here to be sampled, 0 to 1.
    ratio: f64,
}

impl Sampling {
    /// # Errors
    /// Names the setting and what it may be.
    pub fn parse(sampler: &str, argument: &str) -> Result<Self, String> {
        let ratio = || match argument.trim() {
            "" => Ok(1.0),
            text => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(format!(
                    "OTEL_TRACES_SAMPLER_ARG is {text:?}; it must be a number from 0 to 1"
                )),
            },
        };
        let (parent_based, ratio) = match sampler.trim() {
            "" | "parentbased_always_on" => (true, 1.0),
            "parentbased_always_off" => (true, 0.0),
            "parentbased_traceidratio" => (true, ratio()?),
            "always_on" => (false, 1.0),
            "always_off" => (false, 0.0),
            "traceidratio" => (false, ratio()?),
            other => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is {other:?}; it must be always_on, always_off, traceidratio or one of \
                     these after parentbased_"
                ));
            }
        };
        Ok(Sampling {
            parent_based,
            ratio,
        })
    }

    /// Whether a trace of this id that begins here is sampled: the same everywhere, as the ratio samplers of
    /// OpenTelemetry decide by the id's last bytes.
    fn takes(&self, trace: TraceId) -> bool {
        let bytes = trace.to_bytes();
        let mut last = [0; 8];
        last.copy_from_slice(&bytes[8..]);
        let place = (u64::from_be_bytes(last) >> 1) as f64 / (1u64 << 63) as f64;
        place < self.ratio
    }
}

/// In a context: the decision was made, by who is about to begin a span.
#[derive(Debug, Clone, Copy)]
struct Decided;

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let span = parent.map(|parent| parent.span().span_context().clone());
        let known = span.filter(SpanContext::is_valid);
        let sampled = match (&known, parent.and_then(Context::get::<Decided>)) {
            (_, Some(_)) => true,
            (Some(known), None) if self.parent_based => known.is_sampled(),
            _ => self.takes(trace),
        };
        SamplingResult {
            decision: match sampled {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: known.map_or_else(TraceState::default, |c| c.trace_state().clone()),
        }
    }
}

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sampling: Sampling,
}

/// A service's way to make spans; does nothing where no collector is set. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracing(Option<Arc<Inner>>);

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tracing({})", if self.is_on() { "on" } else { "off" })
    }
}

impl Tracing {
    /// No spans at all.
    pub fn off() -> Self {
        Tracing::default()
    }

    /// As the `OTEL_*` variables say; off without an endpoint. To be called inside a tokio runtime, which
    /// carries the connection.
    ///
    /// # Errors
    /// Names the variable and what it may be.
    pub fn from_env(service: &str, instance: &str, registry: &Registry) -> Result<Self, String> {
        let sampling = Sampling::parse(
            &variable("OTEL_TRACES_SAMPLER"),
            &variable("OTEL_TRACES_SAMPLER_ARG"),
        )?;
        let Some(endpoint) = otlp::collector(Signal::Traces)? else {
            return Ok(Tracing::off());
        };
        Self::to(&endpoint, service, instance, sampling, registry)
    }

    /// Exports to the collector at `endpoint` by gRPC.
    ///
    /// # Errors
    /// The endpoint is not a URL.
    pub fn to(
        endpoint: &str,
        service: &str,
        instance: &str,
        sampling: Sampling,
        registry: &Registry,
    ) -> Result<Self, String> {
        let exporter = OtlpExporter::builder().with_tonic();
        let exporter = exporter
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| otlp::wrong_endpoint(endpoint, error))?;
        let (processed, exported) = SpanCounters::register(registry);
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Counting {
            inner: exporter,
            waiting: Arc::clone(&waiting),
            exported,
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX + EXPORT_BATCH_MAX)
            .with_max_export_batch_size(EXPORT_BATCH_MAX)
            .with_scheduled_delay(EXPORT_EVERY)
            .build();
        let processor = Bounded {
            inner: BatchSpanProcessor::builder(exporter)
                .with_batch_config(batches)
                .build(),
            waiting,
            processed,
        };
        let provider = SdkTracerProvider::builder()
            .with_sampler(Box::new(sampling) as Box<dyn ShouldSample>)
            .with_max_links_per_span(LINKS_MAX as u32)
            .with_resource(otlp::resource(service, instance))
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("quadrille");
        Ok(Tracing(Some(Arc::new(Inner {
            provider,
            tracer,
            sampling,
        }))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what carries this context is to be traced.
    pub fn follows(&self, parent: &SpanContext) -> bool {
        match &self.0 {
            None => false,
            Some(inner) if inner.sampling.parent_based => parent.is_sampled(),
            Some(inner) => inner.sampling.takes(parent.trace_id()),
        }
    }

    /// Whether a `traceparent` says no, and that is all there is to know: the cheap look at every record.
    pub fn obeys_no(&self, traceparent: &[u8]) -> bool {
        let parent_based = self
            .0
            .as_ref()
            .is_some_and(|inner| inner.sampling.parent_based);
        // The last digit of the flags; bit 0 is `sampled`.
        let says_no = traceparent.len() == 55
            && matches!(
                traceparent[54],
                b'0' | b'2' | b'4' | b'6' | b'8' | b'a' | b'c' | b'e'
            );
        parent_based && says_no
    }

    /// Whether a trace that begins here is to be sampled; `random` is evenly spread.
    pub fn takes_root(&self, random: u64) -> bool {
        let ratio = self.0.as_ref().map_or(0.0, |inner| inner.sampling.ratio);
        (random >> 1) as f64 / ((1u64 << 63) as f64) < ratio
    }

    /// Begins a span that is recorded in any case: the decision is the caller's. None where tracing is off.
    pub fn begin(&self, parent: Option<&SpanContext>, span: NewSpan) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let context = Context::new().with_value(Decided);
        let context = match parent {
            Some(parent) => context.with_remote_span_context(parent.clone()),
            None => context,
        };
        Some(span.build(&inner.tracer, &context))
    }

    /// Begins a span under `parent` as the sampler decides, or in any case where `forced`.
    pub fn begin_in(&self, parent: &Context, span: NewSpan, forced: bool) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let context = match forced {
            true => parent.with_value(Decided),
            false => parent.clone(),
        };
        Some(span.build(&inner.tracer, &context))
    }

    /// A step inside the request that runs now; ends when it is dropped. None where the request is not traced.
    pub fn step(&self, name: &'static str) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let current = Context::current();
        current
            .span()
            .span_context()
            .is_sampled()
            .then(|| NewSpan::new(name, SpanKind::Internal).build(&inner.tracer, &current))
    }

    /// Gives the last spans to the collector, for two seconds at most. Blocks.
    pub fn shutdown(&self) {
        if let Some(inner) = &self.0
            && let Err(error) = inner.provider.shutdown_with_timeout(SHUTDOWN_WITHIN)
        {
            tracing::debug!(%error, "last spans not exported");
        }
    }
}

/// A span to be begun.
pub struct NewSpan {
    name: Cow<'static, str>,
    kind: SpanKind,
    start: Option<SystemTime>,
    attributes: Vec<KeyValue>,
    links: Vec<Link>,
}

impl NewSpan {
    pub fn new(name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        NewSpan {
            name: name.into(),
            kind,
            start: None,
            attributes: Vec::new(),
            links: Vec::new(),
        }
    }

    pub fn at(mut self, start: SystemTime) -> Self {
        self.start = Some(start);
        self
    }

    pub fn with(mut self, attributes: Vec<KeyValue>) -> Self {
        self.attributes = attributes;
        self
    }

    pub fn linked(mut self, contexts: impl IntoIterator<Item = SpanContext>) -> Self {
        let link = |context| Link::new(context, Vec::new(), 0);
        self.links.extend(contexts.into_iter().map(link));
        self
    }

    fn build(self, tracer: &SdkTracer, parent: &Context) -> Span {
        let mut builder = tracer.span_builder(self.name).with_kind(self.kind);
        builder.start_time = self.start;
        if !self.attributes.is_empty() {
            builder = builder.with_attributes(self.attributes);
        }
        if !self.links.is_empty() {
            builder = builder.with_links(self.links);
        }
        tracer.build_with_context(builder, parent)
    }
}

/// The context in W3C headers, if it is valid.
pub fn context_of(traceparent: &[u8], tracestate: Option<&str>) -> Option<SpanContext> {
    if !propagation::is_valid_traceparent(traceparent) {
        return None;
    }
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let state = tracestate.and_then(|state| state.parse().ok());
    Some(SpanContext::new(
        trace,
        span,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    ))
}

/// The `traceparent` of a context.
pub fn traceparent(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

/// Whether a header's value asks for a trace.
pub fn forces(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| !matches!(value, b"" | b"0" | b"false"))
}

type Spans = Family<[(&'static str, &'static str); 1], Counter>;

struct SpanCounters;

impl SpanCounters {
    /// Spans processed and spans exported, by what went wrong.
    fn register(registry: &Registry) -> (Spans, Spans) {
        let (processed, exported) = (Spans::default(), Spans::default());
        registry.register(
            "otel.sdk.processor.span.processed",
            None,
            "Spans ended; error_type queue_full: dropped, the collector is too slow",
            processed.clone(),
        );
        registry.register(
            "otel.sdk.exporter.span.exported",
            None,
            "Spans the collector took; error_type rejected: it did not",
            exported.clone(),
        );
        (processed, exported)
    }
}

const FINE: [(&str, &str); 1] = [("error_type", "")];
const QUEUE_FULL: [(&str, &str); 1] = [("error_type", "queue_full")];
const REJECTED: [(&str, &str); 1] = [("error_type", "rejected")];

/// Drops what the collector is too slow for, and counts it.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    processed: Spans,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.load(Ordering::Relaxed) >= QUEUE_MAX {
            self.processed.get_or_create(&QUEUE_FULL).inc();
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.processed.get_or_create(&FINE).inc();
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what was exported.
#[derive(Debug)]
struct Counting {
    inner: OtlpExporter,
    waiting: Arc<AtomicUsize>,
    exported: Spans,
}

impl SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = if result.is_ok() { &FINE } else { &REJECTED };
        self.exported.get_or_create(outcome).inc_by(spans as u64);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_survives_its_header() {
        let context = context_of(SAMPLED.as_bytes(), Some("a=1,b=2")).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(traceparent(&context), SAMPLED);
        assert_eq!(context.trace_state().header(), "a=1,b=2");
    }

    #[test]
    fn a_broken_tracestate_does_not_cost_the_trace() {
        let context = context_of(SAMPLED.as_bytes(), Some("no pairs here")).unwrap();
        assert_eq!(context.trace_state().header(), "");
    }

    #[test]
    fn samplers_are_read_as_opentelemetry_names_them() {
        let ratio = |sampler, argument| Sampling::parse(sampler, argument).unwrap().ratio;
        assert_eq!(ratio("", ""), 1.0);
        assert_eq!(ratio("parentbased_traceidratio", "0.25"), 0.25);
        assert_eq!(ratio("always_off", ""), 0.0);
        let wrong = Sampling::parse("traceidratio", "2").unwrap_err();
        assert!(wrong.contains("OTEL_TRACES_SAMPLER_ARG"), "{wrong}");
        let wrong = Sampling::parse("sometimes", "").unwrap_err();
        assert!(wrong.contains("OTEL_TRACES_SAMPLER"), "{wrong}");
    }

    #[test]
    fn what_is_off_makes_no_spans() {
        let off = Tracing::off();
        assert!(!off.takes_root(0));
        assert!(
            off.begin(None, NewSpan::new("x", SpanKind::Internal))
                .is_none()
        );
    }

    #[test]
    fn a_force_header_asks_unless_it_says_no() {
        assert!(forces(Some(b"1")) && forces(Some(b"always")));
        assert!(!forces(None) && !forces(Some(b"0")) && !forces(Some(b"false")));
    }
}
