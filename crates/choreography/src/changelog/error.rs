//! Why a changelog was not read.

use rdkafka::error::KafkaError;

use crate::handler;

/// Why a changelog was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log was cut, or the topic was created again.
    #[error(
        "{topic} [{partition}] begins at offset {begin}, but the store stands for offset {from}: changes between are gone; the store is read anew"
    )]
    Truncated {
        topic: String,
        partition: i32,
        from: i64,
        begin: i64,
    },
    /// The log lost its end, or the topic was created again.
    #[error(
        "{topic} [{partition}] ends at offset {end}, but the store stands for offset {from}: Kafka lost changes, or the topic was created again; the store is read anew"
    )]
    Ahead {
        topic: String,
        partition: i32,
        from: i64,
        end: i64,
    },
    /// Tombstones behind the store may have been deleted from the log, so it could keep keys that were deleted.
    #[error(
        "{topic} [{partition}]: the store stands for offset {from}, which is too old: tombstones before offset {kept} may be gone; the store is read anew"
    )]
    Outdated {
        topic: String,
        partition: i32,
        from: i64,
        /// From here on all tombstones are there.
        kept: i64,
    },
    #[error("{topic} [{partition}]: {reason}")]
    Kafka {
        topic: String,
        partition: i32,
        reason: String,
    },
}

impl Error {
    /// The log does not continue the store: it is to be dropped, and read from the beginning.
    pub fn begins_anew(&self) -> bool {
        !matches!(self, Error::Kafka { .. })
    }

    pub fn partition(&self) -> i32 {
        let (Error::Truncated { partition, .. }
        | Error::Ahead { partition, .. }
        | Error::Outdated { partition, .. }
        | Error::Kafka { partition, .. }) = self;
        *partition
    }
}

/// Kafka's answer, as the topic's.
pub(super) fn kafka(topic: &str, partition: i32, reason: &KafkaError) -> Error {
    Error::Kafka {
        topic: topic.to_owned(),
        partition,
        reason: reason.to_string(),
    }
}

impl From<Error> for handler::Error {
    /// All of them may go well when tried again: where the log does not continue the store, by a call without one.
    fn from(error: Error) -> Self {
        let class = match error {
            Error::Kafka { .. } => "kafka",
            _ => "changelog",
        };
        handler::Error::retry(class, error.to_string())
    }
}
