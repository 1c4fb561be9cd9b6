//! A stage's configuration: which cluster, which topics, how to deliver, how much to hold.

mod cluster;

use std::time::Duration;

pub use self::cluster::Cluster;
pub(crate) use self::cluster::{SESSION_TIMEOUT, SESSION_TIMEOUT_DEFAULT};

/// The most that a client receives in one answer. A larger one closes the connection, for all partitions on it. Its other
/// meaning: with zstd, and zstd alone, what does not decompress into that is not read (2.12.1); gzip is decompressed
/// twice, the first time to learn its size, without a bound.
pub(crate) const RECEIVE: &str = "receive.message.max.bytes";
/// librdkafka's default of it.
const RECEIVE_BYTES_DEFAULT: usize = 100_000_000;
/// Below it a client could not receive one batch of Kafka's default size.
const RECEIVE_BYTES_MIN: usize = 2_000_000;
/// Room for the rest of an answer around its batches.
const ANSWER_BYTES: usize = 64 << 10;
/// The most lanes of a stage.
pub const LANES_MAX: usize = 64;
/// The least a lane's buffers hold: what [`LANES_MAX`] lanes have of the smallest memory. One larger record always passes.
const LANE_BUFFER_BYTES_MIN: usize = MEMORY_BYTES_MIN / LANES_MAX / LANE_BUFFERS;
const MEMORY_BYTES_MIN: usize = 8 << 20;
/// What is fetched, the batch, and the producer's queue, which may hold twice as much.
const LANE_BUFFERS: usize = 4;

/// A setting that cannot be. The message names it and says what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("KAFKA_BOOTSTRAP_SERVERS is empty; give host:port, several separated by commas")]
    NoServers,
    /// Without its text, which may be a password.
    #[error(
        "KAFKA_PROPERTIES: line {line} does not begin with key=value; give one per line or separated by commas"
    )]
    NotAPair { line: usize },
    #[error("KAFKA_PROPERTIES: {key} is set by Quadrille, delivery depends on it; remove it")]
    Owned { key: String },
    #[error("KAFKA_PROPERTIES: librdkafka refuses a setting: {reason}")]
    Refused { reason: String },
    #[error("{setting} is {value}; it must be {allowed}")]
    OutOfRange {
        setting: &'static str,
        value: String,
        allowed: &'static str,
    },
    #[error(
        "QUADRILLE_DELIVERY is at-least-once, but the stage keeps state, in which a repeated record would count twice; set it to exactly-once"
    )]
    StateNeedsTransactions,
}

/// How often an output may come: the setting of stages that write to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    #[default]
    ExactlyOnce,
    /// Lower latency; ids make a redelivery harmless.
    AtLeastOnce,
}

/// How a stage makes its outputs and its progress durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommitMode {
    /// Outputs, dead letters and offsets in one Kafka transaction.
    #[default]
    Kafka,
    /// Outputs and dead letters are confirmed, then offsets are committed.
    AtLeastOnce,
    /// Results and offsets in one transaction of the handler's store ([`crate::OffsetStore`]); dead letters are
    /// confirmed before it. The offsets in Kafka only serve to show the lag.
    Store,
}

impl CommitMode {
    /// Whether each batch is a Kafka transaction.
    pub(crate) fn is_transactional(self) -> bool {
        self == CommitMode::Kafka
    }
}

impl From<Delivery> for CommitMode {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::ExactlyOnce => CommitMode::Kafka,
            Delivery::AtLeastOnce => CommitMode::AtLeastOnce,
        }
    }
}

/// Bounds of a lane's batch and of what an instance holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Records in a batch, and so in a transaction.
    pub batch_records_max: usize,
    /// Bytes of keys and payloads in a batch.
    pub batch_bytes_max: usize,
    /// How long a batch that is not full waits for more records, at most, while they arrive steadily.
    pub linger_max: Duration,
    /// Bytes in flight in all lanes of a stage: fetched, batched and queued for sending.
    pub in_flight_bytes_max: usize,
    /// Attempts of a record that fails with `Retry`, the first one included; then it is dead-lettered.
    pub attempts_max: u32,
    /// The wait before the first retry; each further one is twice as long ([`crate::Backoff`]).
    pub retry_first: Duration,
    /// The longest wait between two attempts.
    pub retry_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_records_max: 5_000,
            batch_bytes_max: 4 << 20,
            linger_max: Duration::from_millis(25),
            in_flight_bytes_max: 32 << 20,
            attempts_max: 5,
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// A topic that a stage writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTopic {
    /// Its handler's name for it: [`crate::Destination::output`].
    pub name: &'static str,
    pub topic: String,
}

/// A lane of one of a stage's replicas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId {
    /// As [`StageConfig::instance`].
    pub instance: String,
    /// From 0.
    pub index: usize,
}

/// One stage of one pipeline.
#[derive(Debug, Clone)]
pub struct StageConfig {
    pub cluster: Cluster,
    /// The service's name, for dead letters and thread names.
    pub service: &'static str,
    pub pipeline: String,
    /// Consumer group.
    pub group: String,
    pub input: String,
    /// The topics that the handler writes by their names, each with the input's number of partitions. None where it keeps
    /// the results itself.
    pub outputs: Vec<OutputTopic>,
    /// Stable name of this replica: a restarted process ends its predecessor's transactions by it.
    pub instance: String,
    /// Threads, each a member of the group: 1 to [`LANES_MAX`], of which at most one per partition is started.
    pub lanes: usize,
    pub commit: CommitMode,
    pub limits: Limits,
    /// A record older than this when it is committed, by its Kafka timestamp, is traced from here on, and counted as late.
    pub latency_objective: Option<Duration>,
}

impl StageConfig {
    /// # Errors
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let out = |setting, value: String, allowed| {
            Err(Error::OutOfRange {
                setting,
                value,
                allowed,
            })
        };
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return out("QUADRILLE_LANES", self.lanes.to_string(), "1 to 64");
        }
        let name_ok = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if self.instance.is_empty() || !self.instance.chars().all(name_ok) {
            return out(
                "QUADRILLE_INSTANCE",
                format!("{:?}", self.instance),
                "letters, digits and . _ - :",
            );
        }
        if self.limits.in_flight_bytes_max < MEMORY_BYTES_MIN {
            let value = self.limits.in_flight_bytes_max.to_string();
            return out("QUADRILLE_MEMORY", value, "at least 8 MiB");
        }
        Ok(())
    }

    /// The name of a lane of any replica of this stage: of its clients, in its group among other places, and of its transactions.
    pub(crate) fn name_of(&self, lane: &LaneId) -> String {
        format!("{}-{}-{}", self.group, lane.instance, lane.index)
    }

    /// The same of a lane of this replica.
    pub(crate) fn lane_name(&self, index: usize) -> String {
        let instance = self.instance.clone();
        self.name_of(&LaneId { instance, index })
    }

    /// Bytes each of a lane's buffers may hold.
    pub(crate) fn lane_buffer_bytes(&self) -> usize {
        let share = self.limits.in_flight_bytes_max / self.lanes.max(1) / LANE_BUFFERS;
        share.max(LANE_BUFFER_BYTES_MIN)
    }

    /// How much a lane fetches at once, from all partitions and in one answer, and the largest answer it takes: one with
    /// the largest batch that the topic takes. A batch that is larger than a limit of a fetch comes all the same.
    pub(crate) fn fetch_limits(&self, input_bytes_max: usize) -> FetchLimits {
        let buffer = self.lane_buffer_bytes();
        let message = buffer.min(1_000_000);
        let fetch = (buffer / 2).max(message);
        let set = self.cluster.receive_bytes_max();
        let receive = set.unwrap_or_else(|| {
            let needed = fetch
                .saturating_add(input_bytes_max)
                .saturating_add(ANSWER_BYTES);
            needed.clamp(RECEIVE_BYTES_DEFAULT, i32::MAX as usize)
        });
        FetchLimits {
            partition: buffer / 2,
            message,
            fetch: fetch.min(receive.saturating_sub(ANSWER_BYTES)),
            receive,
        }
    }
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FetchLimits {
    /// Of one partition.
    pub partition: usize,
    /// What librdkafka takes for the largest message; it wants to fetch that much at least.
    pub message: usize,
    pub fetch: usize,
    pub receive: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(lanes: usize, memory_mib: usize, properties: &str) -> StageConfig {
        StageConfig {
            cluster: Cluster::new("localhost:1", properties).unwrap(),
            service: "feature",
            pipeline: "p".to_owned(),
            group: "g".to_owned(),
            input: "in".to_owned(),
            outputs: Vec::new(),
            instance: "i".to_owned(),
            lanes,
            commit: CommitMode::Kafka,
            limits: Limits {
                in_flight_bytes_max: memory_mib << 20,
                ..Limits::default()
            },
            latency_objective: None,
        }
    }

    #[test]
    fn many_lanes_hold_no_more_than_the_memory_they_are_given() {
        for memory in [8, 32, 512] {
            for lanes in 1..=LANES_MAX {
                let config = stage(lanes, memory, "");
                config.validate().unwrap();
                let held = config.lane_buffer_bytes() * LANE_BUFFERS * lanes;
                assert!(
                    held <= memory << 20,
                    "{lanes} lanes hold {held} of {memory} MiB"
                );
            }
        }
    }

    #[test]
    fn a_lane_fetches_no_more_than_it_takes_and_takes_the_topics_largest_batch() {
        for (lanes, properties) in [(1, ""), (64, ""), (2, "receive.message.max.bytes=2000000")] {
            let config = stage(lanes, 32, properties);
            let limits = config.fetch_limits(1_048_588);
            assert!(limits.fetch + 512 <= limits.receive, "{limits:?}");
            assert!(limits.message <= limits.fetch, "{limits:?}");
        }
        let receive = stage(1, 32, "").fetch_limits(500_000_000).receive;
        assert!(receive > 500_000_000);
    }
}
