//! How a lane gathers a batch: it polls until the batch is full or nothing more waits, and takes note of rebalances.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;

use super::{Lane, session::SessionEnd};
use crate::{Handler, batch::Batch, consumer::LaneConsumer, unreadable::is_suspect};

/// A busy lane rests for this many times the usual duration of its commits before it commits again.
const LINGER_PER_COMMIT: u32 = 2;
/// And for this long at least: batches of one record would keep a core busy.
const LINGER_MIN: Duration = Duration::from_millis(2);
/// After a poll that failed.
const POLL_FAILED: Duration = Duration::from_millis(50);
/// Between two lines of the log about polls that fail: while Kafka is unreachable they do twenty times a second.
const POLL_FAILED_LOG_EVERY: Duration = Duration::from_secs(10);

impl<H: Handler> Lane<H> {
    /// Polls until the batch is full or the queue is dry; waits for a first record, not for a second,
    /// unless the lane committed just now.
    pub(super) fn poll_batch<'c>(
        &mut self,
        consumer: &'c LaneConsumer,
        batch: &mut Batch<'c>,
    ) -> Result<(), SessionEnd> {
        // A batch that is tried again has its records.
        let mut wait = if batch.is_empty() {
            consumer.poll_wait()
        } else {
            Duration::ZERO
        };
        let mut lingered = false;
        loop {
            let polled = consumer.client.poll(wait);
            // First: what was polled came after the rebalance, and may be of a partition that went and came back.
            self.after_rebalance(consumer, batch)?;
            match polled {
                Some(Ok(message)) => {
                    batch.push(message);
                    if self.is_full(batch) {
                        break;
                    }
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    // What came before it is settled first: what comes may lie behind a batch that cannot be read.
                    if self.poll_error(consumer, &error)? {
                        break;
                    }
                }
                None => {
                    if batch.is_empty() {
                        break;
                    }
                    let linger = self.linger().saturating_sub(self.last_commit.elapsed());
                    if lingered || linger.is_zero() {
                        break;
                    }
                    // Commits of a busy lane are at least this far apart; records gather meanwhile.
                    self.stop.sleep(linger);
                    lingered = true;
                }
            }
        }
        batch.polled_at = Instant::now();
        Ok(())
    }

    /// In proportion to what a commit takes now: where brokers or cores are busy, fewer and larger
    /// transactions answer sooner than many small ones that wait for each other.
    fn linger(&self) -> Duration {
        (self.commit_takes * LINGER_PER_COMMIT)
            .max(LINGER_MIN)
            .min(self.config.limits.linger_max)
    }

    fn is_full(&self, batch: &Batch<'_>) -> bool {
        let limits = &self.config.limits;
        let bytes_max = limits.batch_bytes_max.min(self.config.lane_buffer_bytes());
        batch.len() >= limits.batch_records_max || batch.bytes >= bytes_max
    }

    /// Waits while the group stays served: rebalances take their partitions away. Until the batch is settled
    /// nothing new comes but what the client had handed out already.
    pub(super) fn wait<'c>(
        &mut self,
        consumer: &'c LaneConsumer,
        batch: &mut Batch<'c>,
        wait: Duration,
    ) -> Result<(), SessionEnd> {
        consumer.hold();
        let until = Instant::now() + wait;
        loop {
            self.status.progress();
            consumer.serve_group();
            let left = until.saturating_duration_since(Instant::now());
            let polled = consumer.client.poll(left.min(consumer.poll_wait()));
            self.after_rebalance(consumer, batch)?;
            match polled {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => {
                    self.poll_error(consumer, &error)?;
                }
                None => {}
            }
            if left.is_zero() || self.stop.requested() || batch.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// True where the error may be about a batch that cannot be read.
    fn poll_error(
        &mut self,
        consumer: &LaneConsumer,
        error: &KafkaError,
    ) -> Result<bool, SessionEnd> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(SessionEnd::restart(error)),
            error if is_suspect(error) => {
                self.note_read_error(consumer, error)?;
                if !self.read_errors.is_due() {
                    // It comes again and again until it is searched for.
                    self.stop.sleep(POLL_FAILED);
                }
                Ok(true)
            }
            _ => {
                let logged_at = self.poll_failed_at;
                if logged_at.is_none_or(|at| at.elapsed() >= POLL_FAILED_LOG_EVERY) {
                    self.poll_failed_at = Some(Instant::now());
                    tracing::warn!(lane = self.task, %error, "poll failed; the client retries");
                } else {
                    tracing::debug!(lane = self.task, %error, "poll failed");
                }
                self.stop.sleep(POLL_FAILED);
                Ok(false)
            }
        }
    }

    pub(super) fn after_rebalance(
        &mut self,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<(), SessionEnd> {
        if let Some(revoked) = consumer.take_revoked() {
            batch.revoke(&revoked);
            // One that went and came back was given up all the same: another may have held it meanwhile.
            let gone: Vec<i32> = revoked
                .into_iter()
                .filter(|partition| self.held.remove(partition))
                .collect();
            self.release(&gone);
            let taken: Vec<i32> = consumer
                .assigned()
                .into_iter()
                .filter(|partition| self.held.insert(*partition))
                .collect();
            if !taken.is_empty() {
                self.handler.assigned(&taken);
            }
        }
        match consumer.take_failure() {
            Some(reason) => Err(SessionEnd::restart(format!(
                "partitions could not be assigned: {reason}"
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn release(&mut self, partitions: &[i32]) {
        self.restores.given_up(partitions);
        if !partitions.is_empty() {
            self.handler.revoked(partitions);
        }
    }
}
