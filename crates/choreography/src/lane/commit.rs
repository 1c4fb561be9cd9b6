//! How a lane makes a decided batch durable: what it sends, and the offsets with it, in one transaction;
//! or, at least once, the store's own transaction and offsets that follow.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::KafkaError,
};

use super::{Lane, session::SessionEnd};
use crate::{
    Backoff, Cause, Handler, Incoming, OffsetRange,
    batch::{Batch, Position},
    consumer::LaneConsumer,
    handler, native,
    offsets::Offsets,
    producer::{LaneProducer, TRANSACTION_TIMEOUT, Undelivered},
    spans::Settling,
    transaction::{self, NotCommitted},
};

/// How often offsets are committed without a transaction: bounds what a killed process repeats.
const OFFSETS_EVERY: Duration = Duration::from_millis(1000);

/// How long a lane that holds its partitions waits for another producer, and then for the group's offsets; beyond it the
/// lane begins again, without them.
const REPLACED_WITHIN: Duration = TRANSACTION_TIMEOUT;

/// How long leaving the group may take, and the last commit of offsets before it: some milliseconds where Kafka answers.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);
const NOT_LEFT: &str = "Kafka does not answer: the lane could not leave its group; the partitions are reassigned when its session times out";

const NO_MEMBER: &str = "the group has removed this member";

const DOUBT_ENDED: &str =
    "Kafka did not say whether the batch was committed; the group's committed offsets decide";

/// How long a store may still take once the service was asked to stop: most commits in hand end by then, and a database
/// that does not answer does not hold up the end. What was not committed is read again.
pub(super) const STORE_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Why a transaction, or its equivalent, did not commit.
pub(super) enum CommitError {
    /// Aborted; the batch may be tried again.
    Aborted(String),
    /// Kafka did not say whether it committed; the producer is unusable.
    InDoubt(String),
    /// Kafka ended the transaction by its timeout, as it seems; the producer is unusable.
    TimedOut(String),
    End(SessionEnd),
}

impl<H: Handler> Lane<H> {
    /// Leaves the group for good; what was committed without waiting is confirmed before. On a thread of its own: the
    /// client waits for a broker that is silent, for `socket.timeout.ms` (a minute) and more, and the service is to end.
    pub(super) fn leave(&self, consumer: LaneConsumer) {
        let (left, is_left) = mpsc::channel();
        let commits_later = !self.config.commit.is_transactional();
        let leaving = thread::Builder::new().name(format!("leave-{}", self.index));
        let spawned = leaving.spawn(move || {
            if commits_later
                && let Err(error) = consumer.client.commit_consumer_state(CommitMode::Sync)
            {
                // Nothing stored since the last commit is the usual reason.
                tracing::debug!(%error, "no offsets to commit");
            }
            drop(consumer);
            // Nobody may wait any more.
            let _ = left.send(());
        });
        if let Err(error) = spawned {
            // The consumer went with the thread that did not begin.
            tracing::debug!(%error, "no thread to leave the group on");
        } else if is_left.recv_timeout(LEAVES_WITHIN).is_err()
            // It holds a joining member for 3 s (librdkafka 2.12.1, rdkafka_mock_cgrp.c), and ends with the process anyway.
            && !self.config.cluster.is_embedded()
        {
            let lane = &self.task;
            tracing::warn!(lane, "{NOT_LEFT}");
        }
    }

    /// Sends all, then commits; returns how many records were sent.
    pub(super) fn send_and_commit(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        incoming: &[Incoming<'_>],
        batch: &Batch<'_>,
        attempt: u32,
    ) -> Result<usize, CommitError> {
        let transactional = self.config.commit.is_transactional();
        self.replace_producer(producer).map_err(CommitError::End)?;
        if transactional {
            begin(producer)?;
        }
        producer.forget_ends();
        let sent = self.send_all(producer, incoming, attempt);
        let sent = match sent.and_then(|sent| confirmed(producer).map(|()| sent)) {
            Ok(sent) => sent,
            Err(undelivered) => {
                let reason = producer.failed();
                let reason = reason.unwrap_or_else(|| undelivered.reason.clone());
                let unsettled = match transactional {
                    true => self.abort(producer, reason),
                    false => {
                        producer.wait_reported();
                        CommitError::Aborted(reason)
                    }
                };
                self.note_refused(&producer.refused(), incoming);
                return Err(match undelivered.is_bug {
                    true => CommitError::End(SessionEnd::Fatal(Cause {
                        class: "handler",
                        message: undelivered.reason,
                    })),
                    false => unsettled,
                });
            }
        };
        // From this producer: it may be another one that says whether they are committed.
        producer.copy_ends(self.delivered.slots());
        self.spans.delivered();
        let settling = Instant::now();
        let mut store_span = None;
        let ranges = batch.offset_ranges();
        let next: Vec<(i32, i64)> = ranges.iter().map(|s| (s.partition, s.next)).collect();
        let mut offsets = consumer
            .offset_list(&next)
            .map_err(|e| CommitError::End(SessionEnd::restart(e)))?;
        // Of the records themselves: the client forgets its position's where it finds the log cut, at any time.
        native::set_epochs_by(&mut offsets, |partition| batch.last_epoch(partition));
        if transactional {
            self.commit_or_resolve(producer, consumer, &offsets)?;
        } else {
            if let Some(store) = self.handler.store() {
                let stored = store.commit(&ranges, &|| self.stop.requested_for(STORE_ENDS_WITHIN));
                store_span = store.describe();
                if let Err(failure) = stored {
                    self.decisions
                        .note_letters(incoming, &mut self.known.letters_confirmed);
                    return Err(store_failure(failure));
                }
            }
            self.store_offsets(consumer, &offsets);
        }
        let settling = Settling {
            start: settling,
            end: Instant::now(),
            store: store_span,
        };
        self.spans
            .end_committed(incoming, self.decisions.steps(), &settling);
        Ok(sent)
    }

    /// Commits the handler's own store, where it has one.
    pub(super) fn commit_ranges(&mut self, ranges: &[OffsetRange]) -> Result<(), CommitError> {
        let Some(store) = self.handler.store() else {
            return Ok(());
        };
        let give_up = || self.stop.requested_for(STORE_ENDS_WITHIN);
        store.commit(ranges, &give_up).map_err(store_failure)
    }

    /// Ends the open transaction, and these offsets with it.
    pub(super) fn commit_transaction(
        &self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        list: &TopicPartitionList,
    ) -> Result<(), CommitError> {
        let Some(offsets) = Offsets::of(&consumer.client, list.clone()) else {
            // The next poll takes the partitions away.
            return Err(self.abort(producer, NO_MEMBER.to_owned()));
        };
        self.send_offsets(producer, &Arc::new(offsets))?;
        let result = producer.commit();
        self.status.progress();
        match result {
            Ok(()) => {
                consumer.note_committed(list);
                Ok(())
            }
            Err(NotCommitted::Aborted(error)) => Err(CommitError::Aborted(error.to_string())),
            Err(NotCommitted::InDoubt(error)) if producer.is_fenced_by_other(&error) => {
                Err(CommitError::End(SessionEnd::of(&error, producer)))
            }
            Err(NotCommitted::InDoubt(error)) if transaction::is_fenced(&error) => {
                Err(CommitError::TimedOut(producer.explain(&error)))
            }
            Err(NotCommitted::InDoubt(error)) => {
                Err(CommitError::InDoubt(producer.explain(&error)))
            }
        }
    }

    /// As [`Lane::commit_transaction`]; where Kafka does not say whether it committed, another producer ends the doubt and
    /// the group's offsets tell. The batch's partitions stay meanwhile, and where it was committed.
    pub(super) fn commit_or_resolve(
        &self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        offsets: &TopicPartitionList,
    ) -> Result<(), CommitError> {
        let (reason, timed_out) = match self.commit_transaction(producer, consumer, offsets) {
            Err(CommitError::InDoubt(reason)) => (reason, false),
            Err(CommitError::TimedOut(reason)) => (reason, true),
            settled => return settled,
        };
        self.replace_producer(producer).map_err(CommitError::End)?;
        let was_committed = transaction::was_committed(&consumer.client, offsets, REPLACED_WITHIN)
            .map_err(|error| CommitError::End(SessionEnd::restart(format!("{reason}; {error}"))))?;
        self.status.progress();
        tracing::info!(lane = self.task, reason, was_committed, "{DOUBT_ENDED}");
        match was_committed {
            // Perhaps by another member, which handled the same records after this lane's were aborted: what a handler keeps is
            // read again.
            true if self.handler.keeps_state() => {
                Err(CommitError::End(SessionEnd::restart(format!(
                    "{reason}; the batch is committed, by this lane or by another one, and its state is read again"
                ))))
            }
            true => {
                consumer.note_committed(offsets);
                Ok(())
            }
            // By an abort, which no transaction meets that was committed in time.
            false if timed_out => Err(CommitError::Aborted(reason)),
            // A coordinator that has lost the group to another broker, and has not heard of it, would say the same. Who
            // joins the group again hears from one that could write.
            false => Err(CommitError::End(SessionEnd::restart(format!(
                "{reason}; by the group's committed offsets the batch was not committed"
            )))),
        }
    }

    /// Puts another producer of the same id in the place of one that must not be used again. The group does not notice.
    pub(super) fn replace_producer(&self, producer: &mut LaneProducer) -> Result<(), SessionEnd> {
        if !producer.is_unusable() {
            return Ok(());
        }
        self.status.progress();
        producer.mark_replaced();
        let next = self.connect()?;
        if self.config.commit.is_transactional() {
            next.init_transactions(REPLACED_WITHIN)
                .map_err(|error| SessionEnd::of(&error, &next))?;
        }
        *producer = next;
        self.status.progress();
        tracing::info!(lane = self.task, "producer replaced");
        Ok(())
    }

    /// Commits where the lane stands when nothing comes: past transaction markers, which otherwise would
    /// stay as lag. Exactly once by a transaction too: a commit of the consumer's own could arrive after
    /// the next transaction's and take the offset back.
    pub(super) fn commit_idle(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        batch: &mut Batch<'_>,
    ) -> Result<(), SessionEnd> {
        consumer
            .check_idle_starts(batch)
            .map_err(SessionEnd::restart)?;
        let mut news = consumer.positions().map_err(SessionEnd::restart)?;
        // Where the log was cut, what lies before a position need not be what was handled.
        news.retain(|at| self.idle.get(&at.partition) != Some(&at.next) && batch.continues_to(at));
        if news.is_empty() {
            return Ok(());
        }
        if !self.config.commit.is_transactional() {
            return self.commit_idle_stored(consumer, news);
        }
        let offsets = consumer.position_list(&news).map_err(SessionEnd::restart)?;
        self.replace_producer(producer)?;
        let committed =
            begin(producer).and_then(|()| self.commit_transaction(producer, consumer, &offsets));
        match committed {
            Ok(()) => {
                let committed = news.iter().map(|at| (at.partition, at.next));
                self.idle.extend(committed);
            }
            // Where it stands is committed again later.
            Err(
                CommitError::Aborted(reason)
                | CommitError::InDoubt(reason)
                | CommitError::TimedOut(reason),
            ) => {
                tracing::debug!(lane = self.task, reason, "idle position not committed");
            }
            Err(CommitError::End(end)) => return Err(end),
        }
        Ok(())
    }

    /// The same without transactions. A commit that nobody waits for may be refused, as in the middle of a rebalance, and
    /// no one hears of it: librdkafka (2.12.1) says so to a callback alone that its Rust client does not set. Nothing may
    /// come that would be committed with it, and the lag would stay. So it is asked for, once a second, until it is there.
    fn commit_idle_stored(
        &mut self,
        consumer: &LaneConsumer,
        mut news: Vec<Position>,
    ) -> Result<(), SessionEnd> {
        let offsets = consumer.position_list(&news).map_err(SessionEnd::restart)?;
        let committed = consumer.already_committed(&offsets).unwrap_or_default();
        news.retain(|at| !committed.contains(&(at.partition, at.next)));
        self.idle.extend(committed);
        if news.is_empty() {
            return Ok(());
        }
        let offsets = consumer.position_list(&news).map_err(SessionEnd::restart)?;
        if let Err(error) = consumer.client.commit(&offsets, CommitMode::Async) {
            tracing::debug!(lane = self.task, %error, "idle position not committed");
        }
        Ok(())
    }

    /// At-least-once: the client keeps the offsets and commits them now and then. A request for each batch
    /// would pile up where the coordinator is slower than the lane, and heartbeats wait behind them.
    pub(super) fn store_offsets(&mut self, consumer: &LaneConsumer, offsets: &TopicPartitionList) {
        match consumer.client.store_offsets(offsets) {
            Ok(()) => self.offsets_stored = true,
            Err(error) => tracing::debug!(%error, "offsets not stored for the next commit"),
        }
        if self.offsets_at.elapsed() >= OFFSETS_EVERY {
            self.commit_stored(consumer);
        }
    }

    /// Not waited for: a later commit includes it, and a redelivery is harmless.
    pub(super) fn commit_stored(&mut self, consumer: &LaneConsumer) {
        if std::mem::take(&mut self.offsets_stored) {
            self.offsets_at = Instant::now();
            if let Err(error) = consumer.client.commit_consumer_state(CommitMode::Async) {
                tracing::debug!(%error, "offsets not committed");
            }
        }
    }

    /// Sends offsets into the open transaction; again while the error says that this may help.
    fn send_offsets(
        &self,
        producer: &LaneProducer,
        offsets: &Arc<Offsets>,
    ) -> Result<(), CommitError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let Err(error) = producer.send_offsets(offsets) else {
                return Ok(());
            };
            self.status.progress();
            if producer.is_fenced_by_other(&error) {
                return Err(CommitError::End(SessionEnd::of(&error, producer)));
            }
            match &error {
                KafkaError::Transaction(detail) if detail.txn_requires_abort() => {
                    return Err(self.abort(producer, error.to_string()));
                }
                KafkaError::Transaction(detail)
                    if detail.is_retriable()
                        && !producer.is_unusable()
                        && backoff.attempts() < 5 =>
                {
                    self.stop.sleep(backoff.next_wait());
                }
                // Nobody has asked for a commit: the producer's successor ends the transaction by an abort.
                _ => {
                    producer.mark_unusable();
                    return Err(CommitError::Aborted(producer.explain(&error)));
                }
            }
        }
    }

    /// A failed abort leaves the producer unusable, and its successor ends the transaction.
    pub(super) fn abort(&self, producer: &LaneProducer, reason: String) -> CommitError {
        match producer.abort() {
            Ok(()) => CommitError::Aborted(reason),
            Err(error) if producer.is_fenced_by_other(&error) => {
                CommitError::End(SessionEnd::of(&error, producer))
            }
            Err(error) => {
                let cause = producer.explain(&error);
                CommitError::Aborted(format!("{reason}; abort failed: {cause}"))
            }
        }
    }
}

pub(super) fn begin(producer: &LaneProducer) -> Result<(), CommitError> {
    let begun = producer.begin();
    begun.map_err(|error| CommitError::End(SessionEnd::of(&error, producer)))
}

/// Waits for Kafka's confirmations.
pub(super) fn confirmed(producer: &LaneProducer) -> Result<(), Undelivered> {
    producer.wait_delivered().map_err(|failure| {
        let reason = match &failure {
            Some(failure) => failure.error.to_string(),
            None => "Kafka did not confirm in time".to_owned(),
        };
        reason.into()
    })
}

fn store_failure(failure: handler::Error) -> CommitError {
    match failure {
        handler::Error::Retry(cause) => CommitError::Aborted(cause.to_string()),
        handler::Error::DeadLetter(cause) | handler::Error::Restart(cause) => {
            CommitError::End(SessionEnd::restart(cause))
        }
        handler::Error::Fatal(cause) => CommitError::End(SessionEnd::Fatal(cause)),
    }
}
