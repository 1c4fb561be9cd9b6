//! Where the handler's store, not Kafka, says where a partition goes on: a lane asks it about each partition that is new,
//! goes on polling until the answer is there, then sends the partition to that offset and opens its gate.

use std::time::{Duration, Instant};

use rdkafka::Offset;

use super::{End, Lane, commit::STORE_ENDS_WITHIN};
use crate::{Backoff, Failure, Handler, batch::Batch, consumer::LaneConsumer, gates::Closed};

/// Waits between questions to a store that fails.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// Waits between seeks that the client does not begin: mostly it does not read the partition yet, for some milliseconds.
const SEEK_AGAIN_FIRST: Duration = Duration::from_millis(5);
const SEEK_AGAIN_MAX: Duration = Duration::from_millis(500);
/// Failed questions before the log calls it a trouble: the first ones are part of any restart of a database.
const QUIET_FAILURES: u32 = 2;

/// The question to the store.
pub(super) struct Claims {
    /// What it is asked about now; empty where it is not.
    asked: Vec<Closed>,
    backoff: Backoff,
    seeks: Backoff,
    again_at: Instant,
}

impl Default for Claims {
    fn default() -> Self {
        Claims {
            asked: Vec::new(),
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            seeks: Backoff::new(SEEK_AGAIN_FIRST, SEEK_AGAIN_MAX),
            again_at: Instant::now(),
        }
    }
}

impl<H: Handler> Lane<H> {
    /// Opens the gates of which the store has said where they go on; asks it about others. Does not wait.
    pub(super) fn claim(
        &mut self,
        consumer: &LaneConsumer,
        claims: &mut Claims,
    ) -> Result<(), End> {
        let Some(store) = self.handler.store() else {
            return Ok(());
        };
        if claims.asked.is_empty() {
            if Instant::now() < claims.again_at {
                return Ok(());
            }
            claims.asked = consumer.closed();
            if claims.asked.is_empty() {
                return Ok(());
            }
        }
        let partitions: Vec<i32> = claims.asked.iter().map(|gate| gate.partition).collect();
        let Some(answer) = store.claim(&partitions) else {
            consumer.is_asking.set(true);
            return Ok(());
        };
        consumer.is_asking.set(false);
        let asked = std::mem::take(&mut claims.asked);
        match answer {
            Ok(claimed) => {
                claims.backoff.reset();
                let mut all_open = true;
                for gate in asked {
                    let of = |(partition, _): &&(i32, Option<i64>)| *partition == gate.partition;
                    if let Some((_, next)) = claimed.iter().find(of) {
                        all_open &= self.open(consumer, gate, *next)?;
                    }
                }
                match all_open {
                    true => claims.seeks.reset(),
                    false => {
                        consumer.is_asking.set(true);
                        claims.again_at = Instant::now() + claims.seeks.next_wait();
                    }
                }
                Ok(())
            }
            Err(Failure::Retry(cause)) => {
                let wait = claims.backoff.next_wait();
                claims.again_at = Instant::now() + wait;
                match claims.backoff.attempts() {
                    ..=QUIET_FAILURES => {
                        tracing::info!(lane = self.task, %cause, ?partitions, ?wait, "partitions wait: where they go on is not known");
                    }
                    _ => {
                        tracing::warn!(lane = self.task, %cause, ?partitions, ?wait, "partitions wait: where they go on is not known");
                    }
                }
                Ok(())
            }
            Err(Failure::DeadLetter(cause) | Failure::Fatal(cause)) => Err(End::Fatal(cause)),
        }
    }

    /// Sends a partition to where it goes on and lets its records come. False where it is to be claimed again: the client
    /// does not read it yet, or it is not stored yet that its log was cut off.
    fn open(
        &mut self,
        consumer: &LaneConsumer,
        gate: Closed,
        next: Option<i64>,
    ) -> Result<bool, End> {
        let at = match next {
            Some(next) => match self.reachable(consumer, gate.partition, next)? {
                Some(next) => Offset::Offset(next),
                None => return Ok(false),
            },
            None => Offset::Beginning,
        };
        match consumer.open(gate, at) {
            Ok(true) => {
                let partition = gate.partition;
                tracing::debug!(lane = self.task, partition, offset = ?at, "partition goes on");
                // Kafka may not have heard of what is stored, and nothing else may come.
                if let Offset::Offset(next) = at
                    && let Ok(offsets) = consumer.offsets(&[(partition, next)])
                {
                    self.keep_offsets(consumer, &offsets);
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(lane = self.task, partition = gate.partition, %error, "not sought yet");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where reading goes on of what is stored; None where that is to be asked again. A log that ends before the stored
    /// offset was cut off (an unclean election, a lost disk), and may have grown again since: what is there is read
    /// from its beginning, in a new generation, and the ids stored already are told apart by the store.
    fn reachable(
        &mut self,
        consumer: &LaneConsumer,
        partition: i32,
        stored: i64,
    ) -> Result<Option<i64>, End> {
        // Where it does not answer, the client will not read there either; and what it reads is checked.
        let Some((begin, end)) = consumer.log_range(partition) else {
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
            "the log ends before what was read of it: records were lost in Kafka; what is there is read from its beginning"
        );
        let lost = stored - end;
        let is_told = self.cut(consumer, partition, begin, lost)?;
        Ok(is_told.then_some(begin))
    }

    /// Tells the store that a log lost records (`lost`, at least) and goes on at an offset before what is stored. False where
    /// that is to be tried again.
    fn cut(
        &mut self,
        consumer: &LaneConsumer,
        partition: i32,
        next: i64,
        lost: i64,
    ) -> Result<bool, End> {
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
            Err(Failure::Retry(cause)) => {
                tracing::warn!(lane = self.task, %cause, partition, "the cut is not stored yet");
                Ok(false)
            }
            Err(Failure::DeadLetter(cause)) => Err(End::restart(cause)),
            Err(Failure::Fatal(cause)) => Err(End::Fatal(cause)),
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
    ) -> Result<(), End> {
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
            let is_told = match rewritten.map_err(End::restart)? {
                None => false,
                Some(true) => {
                    tracing::error!(
                        topic = self.config.input,
                        partition,
                        offset = range.first,
                        stored = next,
                        "the log was cut before what was read of it and has grown again: records were lost in Kafka; going on where it was cut"
                    );
                    self.cut(consumer, partition, range.first, next - range.first)?
                }
                Some(false) => {
                    tracing::warn!(
                        topic = self.config.input,
                        partition,
                        offset = range.first,
                        stored = next,
                        "the client went back before what is stored; it is sent there again"
                    );
                    true
                }
            };
            if !is_told {
                // It comes again and is judged again: behind what is stored it would be passed over.
                batch.forget(&[partition]);
                let moved = consumer.move_to(partition, range.first);
                moved.map_err(End::restart)?;
                self.stop.sleep(AGAIN_FIRST);
                continue;
            }
            batch.forget(&[partition]);
            consumer.close(partition);
        }
        Ok(())
    }
}
