//! One transaction of a redrive: letters sent back, and what the ledger says of them.

use std::time::Duration;

use quadrille_proto::Topics;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::BaseRecord,
};

use super::outgoing::{self, Pending};
use crate::{
    client,
    producer::{self, LaneProducer},
    transaction::NotCommitted,
};

/// The index of a ledger's record among those that were sent: it is no letter's.
const LEDGER: usize = u32::MAX as usize;

/// Why a transaction came to nothing, or perhaps to nothing.
pub(super) enum TxnError {
    /// A letter cannot be sent; nothing was.
    Letter(String),
    /// A new producer finds out what became of it, and may do better.
    Restart(String),
    /// Nothing: it is committed, but the producer must not be used again.
    Unusable,
    /// Somebody else settles letters of this topic now.
    TakenOver,
}

/// Key and value of a ledger's record; None is a tombstone.
pub(super) type Write = (String, Option<Vec<u8>>);

/// A producer of letters and of the ledger's records.
pub(super) struct Settler {
    pub producer: LaneProducer,
    pub timeout: Duration,
    /// Letters are not sent anywhere.
    pub discards: bool,
}

impl Settler {
    /// One transaction.
    pub fn transact(&self, batch: &[Pending], entries: &[Write]) -> Result<(), TxnError> {
        self.producer
            .begin()
            .map_err(|error| self.error_of(&error))?;
        match self.send(batch, entries) {
            Ok(()) => self.commit(),
            // The client cannot abort while it sends again what came after the letter in its partition: it waits out its
            // own timeout (librdkafka 2.12.1, idempotent producers). Another producer ends the transaction at once.
            Err(TxnError::Letter(reason)) if batch.len() > 1 => {
                self.producer.mark_unusable();
                self.producer.mark_replaced();
                Err(TxnError::Letter(reason))
            }
            Err(fault) => Err(self.abort(fault)),
        }
    }

    fn send(&self, batch: &[Pending], entries: &[Write]) -> Result<(), TxnError> {
        if !self.discards {
            for (index, pending) in batch.iter().enumerate() {
                self.queue(outgoing::record(pending, index), index)?;
            }
        }
        for (key, value) in entries {
            let mut record =
                BaseRecord::<'_, [u8], [u8], usize>::with_opaque_to(Topics::DEAD_LETTERS, LEDGER)
                    .partition(0);
            record.key = Some(key.as_bytes());
            record.payload = value.as_deref();
            self.queue(record, LEDGER)?;
        }
        match self.producer.wait_delivered_within(self.timeout) {
            Ok(()) => Ok(()),
            Err(Some(failure)) => Err(self.undelivered(failure.index, &failure.error)),
            Err(None) => Err(TxnError::Restart(format!(
                "Kafka did not confirm all records within {} s",
                self.timeout.as_secs()
            ))),
        }
    }

    fn queue(
        &self,
        record: BaseRecord<'_, [u8], [u8], usize>,
        index: usize,
    ) -> Result<(), TxnError> {
        match self.producer.send(record) {
            Ok(()) => Ok(()),
            Err(producer::Error::TooLarge) if index != LEDGER => {
                Err(TxnError::Letter("it is too large".to_owned()))
            }
            Err(producer::Error::TooLarge) => {
                Err(TxnError::Restart("a settlement is too large".to_owned()))
            }
            Err(producer::Error::Failed(undelivered)) => Err(TxnError::Restart(undelivered.reason)),
        }
    }

    /// The one place where a transaction is committed. Where its end is not known for certain, the producer is given up.
    fn commit(&self) -> Result<(), TxnError> {
        self.producer.commit().map_err(|error| match error {
            NotCommitted::Aborted(error) | NotCommitted::InDoubt(error) => self.error_of(&error),
        })
    }

    /// Readers of the source wait for a transaction that is not ended until it times out.
    fn abort(&self, fault: TxnError) -> TxnError {
        match (self.producer.abort(), fault) {
            (Ok(()), fault) | (Err(_), fault @ TxnError::TakenOver) => fault,
            (Err(error), fault) => match (self.error_of(&error), fault) {
                (TxnError::TakenOver, _) => TxnError::TakenOver,
                (_, TxnError::Restart(reason)) => {
                    TxnError::Restart(format!("{reason}; abort failed: {error}"))
                }
                // That makes the producer unusable, and another one ends the transaction.
                (_, fault) => fault,
            },
        }
    }

    pub fn error_of(&self, error: &KafkaError) -> TxnError {
        match self.producer.is_fenced_by_other(error) {
            true => TxnError::TakenOver,
            false => TxnError::Restart(error.to_string()),
        }
    }

    /// A delivery that failed: by the letter's own fault, or by nobody's.
    fn undelivered(&self, index: usize, error: &KafkaError) -> TxnError {
        let own = client::is_too_large(error)
            || matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::InvalidTimestamp
                        | RDKafkaErrorCode::InvalidRecord
                )
            );
        match own && index != LEDGER {
            true => TxnError::Letter(error.to_string()),
            false => self.error_of(error),
        }
    }
}
