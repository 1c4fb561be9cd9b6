//! What the log says of a lane's dead letters: of the first one why, of the others how many, at most once a
//! second. A storm of them is counted by the metrics.

use std::time::{Duration, Instant};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};

use crate::{Cause, Incoming};

const TOLD_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct DeadLetters {
    untold: u64,
    told_at: Option<Instant>,
}

impl DeadLetters {
    /// `count` more, the first of them this record.
    pub fn tell(
        &mut self,
        count: u64,
        record: &Incoming<'_>,
        cause: &Cause,
        trace: Option<SpanContext>,
    ) {
        self.untold += count;
        if !self.is_due() {
            return;
        }
        let count = self.told();
        let trace_id = trace.as_ref().map(|trace| trace.trace_id().to_string());
        // So that the line belongs to the trace where logs are exported.
        let context = Context::new().with_remote_span_context(trace.unwrap_or(SpanContext::NONE));
        let _current = context.attach();
        tracing::warn!(
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            reason = cause.class,
            trace_id,
            count,
            "dead-lettered: {}",
            cause.message
        );
    }

    /// Those that came within a second of the last line, once it is over or the lane ends.
    pub fn tell_rest(&mut self, topic: &str, ends: bool) {
        if self.untold > 0 && (ends || self.is_due()) {
            let count = self.told();
            tracing::warn!(topic, count, "dead-lettered since then");
        }
    }

    fn is_due(&self) -> bool {
        self.told_at.is_none_or(|told| told.elapsed() >= TOLD_EVERY)
    }

    fn told(&mut self) -> u64 {
        self.told_at = Some(Instant::now());
        std::mem::take(&mut self.untold)
    }
}
