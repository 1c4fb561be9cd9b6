//! The settings of a lane's consumer.

use rdkafka::config::ClientConfig;

use crate::{
    StageConfig,
    config::{RECEIVE, SESSION_TIMEOUT, SESSION_TIMEOUT_DEFAULT},
};

/// Of a partition; with that many in the queue no more are fetched.
const QUEUED_RECORDS_MIN: &str = "10000";

/// `input_bytes_max`: the largest batch that the input topic takes.
pub(super) fn consumer(config: &StageConfig, lane: usize, input_bytes_max: usize) -> ClientConfig {
    let buffer = config.lane_buffer_bytes();
    let limits = config.fetch_limits(input_bytes_max);
    let mut settings = config.cluster.consumer_config();
    settings
        .set("client.id", config.lane_name(lane))
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("fetch.message.max.bytes", limits.partition.to_string())
        .set("fetch.max.bytes", limits.fetch.to_string())
        .set("message.max.bytes", limits.message.to_string())
        .set(RECEIVE, limits.receive.to_string())
        .set("queued.max.messages.kbytes", (buffer / 1024).to_string())
        // A queued record costs half a kilobyte besides its bytes, which the limit above does not see.
        .set("queued.min.messages", QUEUED_RECORDS_MIN)
        // The default second would be waited out each time the bounded queue is full: large values would crawl.
        .set("fetch.queue.backoff.ms", "2");
    let session_ms = SESSION_TIMEOUT_DEFAULT.as_millis().to_string();
    let defaults = [
        // A new partition's offset is asked for again while its last transaction is being finished.
        ("retry.backoff.ms", "20"),
        ("retry.backoff.max.ms", "250"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        (SESSION_TIMEOUT, session_ms.as_str()),
        ("heartbeat.interval.ms", "100"),
        // On the embedded broker a waiting fetch is not woken by new data.
        (
            "fetch.wait.max.ms",
            if config.cluster.embedded { "10" } else { "500" },
        ),
    ];
    for (key, value) in defaults {
        if !config.cluster.properties.contains_key(key) {
            settings.set(key, value);
        }
    }
    if config
        .cluster
        .properties
        .get("group.protocol")
        .is_some_and(|p| p == "consumer")
    {
        // With KIP-848 these are the broker's to set.
        for key in [
            "partition.assignment.strategy",
            SESSION_TIMEOUT,
            "heartbeat.interval.ms",
        ] {
            settings.remove(key);
        }
    }
    settings
}
