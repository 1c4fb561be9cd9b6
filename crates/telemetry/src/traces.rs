//! Traces over OTLP: one exporter a service, so that in one process each shows under its own name.
//!
//! A span is made where a trace is sampled and nowhere else: what is not sampled costs the look at a flag. A span that
//! ends is written as the collector reads it, with nothing in between: see `wire.rs` for the form, `export.rs` for the way.

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

/// A record, or a request, with this header is traced whatever the sampler says; `0` does not ask.
pub const FORCE_HEADER: &str = "quadrille-trace";
/// How long the end of a process waits for the last spans to be taken.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// Of links of one span: a batch's poll links the records it brought.
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

    /// Exports to the collector at `endpoint` by gRPC. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The endpoint is not a URL, or one of the `OTEL_*` variables that say how to export is wrong.
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

    /// Whether a `traceparent` says "not sampled" and that decides it: the cheap check made for every record.
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

    /// Whether a trace that begins here is to be sampled; `random` is evenly spread.
    pub fn samples_root(&self, random: u64) -> bool {
        let ratio = self.0.as_ref().map_or(0.0, |inner| inner.sampling.ratio);
        (random >> 1) as f64 / ((1u64 << 63) as f64) < ratio
    }

    /// For a thread that records many spans at a time.
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

    /// Begins a span that is recorded in any case: the decision is the caller's. None where tracing is off.
    pub fn begin(&self, parent: Option<&SpanContext>, span: NewSpan) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let context = context::child_of(parent);
        Some(Span::begin(&inner.queue, context, parent.cloned(), span))
    }

    /// Begins a span under `parent` as the sampler decides, or in any case where `forced`. What is not sampled
    /// has a context all the same, which says so to whoever is called.
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

    /// A step inside the request that runs now; ends when it is dropped. None where the request is not traced.
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

    /// Gives the last spans to the collector, for two seconds at most. Blocks.
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
