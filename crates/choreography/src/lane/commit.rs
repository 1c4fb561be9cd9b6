//! How a lane makes a decided batch durable: what it sends, and the offsets with it, in one transaction;
//! or, at least once, the store's own transaction and offsets that follow.

use std::time::{Duration, Instant};

use rdkafka::{
    TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::KafkaError,
};

use super::{End, Lane};
use crate::{
    Backoff, Delivery, Failure, Handler, Incoming,
    batch::Batch,
    consumer::LaneConsumer,
    producer::{LaneProducer, Undelivered},
    spans::Settling,
};

/// How often offsets are committed without a transaction: bounds what a killed process repeats.
const OFFSETS_EVERY: Duration = Duration::from_millis(1000);

/// Why a transaction, or its equivalent, did not commit.
pub(super) enum Unsettled {
    /// Aborted; the batch may be tried again.
    Aborted(String),
    End(End),
}

impl<H: Handler> Lane<H> {
    /// Offsets committed without waiting are confirmed before the group is left.
    pub(super) fn drain(&self, consumer: &LaneConsumer) {
        if self.config.delivery == Delivery::AtLeastOnce
            && let Err(error) = consumer.client.commit_consumer_state(CommitMode::Sync)
        {
            // Nothing stored since the last commit is the usual reason.
            tracing::debug!(%error, "no offsets to commit");
        }
    }

    /// Sends all, then commits; returns how many records were sent.
    pub(super) fn deliver(
        &mut self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        incoming: &[Incoming<'_>],
        batch: &Batch<'_>,
        attempt: u32,
    ) -> Result<usize, Unsettled> {
        let transactional = self.config.delivery == Delivery::ExactlyOnce;
        if transactional {
            producer
                .begin()
                .map_err(|error| Unsettled::End(End::of(&error)))?;
        }
        let sent = self.send_all(producer, incoming, attempt);
        let sent = match sent.and_then(|sent| confirmed(producer).map(|()| sent)) {
            Ok(sent) => sent,
            Err(undelivered) => {
                self.refuse_if_too_large(&undelivered, incoming);
                let reason = undelivered.reason;
                return Err(match transactional {
                    true => self.abort(producer, reason),
                    false => Unsettled::Aborted(reason),
                });
            }
        };
        self.spans.delivered();
        let settling = Instant::now();
        let mut store_span = None;
        let spans = batch.spans();
        let next: Vec<(i32, i64)> = spans.iter().map(|s| (s.partition, s.next)).collect();
        let offsets = consumer
            .offsets(&next)
            .map_err(|e| Unsettled::End(End::restart(e)))?;
        if transactional {
            self.commit_transaction(producer, consumer, &offsets)?;
        } else {
            if let Some(store) = self.handler.store() {
                store.commit(&spans).map_err(store_failure)?;
                store_span = store.describe();
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

    /// Ends the open transaction, and these offsets with it.
    fn commit_transaction(
        &self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
        offsets: &TopicPartitionList,
    ) -> Result<(), Unsettled> {
        let group = consumer
            .client
            .group_metadata()
            .ok_or_else(|| Unsettled::End(End::restart("no group metadata")))?;
        self.in_transaction(producer, || producer.send_offsets(offsets, &group))?;
        self.in_transaction(producer, || producer.commit())
    }

    /// Commits where the lane stands when nothing comes: past transaction markers, which otherwise would
    /// stay as lag. Exactly once by a transaction too: a commit of the consumer's own could arrive after
    /// the next transaction's and take the offset back.
    pub(super) fn commit_idle(
        &mut self,
        producer: &LaneProducer,
        consumer: &LaneConsumer,
    ) -> Result<(), End> {
        consumer.check_quiet_starts().map_err(End::restart)?;
        let positions = consumer.positions().map_err(End::restart)?;
        let news: Vec<(i32, i64)> = positions
            .into_iter()
            .filter(|(partition, next)| self.idle.get(partition) != Some(next))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        let offsets = consumer.offsets(&news).map_err(End::restart)?;
        let result = match self.config.delivery {
            Delivery::ExactlyOnce => producer
                .begin()
                .map_err(|error| Unsettled::End(End::of(&error)))
                .and_then(|()| self.commit_transaction(producer, consumer, &offsets)),
            Delivery::AtLeastOnce => {
                let commit = consumer.client.commit(&offsets, CommitMode::Async);
                commit.map_err(|error| Unsettled::Aborted(error.to_string()))
            }
        };
        match result {
            Ok(()) => self.idle.extend(news),
            Err(Unsettled::Aborted(reason)) => {
                tracing::debug!(lane = self.task, reason, "idle position not committed");
            }
            Err(Unsettled::End(end)) => return Err(end),
        }
        Ok(())
    }

    /// At-least-once: the client keeps the offsets and commits them now and then. A request for each batch
    /// would pile up where the coordinator is slower than the lane, and heartbeats wait behind them.
    fn keep_offsets(&mut self, consumer: &LaneConsumer, offsets: &TopicPartitionList) {
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

    /// Repeats a transaction's call while its error says that this may help.
    fn in_transaction(
        &self,
        producer: &LaneProducer,
        call: impl Fn() -> Result<(), KafkaError>,
    ) -> Result<(), Unsettled> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let error = match call() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.status.progress();
            match &error {
                KafkaError::Transaction(detail) if detail.txn_requires_abort() => {
                    return Err(self.abort(producer, error.to_string()));
                }
                KafkaError::Transaction(detail)
                    if detail.is_retriable() && backoff.attempts() < 5 =>
                {
                    self.stop.sleep(backoff.next_wait());
                }
                _ => return Err(Unsettled::End(End::of(&error))),
            }
        }
    }

    fn abort(&self, producer: &LaneProducer, reason: String) -> Unsettled {
        match producer.abort() {
            Ok(()) => Unsettled::Aborted(reason),
            Err(error) => Unsettled::End(match End::of(&error) {
                End::Restart {
                    reason: cause,
                    fenced,
                } => End::Restart {
                    reason: format!("{reason}; abort failed: {cause}"),
                    fenced,
                },
                end => end,
            }),
        }
    }
}

/// Waits for Kafka's confirmations.
fn confirmed(producer: &LaneProducer) -> Result<(), Undelivered> {
    producer.wait_delivered().map_err(|failure| Undelivered {
        reason: match &failure {
            Some(failure) => failure.error.to_string(),
            None => "Kafka did not confirm in time".to_owned(),
        },
        failure,
    })
}

fn store_failure(failure: Failure) -> Unsettled {
    match failure {
        Failure::Retry(cause) => Unsettled::Aborted(cause.to_string()),
        Failure::DeadLetter(cause) => Unsettled::End(End::restart(cause)),
        Failure::Fatal(cause) => Unsettled::End(End::Fatal(cause)),
    }
}
