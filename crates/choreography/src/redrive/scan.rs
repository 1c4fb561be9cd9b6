//! A topic read once: from a start to the end it has when the scan begins.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use super::Error;
use crate::{Cluster, client::LoggingContext};

/// How long one question may take, and how long records may fail to come.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Bounds what was fetched and not yet taken.
const QUEUE_KIB_MAX: &str = "8192";

/// From the first offset, to before the second.
pub(super) type Offsets = BTreeMap<i32, (i64, i64)>;

/// A client that reads committed records.
pub(super) fn consumer(
    cluster: &Cluster,
    group: &str,
    isolation: &str,
) -> Result<BaseConsumer<LoggingContext>, KafkaError> {
    let mut settings = cluster.client_config();
    settings
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
        .set(
            "fetch.wait.max.ms",
            if cluster.embedded { "10" } else { "500" },
        );
    settings.create_with_context(LoggingContext)
}

/// First and next offset of each partition, committed records only; None: there is no such topic.
pub(super) fn watermarks(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
) -> Result<Option<Offsets>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
    let mut topics = metadata.topics().iter();
    let Some(found) = topics.find(|it| it.name() == topic && it.error().is_none()) else {
        return Ok(None);
    };
    let mut offsets = Offsets::new();
    for partition in found.partitions().iter().map(|it| it.id()) {
        offsets.insert(
            partition,
            consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN)?,
        );
    }
    Ok(Some(offsets))
}

/// What is left of a topic to be read.
pub(super) struct Scan {
    consumer: BaseConsumer<LoggingContext>,
    topic: String,
    left: Offsets,
}

impl Scan {
    /// Reads these offsets of a topic.
    pub fn of(
        consumer: BaseConsumer<LoggingContext>,
        topic: &str,
        mut offsets: Offsets,
    ) -> Result<Self, KafkaError> {
        offsets.retain(|_, (from, end)| from < end);
        let mut list = TopicPartitionList::new();
        for (partition, (from, _)) in &offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*from))?;
        }
        consumer.assign(&list)?;
        Ok(Scan {
            consumer,
            topic: topic.to_owned(),
            left: offsets,
        })
    }

    /// The next record, of any partition; None at the end.
    pub fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>, Error> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut last_error = None;
        while !self.left.is_empty() {
            match self.consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some((from, end)) = self.left.get_mut(&partition) else {
                        continue;
                    };
                    let selected = offset < *end;
                    *from = offset + 1;
                    if *from >= *end {
                        self.left.remove(&partition);
                    }
                    if selected {
                        return Ok(Some(message));
                    }
                }
                // Past the last record only markers are left.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.left.remove(&partition);
                }
                // A broker that is restarted comes back.
                Some(Err(error)) if is_passing(&error) => last_error = Some(error),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
            if Instant::now() > deadline {
                return Err(Error::Stalled {
                    topic: self.topic.clone(),
                    left: self.left.clone(),
                    why: last_error.map_or_else(String::new, |error| format!(": {error}")),
                });
            }
        }
        Ok(None)
    }
}

fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
        )
    )
}
