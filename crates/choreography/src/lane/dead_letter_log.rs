//! What the log says of a lane's dead letters: why the first one became one, and how many there were for each reason, at most
//! once a second. A storm of them is counted by the metrics.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};

use crate::{Cause, Incoming, decisions::add_count};

const LOG_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct DeadLetterLog {
    /// By reason, since the last line.
    unlogged: Vec<(&'static str, u64)>,
    logged_at: Option<Instant>,
}

impl DeadLetterLog {
    /// `counts` more, by reason; the first of them is this record.
    pub fn log(
        &mut self,
        counts: &[(&'static str, u64)],
        record: &Incoming<'_>,
        cause: &Cause,
        trace: Option<SpanContext>,
    ) {
        for (reason, count) in counts {
            add_count(&mut self.unlogged, reason, *count);
        }
        if !self.is_due() {
            return;
        }
        let (count, by_reason) = self.take_unlogged();
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
            by_reason,
            "dead-lettered: {}",
            cause.message
        );
    }

    /// Those that came within a second of the last line, once it is over or the lane ends.
    pub fn log_rest(&mut self, topic: &str, ends: bool) {
        if !self.unlogged.is_empty() && (ends || self.is_due()) {
            let (count, by_reason) = self.take_unlogged();
            tracing::warn!(
                topic,
                count,
                by_reason,
                "more dead letters since the last line"
            );
        }
    }

    fn is_due(&self) -> bool {
        self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY)
    }

    /// How many there are in all, and of each reason: `not_json 3, out_of_range 14`.
    fn take_unlogged(&mut self) -> (u64, String) {
        self.logged_at = Some(Instant::now());
        let mut by_reason = String::new();
        for (reason, count) in &self.unlogged {
            let separator = if by_reason.is_empty() { "" } else { ", " };
            let _ = write!(by_reason, "{separator}{reason} {count}");
        }
        let count = self.unlogged.drain(..).map(|(_, count)| count).sum();
        (count, by_reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_of_several_reasons_are_counted_apart() {
        let mut log = DeadLetterLog::default();
        for (reason, count) in [("out_of_range", 10), ("not_json", 3), ("out_of_range", 4)] {
            add_count(&mut log.unlogged, reason, count);
        }
        let line = log.take_unlogged();
        assert_eq!(line, (17, "out_of_range 14, not_json 3".to_owned()));
        assert_eq!(log.take_unlogged(), (0, String::new()));
    }
}
