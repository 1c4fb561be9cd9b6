//! Deliveries counted: how many are outstanding, and what failed.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::Message,
    producer::{DeliveryResult, ProducerContext},
};

use super::{Ends, Tag};
use crate::client;

/// A delivery that failed: the index the record was sent with, and why.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryFailure {
    pub index: usize,
    /// It was sent beside a record's outcome.
    pub is_extra: bool,
    pub error: KafkaError,
}

/// Deliveries outstanding, and the first failure.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Another producer is in the place of this one.
    pub replaced: AtomicBool,
    pub outstanding: AtomicI64,
    pub ends: Ends,
    pub failure: Mutex<Option<DeliveryFailure>>,
    /// Failures that are the records' own, at most as many as were sent since they were taken.
    pub refused: Mutex<Vec<DeliveryFailure>>,
    pub changed: Condvar,
}

impl Deliveries {
    pub fn failure(&self) -> MutexGuard<'_, Option<DeliveryFailure>> {
        self.failure
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn refused(&self) -> MutexGuard<'_, Vec<DeliveryFailure>> {
        self.refused
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until at most `remaining` are outstanding, or one failed, or `timeout` has passed.
    pub fn wait(&self, remaining: i64, timeout: Duration) -> Result<(), Option<DeliveryFailure>> {
        let deadline = Instant::now() + timeout;
        let mut failure = self.failure();
        loop {
            if let Some(failure) = failure.take() {
                return Err(Some(failure));
            }
            if self.outstanding.load(Ordering::SeqCst) <= remaining {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(None);
            }
            failure = match self.changed.wait_timeout(failure, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// The producer's callbacks.
pub(super) struct ProducerEvents(pub Arc<Deliveries>);

impl ProducerEvents {
    fn failed(&self, tag: Tag, error: &KafkaError) {
        let failure = || DeliveryFailure {
            index: tag.index,
            is_extra: tag.is_extra,
            error: error.clone(),
        };
        if client::rejection_class(error).is_some() {
            self.0.refused().push(failure());
        }
        self.0.failure().get_or_insert_with(failure);
        self.0.changed.notify_all();
    }
}

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Its successor has fenced it, and it says so as it goes.
        let level = match self.0.replaced.load(Ordering::Relaxed) {
            true => RDKafkaLogLevel::Debug,
            false => level,
        };
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if !self.0.replaced.load(Ordering::Relaxed) {
            client::log_error(&error, reason);
        }
    }
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, packed: usize) {
        let tag = Tag::unpack(packed);
        match result {
            Ok(message) => {
                if let Some(output) = tag.output {
                    let (partition, offset) = (message.partition(), message.offset());
                    self.0.ends.note(output, partition, offset);
                }
            }
            Err((error, _)) => self.failed(tag, error),
        }
        // Only the last one wakes the lane.
        if self.0.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 {
            drop(self.0.failure());
            self.0.changed.notify_all();
        }
    }
}
