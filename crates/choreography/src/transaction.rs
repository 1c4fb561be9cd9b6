//! How a transaction ended, as far as Kafka has said: the settings and the rules of every transactional producer.
//!
//! librdkafka sends an EndTxn again by itself after a timeout or a lost connection, and says nothing of it. The
//! first one may be on its way still, and as the client (2.12.1) does not bump its epoch with each transaction, as
//! transaction version 2 would, the broker takes it for the end of whichever transaction is open when it comes
//! (KAFKA-17754): a later one is torn, or lost. So **a producer whose commit or abort was in doubt is not used
//! again**. Another one of the same id takes its place: `init_transactions` bumps the epoch, and what is late is
//! refused.

mod successor;

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

pub(crate) use self::successor::Successor;

/// What the client waits before it sends a request again: 80 to 120 % of this, doubled with each time
/// (`rd_kafka_broker_buf_retry`). Offsets it sends again after 500 ms in any case (`rd_kafka_txn_handle_TxnOffsetCommit`).
///
/// Its cost: a transaction that sends offsets alone waits for this while the one before it is being finished, as
/// AddOffsetsToTxn is retried after it, AddPartitionsToTxn after 20 ms (2.12.1, `rd_kafka_txn_handle_AddOffsetsToTxn`).
/// Batches that are all absorbed, one right after another, take half a second each.
const RETRY_BACKOFF_MS: &str = "500";
/// The cap of that wait: must not be below it.
const RETRY_BACKOFF_MAX_MS: &str = "1000";
/// A call that took this long may have sent its request twice. The answer to what was sent once comes sooner.
pub(crate) const IN_DOUBT_AFTER: Duration = Duration::from_millis(400);

/// What every transactional producer is set to.
pub(crate) fn settings(config: &mut ClientConfig, id: &str, timeout: Duration) {
    config
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout.as_millis().to_string())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("retry.backoff.ms", RETRY_BACKOFF_MS)
        .set("retry.backoff.max.ms", RETRY_BACKOFF_MAX_MS);
}

/// Why a commit did not succeed.
#[derive(Debug)]
pub(crate) enum NotCommitted {
    /// Nothing of the transaction is visible, nor will be.
    Aborted(KafkaError),
    /// Kafka did not say. Once another producer of the same id has initialised its transactions it is decided, and
    /// what the transaction wrote says how: see [`was_committed`].
    InDoubt(KafkaError),
}

/// Whether a transaction that was to commit these offsets did. To be asked after another producer of its id has
/// initialised its transactions. The consumer's group is the one the offsets were sent for; it reads committed, so the
/// broker answers with stable offsets (KIP-447), not those before a commit that is being finished.
pub(crate) fn was_committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<bool> {
    let committed = consumer.committed_offsets(offsets.clone(), timeout)?;
    let mut all = true;
    for sent in offsets.elements() {
        let found = committed
            .find_partition(sent.topic(), sent.partition())
            .ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
        found.error()?;
        all &= includes(found.offset(), sent.offset());
    }
    // They were sent together: one that is missing says that none was committed. A group's offsets only go on.
    Ok(all)
}

fn includes(committed: Offset, sent: Offset) -> bool {
    match (committed, sent) {
        (Offset::Offset(committed), Offset::Offset(sent)) => committed >= sent,
        _ => false,
    }
}

/// Whether an error says that the producer's epoch is not the newest of its id.
pub(crate) fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
                | RDKafkaErrorCode::Fenced
        )
    )
}

/// Whether another client that uses this producer's id fenced it. The coordinator does so too, with the same errors, when
/// it ends a transaction that is older than its timeout, which it counts from no earlier than `open_for` does.
pub(crate) fn is_fenced_by_other(
    error: &KafkaError,
    open_for: Option<Duration>,
    timeout: Duration,
) -> bool {
    is_fenced(error) && open_for.is_none_or(|open_for| open_for < timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_happened_if_the_group_is_at_its_offsets_or_past_them() {
        let sent = Offset::Offset(7);
        for (committed, expected) in [
            (Offset::Offset(6), false),
            (Offset::Offset(7), true),
            (Offset::Offset(8), true),
            // The group has committed nothing yet.
            (Offset::Invalid, false),
        ] {
            assert_eq!(includes(committed, sent), expected, "{committed:?}");
        }
    }

    #[test]
    fn only_a_transaction_younger_than_its_timeout_is_fenced_by_a_rival() {
        let timeout = Duration::from_secs(10);
        let fenced = KafkaError::Global(RDKafkaErrorCode::InvalidProducerEpoch);
        let other = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
        assert!(is_fenced_by_other(
            &fenced,
            Some(Duration::from_secs(2)),
            timeout
        ));
        assert!(!is_fenced_by_other(
            &fenced,
            Some(Duration::from_secs(10)),
            timeout
        ));
        assert!(
            is_fenced_by_other(&fenced, None, timeout),
            "while it initialises"
        );
        assert!(!is_fenced_by_other(&other, Some(Duration::ZERO), timeout));
    }
}
