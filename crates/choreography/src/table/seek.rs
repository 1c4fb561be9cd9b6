//! Records of one partition, each looked for by its offset: for a search in a log.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{ANSWER_WITHIN, assign, consumer, fetch::Error, is_out_of_range};
use crate::{Cluster, client::LoggingContext};

/// How long one wait may be, so that the deadline is kept.
const POLL: Duration = Duration::from_millis(500);

/// Looks for committed records in a partition.
pub struct Seeker {
    consumer: BaseConsumer<LoggingContext>,
    topic: String,
    partition: i32,
    bounds: (i64, i64),
    deadline: Instant,
}

/// A committed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    pub offset: i64,
    /// None of a tombstone.
    pub value: Option<Vec<u8>>,
}

impl Seeker {
    /// All that it does ends by the deadline.
    ///
    /// # Errors
    /// There is no such partition, or Kafka does not answer.
    pub fn open(
        cluster: &Cluster,
        topic: &str,
        partition: i32,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let kafka = |source| Error::Kafka {
            topic: topic.to_owned(),
            offset: 0,
            source,
        };
        let consumer = consumer(cluster).map_err(kafka)?;
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now());
            left.clamp(Duration::from_millis(1), ANSWER_WITHIN)
        };
        // Asked first: a client waits long for a partition that may still come.
        let metadata = consumer.fetch_metadata(Some(topic), left());
        let metadata = metadata.map_err(kafka)?;
        let mut partitions = metadata.topics().iter().flat_map(|it| it.partitions());
        if !partitions.any(|it| it.id() == partition) {
            return Err(Error::Gone {
                topic: topic.to_owned(),
                offset: 0,
            });
        }
        let bounds = consumer.fetch_watermarks(topic, partition, left());
        Ok(Seeker {
            bounds: bounds.map_err(kafka)?,
            consumer,
            topic: topic.to_owned(),
            partition,
            deadline,
        })
    }

    /// The offsets of the first record that there was, and behind the last one, when this began.
    pub fn bounds(&self) -> (i64, i64) {
        self.bounds
    }

    /// The first record at this offset or after it; None where there is none yet.
    ///
    /// # Errors
    /// Kafka does not answer by the deadline.
    pub fn first_from(&self, offset: i64) -> Result<Option<Sought>, Error> {
        let stalled = || Error::Stalled {
            topic: self.topic.clone(),
            offset,
        };
        // What was truncated meanwhile is passed over.
        let mut from = offset.max(self.bounds.0);
        self.assign(from)?;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(stalled());
            }
            match self.consumer.poll(left.min(POLL)) {
                Some(Ok(message)) if message.offset() >= from => {
                    return Ok(Some(Sought {
                        offset: message.offset(),
                        value: message.payload().map(<[u8]>::to_vec),
                    }));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if is_out_of_range(&error) => {
                    let bounds = self
                        .consumer
                        .fetch_watermarks(&self.topic, self.partition, left.min(ANSWER_WITHIN))
                        .map_err(|source| self.kafka(from, source))?;
                    if bounds.0 <= from {
                        return Ok(None);
                    }
                    from = bounds.0;
                    self.assign(from)?;
                }
                Some(Err(error)) => {
                    tracing::debug!(topic = self.topic, %error, "poll failed while looking for a record");
                }
                Some(Ok(_)) | None => {}
            }
        }
    }

    fn assign(&self, from: i64) -> Result<(), Error> {
        assign(
            &self.consumer,
            &self.topic,
            self.partition,
            Offset::Offset(from),
        )
        .map_err(|source| self.kafka(from, source))
    }

    fn kafka(&self, offset: i64, source: KafkaError) -> Error {
        Error::Kafka {
            topic: self.topic.clone(),
            offset,
            source,
        }
    }
}
