//! A lane's session: one pair of clients, from their connection to the end of what they can be used for.

use std::{sync::Arc, time::Duration};

use rdkafka::{consumer::Consumer, error::KafkaError};

use super::Lane;
use crate::{
    Backoff, Cause, Delivered, Handler,
    consumer::LaneConsumer,
    decisions::Undecided,
    producer::{Ends, LaneProducer},
};

/// Why a session with one pair of clients ended.
pub(super) enum SessionEnd {
    Drained,
    /// Close the clients, begin again from the committed offsets.
    Restart {
        reason: String,
        fenced: bool,
    },
    Fatal(Cause),
}

impl From<Undecided> for SessionEnd {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Fatal(cause) => SessionEnd::Fatal(cause),
            Undecided::Restart(cause) => SessionEnd::restart(cause),
        }
    }
}

impl SessionEnd {
    pub fn restart(reason: impl ToString) -> Self {
        SessionEnd::Restart {
            reason: reason.to_string(),
            fenced: false,
        }
    }

    /// A failed call of the producer.
    pub fn of(error: &KafkaError, producer: &LaneProducer) -> Self {
        SessionEnd::Restart {
            reason: error.to_string(),
            fenced: producer.is_fenced_by_rival(error),
        }
    }
}

impl<H: Handler> Lane<H> {
    /// One life of the lane's clients. Returns only by a [`SessionEnd`].
    pub(super) fn session(&mut self) -> Result<SessionEnd, SessionEnd> {
        if self.handler.keeps_state() {
            let names = self.config.outputs.iter().map(|it| it.name).collect();
            self.delivered = Delivered::none(names, self.partitions());
        }
        let mut producer = self.connect()?;
        if self.config.commit.is_transactional() {
            self.init_transactions(&producer)?;
        }
        let consumer = LaneConsumer::connect(
            &self.config,
            self.index,
            self.metrics.clone(),
            Arc::clone(&self.status),
            (self.handler.keeps_state(), self.topics.input_bytes_max),
        )
        .map_err(SessionEnd::restart)?
        .with_identity(self.topics.identity.clone());
        let result = self.run_batches(&mut producer, &consumer);
        // What the group was assigned is given up with the consumer.
        let held = consumer
            .client
            .assignment()
            .map_or(0, |assignment| assignment.count());
        tracing::debug!(lane = self.task, held, "session ends");
        let all = std::mem::take(&mut self.held);
        self.release(&all.into_iter().collect::<Vec<_>>());
        match &result {
            Ok(SessionEnd::Drained) => self.leave(consumer),
            _ => drop(consumer),
        }
        result
    }

    pub(super) fn connect(&self) -> Result<LaneProducer, SessionEnd> {
        let message_bytes_max = self.topics.message_bytes_max();
        let batch_bytes_max = self.topics.batch_bytes_max();
        let ends = match self.handler.keeps_state() {
            true => Ends::of(self.config.outputs.len(), self.partitions()),
            false => Ends::default(),
        };
        LaneProducer::connect(
            &self.config,
            self.index,
            message_bytes_max,
            batch_bytes_max,
            ends,
        )
        .map_err(SessionEnd::restart)
    }

    fn partitions(&self) -> usize {
        usize::try_from(self.topics.partitions).unwrap_or_default()
    }

    /// Ends a predecessor's open transaction; waits for the broker if it must.
    fn init_transactions(&self, producer: &LaneProducer) -> Result<(), SessionEnd> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            self.status.progress();
            if self.stop.requested() {
                return Err(SessionEnd::Drained);
            }
            let error = match producer.init_transactions(Duration::from_secs(5)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                KafkaError::Transaction(detail) if detail.is_retriable() => {
                    tracing::warn!(lane = self.task, %error, "waiting for the transaction coordinator");
                    self.stop.sleep(backoff.next_wait());
                }
                _ => return Err(SessionEnd::of(&error, producer)),
            }
        }
    }
}
