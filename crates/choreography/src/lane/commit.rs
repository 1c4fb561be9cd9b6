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

use super::{End, Lane};
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
const NOT_LEFT: &str = "Kafka does not answer: the group was not left in order and gives the partitions to others when the session times out";

const NO_MEMBER: &str = "the group has thrown this member out";

const DOUBT_ENDED: &str =
    "Kafka did not say whether the batch was committed; the group's offsets do";

/// How long a store may still take once the service was asked to stop: most commits in hand end by then, and a database
/// that does not answer does not hold up the end. What was not committed is read again.
pub(super) const STORE_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Why a transaction, or its equivalent, did not commit.
pub(super) enum Unsettled {
    /// Aborted; the batch may be tried again.
    Aborted(String),
    /// Kafka did not say whether it committed; the producer is spent.
    Doubtful(String),
    /// Kafka ended the transaction by its timeout, as it seems; the producer is spent.
    TimedOut(String),
    End(End),
}

impl<H: Handler> Lane<H> {
    /// Leaves the group for good; what was committed without waiting is confirmed before. On a thread of its own: the
    /// client waits for a broker that is silent, for a minute and more, and the service is to end.
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
        } else if is_left.recv_timeout(LEAVES_WITHIN).is_err() {
            let lane = &self.task;
            tracing::warn!(lane, "{NOT_LEFT}");
        }
    }

    /// Sends all, then commits; returns how many records were sent.
    pub(super) fn deliver(
        &mut self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        incoming: &[Incoming<'_>],
        batch: &Batch<'_>,
        attempt: u32,
    ) -> Result<usize, Unsettled> {
        let transactional = self.config.commit.is_transactional();
        self.renew(producer).map_err(Unsettled::End)?;
        if transactional {
            begin(producer)?;
        }
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
                        Unsettled::Aborted(reason)
                    }
                };
                self.note_refused(&producer.refused(), incoming);
                return Err(match undelivered.is_bug {
                    true => Unsettled::End(End::Fatal(Cause {
                        class: "handler",
                        message: undelivered.reason,
                    })),
                    false => unsettled,
                });
            }
        };
        self.spans.delivered();
        let settling = Instant::now();
        let mut store_span = None;
        let ranges = batch.offset_ranges();
        let next: Vec<(i32, i64)> = ranges.iter().map(|s| (s.partition, s.next)).collect();
        let mut offsets = consumer
            .offsets(&next)
            .map_err(|e| Unsettled::End(End::restart(e)))?;
        // Of the records themselves: the client forgets its position's where it finds the log cut, at any time.
        native::put_epochs(&mut offsets, |partition| batch.last_epoch(partition));
        if transactional {
            self.commit_or_ask(producer, consumer, &offsets)?;
        } else {
            if let Some(store) = self.handler.store() {
                let stored = store.commit(&ranges, &|| self.stop.requested_for(STORE_ENDS_WITHIN));
                store_span = store.describe();
                if let Err(failure) = stored {
                    self.judge.bury(incoming, &mut self.places.buried);
                    return Err(store_failure(failure));
                }
            }
            self.keep_offsets(consumer, &offsets);
        }
        let settling = Settling {
            start: settling,
            end: Instant::now(),
            store: store_span,
        };
        self.spans.settled(incoming, self.judge.steps(), &settling);
        Ok(sent)
    }

    /// Commits the handler's own store, where it has one.
    pub(super) fn commit_ranges(&mut self, ranges: &[OffsetRange]) -> Result<(), Unsettled> {
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
    ) -> Result<(), Unsettled> {
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
            Err(NotCommitted::Aborted(error)) => Err(Unsettled::Aborted(error.to_string())),
            Err(NotCommitted::Doubtful(error)) if producer.is_rivalled(&error) => {
                Err(Unsettled::End(End::of(&error, producer)))
            }
            Err(NotCommitted::Doubtful(error)) if transaction::is_fenced(&error) => {
                Err(Unsettled::TimedOut(producer.explain(&error)))
            }
            Err(NotCommitted::Doubtful(error)) => {
                Err(Unsettled::Doubtful(producer.explain(&error)))
            }
        }
    }

    /// As [`Lane::commit_transaction`]; where Kafka does not say whether it committed, another producer ends the doubt and
    /// the group's offsets tell. The batch's partitions stay meanwhile, and where it was committed.
    pub(super) fn commit_or_ask(
        &self,
        producer: &mut LaneProducer,
        consumer: &LaneConsumer,
        offsets: &TopicPartitionList,
    ) -> Result<(), Unsettled> {
        let (reason, timed_out) = match self.commit_transaction(producer, consumer, offsets) {
            Err(Unsettled::Doubtful(reason)) => (reason, false),
            Err(Unsettled::TimedOut(reason)) => (reason, true),
            settled => return settled,
        };
        self.renew(producer).map_err(Unsettled::End)?;
        let happened = transaction::happened(&consumer.client, offsets, REPLACED_WITHIN)
            .map_err(|error| Unsettled::End(End::restart(format!("{reason}; {error}"))))?;
        self.status.progress();
        tracing::info!(lane = self.task, reason, happened, "{DOUBT_ENDED}");
        match happened {
            true => {
                consumer.note_committed(offsets);
                Ok(())
            }
            // By an abort, which no transaction meets that was committed in time.
            false if timed_out => Err(Unsettled::Aborted(reason)),
            // A coordinator that has lost the group to another broker, and has not heard of it, would say the same. Who
            // joins the group again hears from one that could write.
            false => Err(Unsettled::End(End::restart(format!(
                "{reason}; as far as the group's coordinator knows it was not committed"
            )))),
        }
    }

    /// Puts another producer of the same id in the place of one that must not be used again. The group does not notice.
    pub(super) fn renew(&self, producer: &mut LaneProducer) -> Result<(), End> {
        if !producer.is_spent() {
            return Ok(());
        }
        self.status.progress();
        producer.replaced();
        let next = self.connect()?;
        if self.config.commit.is_transactional() {
            next.init_transactions(REPLACED_WITHIN)
                .map_err(|error| End::of(&error, &next))?;
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
    ) -> Result<(), End> {
        consumer.check_quiet_starts(batch).map_err(End::restart)?;
        let mut news = consumer.positions().map_err(End::restart)?;
        // Where the log was cut, what lies before a position need not be what was handled.
        news.retain(|at| self.idle.get(&at.partition) != Some(&at.next) && batch.goes_on_to(at));
        if news.is_empty() {
            return Ok(());
        }
        if !self.config.commit.is_transactional() {
            return self.commit_idle_kept(consumer, news);
        }
        let offsets = consumer.offsets_at(&news).map_err(End::restart)?;
        self.renew(producer)?;
        let committed =
            begin(producer).and_then(|()| self.commit_transaction(producer, consumer, &offsets));
        match committed {
            Ok(()) => {
                let committed = news.iter().map(|at| (at.partition, at.next));
                self.idle.extend(committed);
            }
            // Where it stands is committed again later.
            Err(
                Unsettled::Aborted(reason)
                | Unsettled::Doubtful(reason)
                | Unsettled::TimedOut(reason),
            ) => {
                tracing::debug!(lane = self.task, reason, "idle position not committed");
            }
            Err(Unsettled::End(end)) => return Err(end),
        }
        Ok(())
    }

    /// The same without transactions. A commit that nobody waits for may be refused, as in the middle of a rebalance, and
    /// no one hears of it: librdkafka (2.12.1) says so to a callback alone that its Rust client does not set. Nothing may
    /// come that would be committed with it, and the lag would stay. So it is asked for, once a second, until it is there.
    fn commit_idle_kept(
        &mut self,
        consumer: &LaneConsumer,
        mut news: Vec<Position>,
    ) -> Result<(), End> {
        let offsets = consumer.offsets_at(&news).map_err(End::restart)?;
        let committed = consumer.are_committed(&offsets).unwrap_or_default();
        news.retain(|at| !committed.contains(&(at.partition, at.next)));
        self.idle.extend(committed);
        if news.is_empty() {
            return Ok(());
        }
        let offsets = consumer.offsets_at(&news).map_err(End::restart)?;
        if let Err(error) = consumer.client.commit(&offsets, CommitMode::Async) {
            tracing::debug!(lane = self.task, %error, "idle position not committed");
        }
        Ok(())
    }

    /// At-least-once: the client keeps the offsets and commits them now and then. A request for each batch
    /// would pile up where the coordinator is slower than the lane, and heartbeats wait behind them.
    pub(super) fn keep_offsets(&mut self, consumer: &LaneConsumer, offsets: &TopicPartitionList) {
        match consumer.client.store_offsets(offsets) {
            Ok(()) => self.offsets_kept = true,
            Err(error) => tracing::debug!(%error, "offsets not kept"),
        }
        if self.offsets_at.elapsed() >= OFFSETS_EVERY {
            self.commit_kept(consumer);
        }
    }

    /// Not waited for: a later commit includes it, and a redelivery is harmless.
    pub(super) fn commit_kept(&mut self, consumer: &LaneConsumer) {
        if std::mem::take(&mut self.offsets_kept) {
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
    ) -> Result<(), Unsettled> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let Err(error) = producer.send_offsets(offsets) else {
                return Ok(());
            };
            self.status.progress();
            if producer.is_rivalled(&error) {
                return Err(Unsettled::End(End::of(&error, producer)));
            }
            match &error {
                KafkaError::Transaction(detail) if detail.txn_requires_abort() => {
                    return Err(self.abort(producer, error.to_string()));
                }
                KafkaError::Transaction(detail)
                    if detail.is_retriable() && !producer.is_spent() && backoff.attempts() < 5 =>
                {
                    self.stop.sleep(backoff.next_wait());
                }
                // Nobody has asked for a commit: the producer's successor ends the transaction by an abort.
                _ => {
                    producer.spend();
                    return Err(Unsettled::Aborted(producer.explain(&error)));
                }
            }
        }
    }

    /// A failed abort leaves the producer spent, and its successor ends the transaction.
    pub(super) fn abort(&self, producer: &LaneProducer, reason: String) -> Unsettled {
        match producer.abort() {
            Ok(()) => Unsettled::Aborted(reason),
            Err(error) if producer.is_rivalled(&error) => Unsettled::End(End::of(&error, producer)),
            Err(error) => {
                let cause = producer.explain(&error);
                Unsettled::Aborted(format!("{reason}; abort failed: {cause}"))
            }
        }
    }
}

pub(super) fn begin(producer: &LaneProducer) -> Result<(), Unsettled> {
    let begun = producer.begin();
    begun.map_err(|error| Unsettled::End(End::of(&error, producer)))
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

fn store_failure(failure: handler::Error) -> Unsettled {
    match failure {
        handler::Error::Retry(cause) => Unsettled::Aborted(cause.to_string()),
        handler::Error::DeadLetter(cause) => Unsettled::End(End::restart(cause)),
        handler::Error::Fatal(cause) => Unsettled::End(End::Fatal(cause)),
    }
}
