//! Records by their offsets: a table's, handed over one by one, for values too big to be kept; and one of any topic.

use std::time::{Duration, Instant};

use rdkafka::{
    Message, Offset,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{ANSWER_WITHIN, TableRecord, assign, consumer, exists, is_out_of_range, record};
use crate::{Cluster, client::LoggingContext};

/// A fetch that brings nothing for this long is given up.
const PROGRESS_WITHIN: Duration = Duration::from_secs(20);
/// Further away than this, the reader goes there instead of reading what lies between.
const SKIP_RECORDS_MAX: i64 = 16;

/// Why records were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{topic}: the record at offset {offset} no longer exists")]
    Gone { topic: String, offset: i64 },
    #[error("{topic}: no answer in time while fetching offset {offset}")]
    Stalled { topic: String, offset: i64 },
    #[error("{topic} at offset {offset}: {source}")]
    Kafka {
        topic: String,
        offset: i64,
        source: KafkaError,
    },
}

/// Fetches the records at `offsets` in their order, soonest where they ascend; `each` may end it by its own error.
///
/// # Errors
/// A record is not there, or Kafka does not answer; or what `each` says.
pub fn fetch_records<E: From<Error>>(
    cluster: &Cluster,
    topic: &str,
    offsets: &[i64],
    mut each: impl FnMut(TableRecord<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(first) = offsets.first() else {
        return Ok(());
    };
    let kafka = |offset, source| Error::Kafka {
        topic: topic.to_owned(),
        offset,
        source,
    };
    let consumer = consumer(cluster).map_err(|error| kafka(*first, error))?;
    // Where the next record comes from, as far as is known.
    let mut at = None;
    for &offset in offsets {
        let near = at.is_some_and(|at| at <= offset && offset - at <= SKIP_RECORDS_MAX);
        if !near {
            assign(&consumer, topic, 0, Offset::Offset(offset))
                .map_err(|error| kafka(offset, error))?;
        }
        take(&consumer, topic, offset, &mut each)?;
        at = Some(offset + 1);
    }
    Ok(())
}

/// Fetches the value of one committed record of any topic; None of a tombstone.
///
/// # Errors
/// The record is not there (any more), or Kafka does not answer.
pub fn fetch_record(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<Vec<u8>>, Error> {
    let kafka = |source| Error::Kafka {
        topic: topic.to_owned(),
        offset,
        source,
    };
    let consumer = consumer(cluster).map_err(kafka)?;
    // Asked first: a client waits long for a partition that may still come.
    if offset < 0 || !has_partition(&consumer, topic, partition).map_err(kafka)? {
        return Err(Error::Gone {
            topic: topic.to_owned(),
            offset,
        });
    }
    assign(&consumer, topic, partition, Offset::Offset(offset)).map_err(kafka)?;
    let mut value = None;
    take(&consumer, topic, offset, &mut |record| {
        value = record.value.map(<[u8]>::to_vec);
        Ok::<(), Error>(())
    })?;
    Ok(value)
}

fn has_partition(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    partition: i32,
) -> Result<bool, KafkaError> {
    if !exists(consumer, topic)? {
        return Ok(false);
    }
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
    let mut partitions = metadata.topics().iter().flat_map(|it| it.partitions());
    Ok(partitions.any(|it| it.id() == partition))
}

/// Polls until the record at `offset` comes.
fn take<E: From<Error>>(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    offset: i64,
    each: &mut impl FnMut(TableRecord<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let gone = || Error::Gone {
        topic: topic.to_owned(),
        offset,
    };
    let deadline = Instant::now() + PROGRESS_WITHIN;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) if message.offset() == offset => return each(record(&message)),
            Some(Ok(message)) if message.offset() > offset => return Err(gone().into()),
            Some(Err(KafkaError::PartitionEOF(_))) => return Err(gone().into()),
            Some(Err(error)) if is_out_of_range(&error) => return Err(gone().into()),
            // A broker that is unreachable comes back, or the time is up.
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "poll failed while fetching from a table")
            }
            Some(Ok(_)) | None => {}
        }
    }
    Err(Error::Stalled {
        topic: topic.to_owned(),
        offset,
    }
    .into())
}
