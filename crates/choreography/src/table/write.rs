//! Records of a table written together: all of them are seen, or none.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{error::KafkaError, producer::BaseRecord};

use crate::{
    Cluster, client,
    producer::{self, LaneProducer},
    transaction::{self, NotCommitted},
};

/// A transaction whose writer was killed holds back the table's readers this long, and for
/// [`BYTES_PER_SECOND_MIN`]'s sake longer if it is big.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(20);
/// The slowest line to Kafka that is reckoned with.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// How long Kafka may take to begin, to commit or to abort a transaction.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The largest record that is written, and `max.message.bytes` of the models' topic: the largest package manifest (4 MiB)
/// and room around it.
pub(crate) const RECORD_BYTES_MAX: usize = (4 << 20) + (64 << 10);
/// Bounds what was handed over and is not confirmed.
const QUEUE_KIB_MAX: &str = "16384";

/// A record to write.
#[derive(Debug, Clone)]
pub struct TableWrite<'a> {
    pub key: String,
    /// None: a tombstone, which deletes the key.
    pub value: Option<&'a [u8]>,
}

/// Why records were not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{topic}: Kafka did not begin a transaction: {reason}")]
    Begin { topic: String, reason: String },
    #[error("{topic}: the record {key} of {bytes} bytes is larger than {limit}")]
    TooLarge {
        topic: String,
        key: String,
        bytes: usize,
        limit: String,
    },
    #[error("{topic}: nothing was written: {reason}")]
    Aborted { topic: String, reason: String },
    /// Only reading tells.
    #[error("{topic}: Kafka did not say whether it committed: {reason}")]
    InDoubt { topic: String, reason: String },
}

/// Writes all records in one transaction, confirmed by all in-sync replicas. Blocks.
///
/// # Errors
/// Nothing is seen by readers, but for [`Error::InDoubt`], where nobody knows.
pub fn write_table(
    cluster: &Cluster,
    topic: &str,
    records: &[TableWrite<'_>],
) -> Result<(), Error> {
    let begin = |error: KafkaError| Error::Begin {
        topic: topic.to_owned(),
        reason: error.to_string(),
    };
    let bytes: usize = records.iter().map(size).sum();
    let timeout =
        TRANSACTION_TIMEOUT_MIN + Duration::from_secs(bytes as u64 / BYTES_PER_SECOND_MIN);
    let name = own_name(topic);
    let producer = connect(cluster, &name, timeout).map_err(begin)?;
    producer.init_transactions(ANSWER_WITHIN).map_err(begin)?;
    producer.begin().map_err(begin)?;
    let sent = send(&producer, topic, records, timeout);
    if let Err(error) = sent {
        if let Err(failed) = producer.abort() {
            tracing::warn!(topic, %failed, "transaction could not be aborted; it ends when it times out");
        }
        return Err(error);
    }
    producer.commit().map_err(|not_committed| {
        let topic = topic.to_owned();
        match not_committed {
            NotCommitted::Aborted(error) => Error::Aborted {
                topic,
                reason: error.to_string(),
            },
            NotCommitted::InDoubt(error) => {
                let mut reason = error.to_string();
                producer.mark_replaced();
                if let Err(error) = decide(cluster, &name, timeout) {
                    reason = format!("{reason}; it may be committed late: {error}");
                }
                Error::InDoubt { topic, reason }
            }
        }
    })
}

/// Ends the doubt: another producer of the same id lets Kafka finish what was to be committed or abort it, and a request
/// that is late is refused. Whoever reads then reads what stays.
fn decide(cluster: &Cluster, name: &str, timeout: Duration) -> Result<(), KafkaError> {
    connect(cluster, name, timeout)?.init_transactions(ANSWER_WITHIN)
}

fn size(record: &TableWrite<'_>) -> usize {
    record.key.len() + record.value.map_or(0, <[u8]>::len)
}

fn connect(cluster: &Cluster, name: &str, timeout: Duration) -> Result<LaneProducer, KafkaError> {
    let mut settings = cluster.client_config();
    transaction::settings(&mut settings, name, timeout);
    settings
        .set("client.id", name)
        .set("message.timeout.ms", timeout.as_millis().to_string())
        .set("linger.ms", "0")
        // A batch must fit the broker's usual limit; a larger record travels alone.
        .set("batch.size", "1000000")
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX);
    LaneProducer::start(&settings, "table-writer")
}

/// Unique to this writer: two writers at once do not end each other's transactions.
fn own_name(topic: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{topic}-{:x}-{:x}-{number}",
        since.as_nanos(),
        std::process::id()
    )
}

fn send(
    producer: &LaneProducer,
    topic: &str,
    records: &[TableWrite<'_>],
    timeout: Duration,
) -> Result<(), Error> {
    let aborted = |reason: String| Error::Aborted {
        topic: topic.to_owned(),
        reason,
    };
    let too_large = |index: usize, limit: String| Error::TooLarge {
        topic: topic.to_owned(),
        key: records
            .get(index)
            .map_or_else(String::new, |record| record.key.clone()),
        bytes: records.get(index).map_or(0, size),
        limit,
    };
    for (index, write) in records.iter().enumerate() {
        let mut record =
            BaseRecord::<'_, [u8], [u8], usize>::with_opaque_to(topic, index).partition(0);
        record.key = Some(write.key.as_bytes());
        record.payload = write.value;
        match producer.send(record) {
            Ok(()) => {}
            Err(producer::Error::TooLarge) => {
                return Err(too_large(index, format!("{RECORD_BYTES_MAX} bytes")));
            }
            Err(producer::Error::Failed(undelivered)) => return Err(aborted(undelivered.reason)),
        }
    }
    match producer.wait_delivered_within(timeout) {
        Ok(()) => Ok(()),
        Err(Some(failure)) if client::is_too_large(&failure.error) => Err(too_large(
            failure.index,
            "the topic's max.message.bytes; raise it with kafka-configs --alter".to_owned(),
        )),
        Err(Some(failure)) => Err(aborted(failure.error.to_string())),
        Err(None) => Err(aborted(format!(
            "Kafka did not confirm all records within {} s",
            timeout.as_secs()
        ))),
    }
}
