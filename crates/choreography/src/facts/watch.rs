//! A running stage's look at its topics, now and then: whether they are what they were.
//!
//! The client does not notice: it reads a topic that was deleted and created again on at the old position (2.12.1,
//! `rd_kafka_topic_metadata_update`, a FIXME), and where the new log is longer its first records are skipped.

use std::time::Duration;

use rdkafka::{consumer::Consumer, error::KafkaError};

use super::StageIdentity;
use crate::{Cluster, admin, client, status::Stop};

/// Bounds how long records of a topic that was recreated are taken for the old one's. One question costs less than a
/// lane's look at its lag.
const CHECK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks until the stage ends.
///
/// # Errors
/// A topic is another, or has another number of partitions; the stage is asked to end.
pub(crate) fn watch(
    cluster: &Cluster,
    identity: &StageIdentity,
    stop: &Stop,
) -> Result<(), admin::Error> {
    let names: Vec<&str> = identity.topics.iter().map(|it| it.name.as_str()).collect();
    loop {
        stop.sleep(CHECK_EVERY);
        if stop.requested() {
            return Ok(());
        }
        let checked = check(cluster, &names, identity);
        if let Err(changed) = checked {
            let pipeline = &identity.pipeline;
            tracing::error!(pipeline, error = %changed, "a topic was recreated or repartitioned; stopping the stage");
            stop.request();
            return Err(changed);
        }
    }
}

fn check(cluster: &Cluster, names: &[&str], identity: &StageIdentity) -> Result<(), admin::Error> {
    let described = describe(cluster, names, identity);
    match described {
        Ok(now) => identity.compare(&now),
        // Kafka is unreachable, and the lanes say so: the next look tells.
        Err(error) => {
            tracing::debug!(pipeline = identity.pipeline, %error, "topics not described");
            Ok(())
        }
    }
}

fn describe(
    cluster: &Cluster,
    names: &[&str],
    identity: &StageIdentity,
) -> Result<Vec<crate::TopicState>, KafkaError> {
    let consumer = identity.client(cluster)?;
    // Waits for a connection. A description waits for one as well, but the client looks for it again each time connecting
    // fails: three quarters of a core as long as Kafka is unreachable.
    consumer.fetch_metadata(names.first().copied(), ANSWER_WITHIN)?;
    client::describe(cluster, consumer.client(), names, ANSWER_WITHIN)
}
