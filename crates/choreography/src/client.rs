//! What all of this crate's Kafka clients have in common: logging and how errors are read.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientContext,
    client::Client,
    config::RDKafkaLogLevel,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use crate::{Cluster, native, topic_state::TopicState};

/// librdkafka's log lines become events of target `librdkafka`.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // Part of any rebalance under load, which the lane logs itself.
        RDKafkaLogLevel::Error if is_stale_generation(facility, message) => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Whether a rebalance came between a transaction's offsets and their commit.
fn is_stale_generation(facility: &str, message: &str) -> bool {
    facility == "TXNERR" && message.contains("ILLEGAL_GENERATION")
}

/// Milliseconds between two lines that say that no broker answers, whichever client notices.
const DOWN_EVERY_MS: u64 = 10_000;

/// A global error of a client: it reconnects by itself, so this is a warning, not a failure.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    static LOGGED_AT: AtomicU64 = AtomicU64::new(0);
    match error.rdkafka_error_code() {
        // The end of a topic that is read to its end.
        Some(RDKafkaErrorCode::PartitionEOF) => {}
        Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let now = now.as_millis() as u64;
            let logged_at = LOGGED_AT.load(Ordering::Relaxed);
            let due = now.saturating_sub(logged_at) >= DOWN_EVERY_MS;
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            if due
                && LOGGED_AT
                    .compare_exchange(logged_at, now, order.0, order.1)
                    .is_ok()
            {
                tracing::warn!(target: "librdkafka", reason, "Kafka does not answer; reconnecting");
            }
        }
        _ => tracing::warn!(target: "librdkafka", %error, reason, "Kafka client error"),
    }
}

/// The context of clients that need no other.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoggingContext;

impl ClientContext for LoggingContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for LoggingContext {}

/// Of a producer that sends nothing.
impl rdkafka::producer::ProducerContext for LoggingContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

/// The context of a client that asks and is not polled otherwise: why its connections fail. Its errors wait for a poll,
/// and its calls say "transport failure" whatever the reason, a wrong password or an untrusted certificate included.
#[derive(Debug, Default)]
pub(crate) struct LastErrorContext(Mutex<Option<String>>);

impl LastErrorContext {
    /// What was said last, of whatever is not merely that nobody is connected.
    pub fn last(&self) -> Option<String> {
        self.reason().clone()
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl ClientContext for LastErrorContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.reason() = Some(reason.to_owned());
        }
        log_error(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for LastErrorContext {}

/// Topics as the brokers describe them; those that are not there are left out. The embedded broker does not answer
/// the question for ids: of its topics there is the number of partitions alone.
///
/// # Errors
/// No answer within the time: nothing is known then.
pub(crate) fn describe<C: ClientContext>(
    cluster: &Cluster,
    client: &Client<C>,
    topics: &[&str],
    within: Duration,
) -> KafkaResult<Vec<TopicState>> {
    // The embedded broker of another process is known by its cluster's id.
    let is_mock = || {
        let id = client.fetch_cluster_id(within);
        id.is_some_and(|id| id.starts_with("mockCluster"))
    };
    if !cluster.is_embedded() && !is_mock() {
        let described = native::describe_topics(client, topics, within);
        return described.map_err(KafkaError::AdminOp);
    }
    let mut found = Vec::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), within)?;
        let there = metadata.topics().iter().find(|it| it.name() == *topic);
        found.extend(
            there
                .filter(|it| it.error().is_none())
                .map(|it| TopicState {
                    name: it.name().to_owned(),
                    id: None,
                    partitions: it.partitions().len() as i32,
                }),
        );
    }
    Ok(found)
}

/// Whether the broker (or the client, before sending) found a message too large.
pub(crate) fn is_too_large(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)
    )
}

/// Why a record, and not the state of things, keeps it from being written, as a short stable name: the same record is
/// refused again. None where the error is not one of the record.
pub(crate) fn rejection_class(error: &KafkaError) -> Option<&'static str> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
            Some("too_large")
        }
        // The topic has bounds of its own on timestamps, or takes no record without a key.
        RDKafkaErrorCode::InvalidTimestamp | RDKafkaErrorCode::InvalidRecord => Some("refused"),
        _ => None,
    }
}

/// A record's Kafka timestamp as the producer takes it: librdkafka takes 0 for "none" and sets the present time, so the
/// first millisecond of 1970 becomes the second.
pub(crate) fn timestamp(ms: Option<i64>) -> Option<i64> {
    ms.map(|ms| if ms == 0 { 1 } else { ms })
}

/// Whether the client's own send queue is full.
pub(crate) fn is_queue_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_of_1970_is_not_the_present() {
        assert_eq!(timestamp(Some(0)), Some(1));
        assert_eq!(timestamp(Some(1_700_000_000_000)), Some(1_700_000_000_000));
        assert_eq!(timestamp(None), None);
    }
}
