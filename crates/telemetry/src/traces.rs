//! Traces over OTLP: one exporter per service, so that services in one process show under their own names.
//!
//! Spans exist for sampled traces only; an unsampled record costs one look at a flag. A span that ends is encoded at once, in
//! the form that is sent to the collector: `wire.rs` is the encoding, `export.rs` the queue and the sending.

mod context;
mod export;
mod sampling;
mod span;
mod wire;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    Context, TraceFlags,
    trace::{SpanContext, SpanKind, TraceContextExt},
};

use crate::{
    Registry,
    otlp::{self, Signal, variable},
};

pub use context::{Traceparent, context_of, forces};
pub use export::Recorder;
use export::{Exporter, Queue};
pub use sampling::Sampling;
pub use span::{NewSpan, Span};
pub use wire::{Attributes, SpanRecord, Value};

/// A record or a request with this header is traced whatever the sampler decides; the value `0` means no.
pub const FORCE_HEADER: &str = "quadrille-trace";
/// How long the process waits at its end for the last spans to be exported.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// The most links of one span: a batch's poll links the records it returned.
pub const LINKS_MAX: usize = 128;

/// Times as spans have them: nanoseconds since the Unix epoch.
pub fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}

struct Inner {
    queue: Arc<Queue>,
    exporter: Exporter,
    sampling: Sampling,
}

/// Creates a service's spans; does nothing if no collector is set. Cheap to clone.
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

    /// Configured by the `OTEL_*` variables; off without an endpoint. Call it within a tokio runtime, which runs the
    /// connection.
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

    /// Exports to the collector at `endpoint` by gRPC. Call it within a tokio runtime.
    ///
    /// # Errors
    /// The endpoint is not a URL, or an `OTEL_*` variable is invalid.
    pub fn to(
        endpoint: &str,
        service: &str,
        instance: &str,
        sampling: Sampling,
        registry: &Registry,
    ) -> Result<Self, String> {
        let (queue, exporter) = Exporter::start(endpoint, service, instance, registry)?;
        Ok(Tracing(Some(Arc::new(Inner {
            queue,
            exporter,
            sampling,
        }))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a span under this context is to be sampled.
    pub fn samples_child(&self, parent: &SpanContext) -> bool {
        match &self.0 {
            None => false,
            Some(inner) if inner.sampling.parent_based => parent.is_sampled(),
            Some(inner) => inner.sampling.takes(parent.trace_id()),
        }
    }

    /// Whether a `traceparent` says "not sampled" and the sampler follows it: the cheap check made for every record.
    pub fn honours_unsampled(&self, traceparent: &[u8]) -> bool {
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

    /// Whether to sample a trace that begins here; `random` is uniform.
    pub fn samples_root(&self, random: u64) -> bool {
        let ratio = self.0.as_ref().map_or(0.0, |inner| inner.sampling.ratio);
        (random >> 1) as f64 / ((1u64 << 63) as f64) < ratio
    }

    /// A recorder for a thread that records many spans at a time.
    pub fn recorder(&self) -> Recorder {
        match &self.0 {
            Some(inner) => Recorder::new(Arc::clone(&inner.queue)),
            None => Recorder::default(),
        }
    }

    /// The context of a span under `parent`, or of a trace that begins; the decision to record it is the caller's.
    pub fn context(&self, parent: Option<&SpanContext>) -> SpanContext {
        context::child_of(parent)
    }

    /// Begins a span that is recorded in any case: the decision is the caller's. None if tracing is off.
    pub fn begin(&self, parent: Option<&SpanContext>, span: NewSpan) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let context = context::child_of(parent);
        Some(Span::begin(&inner.queue, context, parent.cloned(), span))
    }

    /// Begins a span under `parent` as the sampler decides, or always if `forced`. An unsampled span still has a context, which
    /// tells callees that it is not sampled.
    pub fn begin_in(&self, parent: &Context, span: NewSpan, forced: bool) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let parent = parent.span().span_context().clone();
        let parent = parent.is_valid().then_some(parent);
        let context = context::child_of(parent.as_ref());
        let sampled = forced
            || match &parent {
                Some(parent) => self.samples_child(parent),
                None => inner.sampling.takes(context.trace_id()),
            };
        Some(match sampled {
            true => Span::begin(&inner.queue, context, parent, span),
            false => Span::unrecorded(SpanContext::new(
                context.trace_id(),
                context.span_id(),
                TraceFlags::default(),
                false,
                context.trace_state().clone(),
            )),
        })
    }

    /// A step within the current request; ends when dropped. None if the request is not traced.
    pub fn step(&self, name: &'static str) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let current = Context::current();
        let parent = current.span().span_context().clone();
        parent.is_sampled().then(|| {
            let span = NewSpan::new(name, SpanKind::Internal);
            Span::begin(
                &inner.queue,
                context::child_of(Some(&parent)),
                Some(parent.clone()),
                span,
            )
        })
    }

    /// Flushes the last spans to the collector, for two seconds at most. Blocks.
    pub fn shutdown(&self) {
        if let Some(inner) = &self.0
            && !inner.exporter.shutdown(SHUTDOWN_WITHIN)
        {
            tracing::debug!("last spans not exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_makes_no_spans() {
        let off = Tracing::off();
        assert!(!off.samples_root(0));
        assert!(
            off.begin(None, NewSpan::new("x", SpanKind::Internal))
                .is_none()
        );
    }
}
