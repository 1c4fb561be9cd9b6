//! What a lane does with a batch: the handler decides it, and the decisions are made durable, or it is handled again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::TraceId;
use quadrille_telemetry::metrics::Committed;
use rdkafka::{Message, message::BorrowedMessage};

use super::{Lane, ages::Ages, commit::CommitError, session::SessionEnd};
use crate::{
    Backoff, CommitMode, Handler, Headers, Incoming, batch::Batch, consumer::LaneConsumer,
    decisions::Undecided, producer::LaneProducer,
};

/// Commits over which that duration is smoothed.
const SMOOTHING: u32 = 8;
/// Consecutive failed commits of one batch before the lane closes its clients and begins again.
const FAILED_COMMITS_MAX: u32 = 8;
const NOT_COMMITTED: &str = "batch not committed; it is handled again";
const TRUNCATED: &str = "sent dead letters without the original bytes: the originals are too large for the dead-letter topic, or it refuses them";

/// What became of a batch.
pub(super) enum BatchResult {
    Committed,
    /// Nothing of it is visible; to be handled again after a wait.
    Retry(Duration),
}

impl<H: Handler> Lane<H> {
    /// Decides the batch, then makes the decisions durable.
    pub(super) fn process(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<BatchResult, SessionEnd> {
        let started = Instant::now();
        let config = Arc::clone(&self.config);
        let topic = config.input.as_str();
        let incoming: Vec<Incoming<'_>> = batch
            .messages
            .iter()
            .map(|message| incoming(message, topic, batch.polled_at))
            .collect();
        self.spans
            .begin_batch(&incoming, batch.first_at, batch.polled_at);
        let decided = self
            .decisions
            .decide(&mut self.handler, &incoming, self.known.failures());
        if let Err(undecided) = decided {
            let (Undecided::Fatal(cause) | Undecided::Restart(cause)) = &undecided;
            self.spans
                .end_failed(&incoming, cause.class, &cause.message);
            self.handler.aborted();
            return Err(undecided.into());
        }
        self.spans
            .failures(&incoming, batch.polled_at, self.decisions.failures());
        let attempt = self.attempts.attempts() + 1;
        let last_attempt = attempt >= self.config.limits.attempts_max;
        if self.decisions.wants_retry() && !last_attempt {
            self.metrics.retries.inc();
            let reason = "a record of the batch asks for a retry";
            self.spans.end_failed(&incoming, "retry", reason);
            self.handler.aborted();
            return Ok(BatchResult::Retry(self.attempts.next_wait()));
        }
        let process = started.elapsed();
        let trace = self.spans.exemplar();
        let result = self.send_and_commit(producer, consumer, &incoming, batch, attempt);
        match result {
            Ok(sent) => {
                let commit = started.elapsed().saturating_sub(process);
                self.commit_takes = (self.commit_takes * (SMOOTHING - 1) + commit) / SMOOTHING;
                self.report(&incoming, batch.bytes, sent, (process, commit), trace);
                self.handler.committed(&self.delivered);
                Ok(BatchResult::Committed)
            }
            Err(
                CommitError::Aborted(reason)
                | CommitError::InDoubt(reason)
                | CommitError::TimedOut(reason),
            ) => {
                self.spans.end_failed(&incoming, "aborted", &reason);
                self.handler.aborted();
                self.retry_later(reason)
            }
            Err(CommitError::End(end)) => {
                let reason = "the lane begins again";
                self.spans.end_failed(&incoming, "lane_restart", reason);
                self.handler.aborted();
                Err(end)
            }
        }
    }

    /// Tells metrics and log of a batch just committed.
    fn report(
        &mut self,
        incoming: &[Incoming<'_>],
        bytes: usize,
        sent: usize,
        (process, commit): (Duration, Duration),
        trace: Option<TraceId>,
    ) {
        let dead = self.decisions.count(&self.metrics);
        if self.extras_dropped > 0 {
            self.metrics
                .extras_dropped("too_large", self.extras_dropped);
        }
        if self.letters_truncated > 0 {
            let count = self.letters_truncated;
            self.metrics.letters_truncated.inc_by(count);
            tracing::error!(topic = self.dlq_topic, count, "{TRUNCATED}");
        }
        if let Some((index, cause)) = self.decisions.failures().next() {
            let trace = self.spans.context(index);
            self.dead_letters.log(&dead, &incoming[index], cause, trace);
        }
        let ages = Ages::of(incoming, self.config.latency_objective);
        self.metrics.committed(&Committed {
            records: incoming.len(),
            bytes,
            sent,
            process,
            commit,
            age: ages.oldest,
            late: ages.late,
            trace,
        });
    }

    /// The batch is to be handled again; where that helps no more, the lane begins again.
    pub(super) fn retry_later(&mut self, reason: String) -> Result<BatchResult, SessionEnd> {
        self.metrics.aborts.inc();
        self.failed_commits += 1;
        if self.failed_commits >= FAILED_COMMITS_MAX && self.config.commit != CommitMode::Store {
            return Err(SessionEnd::restart(reason));
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let wait = (0..self.failed_commits.min(10))
            .map(|_| backoff.next_wait())
            .last()
            .unwrap_or_default();
        let wait_ms = wait.as_millis() as u64;
        // Once is part of a rebalance.
        match self.failed_commits {
            1 => tracing::info!(lane = self.task, reason, wait_ms, "{NOT_COMMITTED}"),
            _ => tracing::warn!(lane = self.task, reason, wait_ms, "{NOT_COMMITTED}"),
        }
        Ok(BatchResult::Retry(wait))
    }
}

fn incoming<'a>(
    message: &'a BorrowedMessage<'_>,
    topic: &'a str,
    polled_at: Instant,
) -> Incoming<'a> {
    Incoming {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        payload: message.payload(),
        timestamp_ms: message.timestamp().to_millis(),
        headers: Headers(message.headers()),
        polled_at,
    }
}
