//! What happens to a newly assigned partition before its first record comes, where the handler's store keeps its offset or
//! the handler keeps state: the lane asks for the offset, has the state restored, keeps polling meanwhile, then seeks to the
//! offset and opens the partition's gate.

use std::time::{Duration, Instant};

use rdkafka::Offset;

use super::{
    Lane,
    commit::STORE_ENDS_WITHIN,
    opening::{AGAIN_FIRST, Claims, OpeningGate},
    session::SessionEnd,
};
use crate::{
    Backoff, CommitMode, Handler, Restore,
    batch::Batch,
    consumer::{LaneConsumer, StartOffset},
    gates::ClosedGate,
    handler,
};

/// Failed questions before the log calls it a trouble: the first ones are part of any restart of a database.
const QUIET_FAILURES: u32 = 2;

const UNKNOWN: &str = "partitions not started yet: their start offsets could not be read; retrying";

const UNRESTORED: &str = "partitions not started yet: their state could not be restored; retrying";

/// What the group has committed. Stable: an offset that is being committed by a transaction is waited for.
fn committed(
    consumer: &LaneConsumer,
    partitions: &[i32],
    within: Duration,
) -> Result<Vec<StartOffset>, handler::Error> {
    let committed = consumer.committed_offsets_within(partitions, within);
    committed.map_err(|error| handler::Error::retry("kafka", error.to_string()))
}

impl<H: Handler> Lane<H> {
    /// Opens the gates of partitions whose start offset is known and whose state is restored; asks about the others.
    /// A store is not waited for; the group's offsets are, for half a second.
    pub(super) fn claim(
        &mut self,
        consumer: &LaneConsumer,
        claims: &mut Claims,
    ) -> Result<(), SessionEnd> {
        if self.config.commit != CommitMode::Store && !self.handler.keeps_state() {
            return Ok(());
        }
        self.request_offsets(consumer, claims)?;
        self.restore(consumer, claims)?;
        let (held_up, are_done) = (claims.held_up(), claims.are_done());
        self.end_abandoned(&mut claims.abandoned, &held_up, are_done);
        let asks = !claims.asked.is_empty() || !claims.unanswered.is_empty();
        let waits = asks || !claims.opening.is_empty() || claims.seek_pending;
        consumer.is_claiming.set(waits);
        if !waits && consumer.closed().is_empty() {
            consumer.report_restored();
        }
        Ok(())
    }

    /// Asks for the start offsets of partitions whose gates are closed.
    fn request_offsets(
        &mut self,
        consumer: &LaneConsumer,
        claims: &mut Claims,
    ) -> Result<(), SessionEnd> {
        if claims.asked.is_empty() {
            if Instant::now() < claims.again_at {
                return Ok(());
            }
            claims.seek_pending = false;
            claims.asked = consumer.closed_unclaimed();
            let known = |gate: &ClosedGate| claims.opening.iter().any(|known| known.gate == *gate);
            claims.asked.retain(|gate| !known(gate));
            if claims.asked.is_empty() {
                claims.unanswered.clear();
                return Ok(());
            }
        }
        let partitions: Vec<i32> = claims.asked.iter().map(|gate| gate.partition).collect();
        let answer = match self.handler.store() {
            Some(store) => store.claim(&partitions).map(|claimed| {
                // What is stored has no epoch of the log.
                let known = |(partition, next)| (partition, next, None);
                claimed.map(|all| all.into_iter().map(known).collect())
            }),
            None => Some(committed(consumer, &partitions, claims.patience())),
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        let asked = std::mem::take(&mut claims.asked);
        match answer {
            Ok(claimed) => {
                claims.backoff.reset();
                claims.unanswered.clear();
                for gate in asked {
                    let found = claimed.iter().find(|it| it.0 == gate.partition);
                    let opening = found.map(|it| OpeningGate::new(gate, (it.1, it.2)));
                    claims.opening.extend(opening);
                }
                Ok(())
            }
            Err(failure) => {
                let wait = self.retry_wait(&mut claims.backoff, failure, &partitions, UNKNOWN)?;
                claims.again_at = Instant::now() + wait;
                claims.unanswered = partitions;
                Ok(())
            }
        }
    }

    /// Has the state of partitions restored, and opens the gates of those that have it.
    fn restore(&mut self, consumer: &LaneConsumer, claims: &mut Claims) -> Result<(), SessionEnd> {
        if claims.opening.is_empty() {
            consumer.is_restoring.set(false);
            return Ok(());
        }
        let closed = consumer.closed();
        let now = Instant::now();
        let mut advances = false;
        for mut opening in std::mem::take(&mut claims.opening) {
            let partition = opening.gate.partition;
            // It was given up meanwhile.
            if !closed.contains(&opening.gate) {
                self.restores.given_up(&[partition]);
                continue;
            }
            if !opening.is_restored && now >= opening.restore_at {
                match self.handler.restore(partition, opening.next) {
                    Ok(Restore::Done) => {
                        if self.handler.keeps_state() {
                            self.restores.done(partition);
                        }
                        opening.is_restored = true;
                    }
                    Ok(Restore::Pending { done, total }) => {
                        let moves = self.restores.pending(partition, done, total);
                        advances |= moves;
                        // Before it is known how much there is, nothing is read: no transaction holds that up.
                        if moves || total == 0 {
                            opening.moved_at = now;
                        }
                    }
                    Err(failure) => {
                        let backoff = &mut opening.backoff;
                        let wait = self.retry_wait(backoff, failure, &[partition], UNRESTORED)?;
                        opening.restore_at = now + wait;
                    }
                }
            }
            if !opening.is_restored || now < claims.seek_at {
                claims.opening.push(opening);
            } else if self.open(consumer, &opening)? {
                claims.seeks.reset();
            } else {
                let wait = claims.seeks.next_wait();
                match self.config.commit {
                    // What is stored may have changed: it is claimed again.
                    CommitMode::Store => {
                        claims.seek_pending = true;
                        claims.again_at = claims.again_at.max(now + wait);
                    }
                    CommitMode::Kafka | CommitMode::AtLeastOnce => {
                        claims.seek_at = now + wait;
                        claims.opening.push(opening);
                    }
                }
            }
        }
        consumer.is_restoring.set(advances);
        Ok(())
    }

    /// How long until these partitions are looked at again.
    fn retry_wait(
        &self,
        backoff: &mut Backoff,
        failure: handler::Error,
        partitions: &[i32],
        message: &'static str,
    ) -> Result<Duration, SessionEnd> {
        let cause = match failure {
            handler::Error::Retry(cause) | handler::Error::Restart(cause) => cause,
            handler::Error::DeadLetter(cause) | handler::Error::Fatal(cause) => {
                return Err(SessionEnd::Fatal(cause));
            }
        };
        let wait = backoff.next_wait();
        let (lane, wait_ms) = (&self.task, wait.as_millis() as u64);
        match backoff.attempts() {
            ..=QUIET_FAILURES => tracing::info!(lane, %cause, ?partitions, wait_ms, "{message}"),
            _ => tracing::warn!(lane, %cause, ?partitions, wait_ms, "{message}"),
        }
        Ok(wait)
    }

    /// Seeks to a partition's start offset and lets its records come. False where it is to be claimed again: the client does
    /// not fetch it yet, or the truncation of its log is not stored yet.
    fn open(&mut self, consumer: &LaneConsumer, opening: &OpeningGate) -> Result<bool, SessionEnd> {
        let &OpeningGate {
            gate, next, epoch, ..
        } = opening;
        let at = match next {
            // Whether the log has it is found out by the first record that comes.
            Some(next) if self.config.commit != CommitMode::Store => Offset::Offset(next),
            Some(next) => match self.start_within_log(consumer, gate.partition, next)? {
                Some(next) => Offset::Offset(next),
                None => return Ok(false),
            },
            None => Offset::Beginning,
        };
        match consumer.open(gate, at, epoch) {
            Ok(true) => {
                let partition = gate.partition;
                tracing::debug!(lane = self.task, partition, offset = ?at, "partition started");
                // Kafka may not have heard of what is stored, and nothing else may come.
                if self.config.commit == CommitMode::Store
                    && let Offset::Offset(next) = at
                    && let Ok(offsets) = consumer.offset_list(&[(partition, next)])
                {
                    self.store_offsets(consumer, &offsets);
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(lane = self.task, partition = gate.partition, %error, "seek not accepted yet; retrying");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The offset to read from, given the stored one; None where that is to be asked again. A log that ends before the stored
    /// offset was truncated (an unclean election, a lost disk), and may have grown again since: what is there is read
    /// from its beginning, in a new generation, and the ids stored already are told apart by the store.
    fn start_within_log(
        &mut self,
        consumer: &LaneConsumer,
        partition: i32,
        stored: i64,
    ) -> Result<Option<i64>, SessionEnd> {
        // Where it does not answer, the client will not read there either; and what it reads is checked.
        let Some((begin, end)) = consumer.watermarks(partition) else {
            return Ok(Some(stored));
        };
        if stored <= end {
            return Ok(Some(stored));
        }
        tracing::error!(
            topic = self.config.input,
            partition,
            stored,
            end,
            begin,
            "the log ends before the stored offset: Kafka lost records; reading the partition from its beginning"
        );
        let lost = stored - end;
        let is_stored = self.report_truncation(consumer, partition, begin, lost)?;
        Ok(is_stored.then_some(begin))
    }

    /// Tells the store that a log lost records (`lost`, at least) and goes on at an offset before what is stored. False where
    /// that is to be tried again.
    fn report_truncation(
        &mut self,
        consumer: &LaneConsumer,
        partition: i32,
        next: i64,
        lost: i64,
    ) -> Result<bool, SessionEnd> {
        let stop = &self.stop;
        let give_up = || stop.requested_for(STORE_ENDS_WITHIN);
        let Some(store) = self.handler.store() else {
            return Ok(false);
        };
        match store.truncated(partition, next, &give_up) {
            Ok(()) => {
                consumer.count_lost(lost);
                Ok(true)
            }
            Err(handler::Error::Retry(cause)) => {
                tracing::warn!(lane = self.task, %cause, partition, "the truncation of the log is not stored yet; retrying");
                Ok(false)
            }
            Err(handler::Error::DeadLetter(cause) | handler::Error::Restart(cause)) => {
                Err(SessionEnd::restart(cause))
            }
            Err(handler::Error::Fatal(cause)) => Err(SessionEnd::Fatal(cause)),
        }
    }

    /// Takes from the batch what came from before a gate was opened, and what lies before the offset that the store has:
    /// the client can go back to a partition's beginning (`auto.offset.reset`), and committing that would take the
    /// offset back. Then the gate is opened anew; behind what is stored, or where the log was cut off and has grown beyond it
    /// at once, where it was cut. To be called before [`Lane::claim`].
    pub(super) fn check_claimed(
        &mut self,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<(), SessionEnd> {
        if batch.is_empty() || self.handler.store().is_none() {
            return Ok(());
        }
        for range in batch.offset_ranges() {
            let partition = range.partition;
            if consumer.is_closed(partition) {
                batch.forget(&[partition]);
                continue;
            }
            let store = self.handler.store();
            let Some(next) = store.and_then(|store| store.next(partition)) else {
                continue;
            };
            if range.first >= next {
                continue;
            }
            let epoch = batch.first_epoch(partition);
            let rewritten = consumer.is_rewritten(partition, range.first, epoch);
            let is_stored = match rewritten.map_err(SessionEnd::restart)? {
                None => false,
                Some(true) => {
                    tracing::error!(
                        topic = self.config.input,
                        partition,
                        offset = range.first,
                        stored = next,
                        "the log was truncated before the stored offset and has grown again: Kafka lost records; continuing where it was truncated"
                    );
                    self.report_truncation(consumer, partition, range.first, next - range.first)?
                }
                Some(false) => {
                    tracing::warn!(
                        topic = self.config.input,
                        partition,
                        offset = range.first,
                        stored = next,
                        "the client went back before the stored offset; seeking to it again"
                    );
                    true
                }
            };
            if !is_stored {
                // It comes again and is judged again: behind what is stored it would be passed over.
                batch.forget(&[partition]);
                let moved = consumer.seek_to(partition, range.first);
                moved.map_err(SessionEnd::restart)?;
                self.stop.sleep(AGAIN_FIRST);
                continue;
            }
            batch.forget(&[partition]);
            consumer.close(partition);
        }
        Ok(())
    }
}
