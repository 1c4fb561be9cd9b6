//! What the log says of a lane's dead letters: of the first one why, of the others how many, at most once a
//! second. A storm of them is counted by the metrics.

use std::time::{Duration, Instant};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};

use crate::{Cause, Incoming};

const LOG_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct DeadLetterLog {
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl DeadLetterLog {
    /// `count` more, the first of them this record.
    pub fn log(
        &mut self,
        count: u64,
        record: &Incoming<'_>,
        cause: &Cause,
        trace: Option<SpanContext>,
    ) {
        self.unlogged += count;
        if !self.is_due() {
            return;
        }
        let count = self.take_unlogged();
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
    pub fn log_rest(&mut self, topic: &str, ends: bool) {
        if self.unlogged > 0 && (ends || self.is_due()) {
            let count = self.take_unlogged();
            tracing::warn!(topic, count, "dead-lettered since then");
        }
    }

    fn is_due(&self) -> bool {
        self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY)
    }

    fn take_unlogged(&mut self) -> u64 {
        self.logged_at = Some(Instant::now());
        std::mem::take(&mut self.unlogged)
    }
}
