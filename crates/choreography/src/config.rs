//! What a stage is told: which cluster, which topics, how to deliver, how much to hold.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, error::KafkaError};

/// Keys of librdkafka that exactly-once and order depend on, under the name that the loop uses.
const OWNED_KEYS: [&str; 21] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "partitioner",
    // What is acknowledged is acknowledged with its offset.
    "produce.offset.report",
    // Last in, first out, is an order, too.
    "queuing.strategy",
    // A cluster in this process's memory, in place of the one that is named.
    "test.mock.num.brokers",
    "transaction.timeout.ms",
    "transactional.id",
    "enabled_events",
];

/// librdkafka's second names, and the ones that the loop uses. A key set under both would have the value of either.
const ALIASES: [(&str, &str); 8] = [
    ("compression.codec", "compression.type"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("message.send.max.retries", "retries"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("request.required.acks", "acks"),
];

/// The most that a client receives in one answer. Its other meaning: what does not decompress into that is not read.
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
}

/// The Kafka cluster to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub(crate) bootstrap_servers: String,
    pub(crate) properties: BTreeMap<String, String>,
    /// An in-process [`crate::EmbeddedBroker`]: some requests it does not speak.
    pub(crate) embedded: bool,
}

impl Cluster {
    /// `properties`: extra librdkafka settings, `key=value`, one per line or separated by commas.
    ///
    /// # Errors
    /// Names the setting that is malformed, owned by the loop or unknown to librdkafka.
    pub fn new(bootstrap_servers: &str, properties: &str) -> Result<Self, Error> {
        if bootstrap_servers
            .split(',')
            .all(|server| server.trim().is_empty())
        {
            return Err(Error::NoServers);
        }
        let properties = parse_properties(properties)?;
        check_receive(&properties)?;
        let cluster = Cluster {
            bootstrap_servers: bootstrap_servers.trim().to_owned(),
            properties,
            embedded: false,
        };
        // librdkafka checks names and values when the native configuration is made.
        match cluster.client_config().create_native_config() {
            Ok(_) => Ok(cluster),
            // Without the value, which of a misspelt key may be a password.
            Err(KafkaError::ClientConfig(_, description, key, _)) => Err(Error::Refused {
                reason: format!("{key}: {description}"),
            }),
            Err(error) => Err(Error::Refused {
                reason: error.to_string(),
            }),
        }
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    pub fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// The settings every client of this cluster has.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.nagle.disable", "true");
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        // A client that may fetch more than it may receive cannot be made.
        let fetch = "fetch.max.bytes";
        if let Some(bytes) = self.receive_bytes_max()
            && !self.properties.contains_key(fetch)
        {
            config.set(fetch, (bytes / 2).min(FETCH_BYTES_DEFAULT).to_string());
        }
        config
    }

    /// The settings of a client that reads what others wrote: as Kafka's own clients, and unlike librdkafka unasked, it
    /// takes nothing that is damaged.
    pub(crate) fn consumer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        if !self.properties.contains_key(CHECK) {
            config.set(CHECK, "true");
        }
        config
    }

    /// What a client may receive in one answer, where that was set.
    fn receive_bytes_max(&self) -> Option<usize> {
        self.properties.get(RECEIVE)?.parse().ok()
    }
}

const CHECK: &str = "check.crcs";
/// librdkafka's default of `fetch.max.bytes`.
const FETCH_BYTES_DEFAULT: usize = 50 << 20;

fn check_receive(properties: &BTreeMap<String, String>) -> Result<(), Error> {
    let Some(value) = properties.get(RECEIVE) else {
        return Ok(());
    };
    // What is no number librdkafka refuses.
    if value
        .parse()
        .is_ok_and(|bytes: usize| bytes < RECEIVE_BYTES_MIN)
    {
        return Err(Error::OutOfRange {
            setting: "KAFKA_PROPERTIES: receive.message.max.bytes",
            value: value.clone(),
            allowed: "at least 2000000",
        });
    }
    Ok(())
}

fn canonical(key: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == key);
    alias.map_or(key, |(_, name)| name)
}

fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut properties = BTreeMap::new();
    // A comma also separates values of a list: an entry without '=' continues the one before.
    let mut last: Option<String> = None;
    for (at, line) in text.lines().enumerate() {
        for entry in line.split(',') {
            let trimmed = entry.trim();
            if trimmed.is_empty() {
                continue;
            }
            match (trimmed.split_once('='), &last) {
                (Some((key, value)), _) => {
                    let given = key.trim();
                    let key = canonical(given).to_owned();
                    if OWNED_KEYS.contains(&key.as_str()) {
                        let key = given.to_owned();
                        return Err(Error::Owned { key });
                    }
                    properties.insert(key.clone(), value.trim().to_owned());
                    last = Some(key);
                }
                (None, Some(key)) => {
                    let value: &mut String = properties.entry(key.clone()).or_default();
                    value.push(',');
                    value.push_str(trimmed);
                }
                (None, None) => {
                    return Err(Error::NotAPair { line: at + 1 });
                }
            }
        }
        last = None;
    }
    Ok(properties)
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
    /// confirmed before it. The offsets in Kafka are for whoever looks at the lag.
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
    /// How long a batch that is not full waits for company when records arrive steadily.
    pub linger_max: Duration,
    /// Bytes in flight in all lanes of a stage: fetched, batched and queued for sending.
    pub in_flight_bytes_max: usize,
    /// Attempts of a record that fails retriably, before it is dead-lettered.
    pub attempts_max: u32,
    pub retry_first: Duration,
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
    /// Threads, each a member of the group; at most one a partition is started.
    pub lanes: usize,
    pub commit: CommitMode,
    pub limits: Limits,
    /// A record older than this, by its Kafka timestamp, is traced from here on.
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

    #[test]
    fn properties_come_by_line_or_by_comma_and_values_may_hold_commas() {
        let parsed = parse_properties("a=1,b=2\n\n c = x=y \nlist=p,q,r").unwrap();
        let pairs: Vec<_> = parsed
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("a", "1"), ("b", "2"), ("c", "x=y"), ("list", "p,q,r")]
        );
    }

    #[test]
    fn a_value_is_not_in_the_error_of_its_setting() {
        for (properties, told) in [
            ("sasl.pasword=hunter2", "sasl.pasword"),
            ("linger.ms=hunter2", "linger.ms"),
            ("enable.random.seed=hunter2", "enable.random.seed"),
            ("linger.ms=5\nhunter2", "line 2"),
        ] {
            let error = Cluster::new("localhost:1", properties).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains(told) && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }

    #[test]
    fn keys_the_loop_owns_are_refused_by_name() {
        let error = Cluster::new("localhost:1", "isolation.level=read_uncommitted").unwrap_err();
        assert!(error.to_string().contains("isolation.level"), "{error}");
    }

    #[test]
    fn keys_the_loop_owns_are_refused_under_their_other_names_too() {
        for key in [
            "delivery.timeout.ms",
            "metadata.broker.list",
            "max.in.flight",
            "request.required.acks",
            "queuing.strategy",
            "test.mock.num.brokers",
        ] {
            let error = parse_properties(&format!("{key}=1")).unwrap_err();
            let key = key.to_owned();
            assert_eq!(error, Error::Owned { key });
        }
    }

    #[test]
    fn every_alias_is_one_of_librdkafkas() {
        for (alias, name) in ALIASES {
            let is_same = |value: &str| {
                let set = ClientConfig::new().set(alias, value).create_native_config();
                let found = set.and_then(|native| native.get(name));
                found.is_ok_and(|found| found == value)
            };
            // Of a number, a switch and a name one fits.
            let fits = ["7", "false", "gzip"].into_iter().any(is_same);
            assert!(fits, "{alias} is {name}");
        }
    }

    #[test]
    fn a_setting_under_another_name_is_kept_under_the_one_the_loop_uses() {
        let parsed = parse_properties("queue.buffering.max.ms=5,max.partition.fetch.bytes=7");
        let parsed = parsed.unwrap();
        assert_eq!(parsed.get("linger.ms").map(String::as_str), Some("5"));
        let fetch = parsed.get("fetch.message.max.bytes");
        assert_eq!(fetch.map(String::as_str), Some("7"));
    }

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

    #[test]
    fn a_client_that_could_not_receive_a_batch_is_refused() {
        let error = Cluster::new("localhost:1", "receive.message.max.bytes=100000").unwrap_err();
        assert!(error.to_string().contains("2000000"), "{error}");
    }

    #[test]
    fn a_key_librdkafka_does_not_know_is_refused_by_name() {
        let error = Cluster::new("localhost:1", "no.such.key=1").unwrap_err();
        assert!(error.to_string().contains("no.such.key"), "{error}");
    }

    #[test]
    fn tls_and_sasl_are_compiled_in() {
        let text = "security.protocol=SASL_SSL,sasl.mechanism=SCRAM-SHA-512,sasl.username=u,sasl.password=p";
        Cluster::new("localhost:1", text).unwrap();
    }

    #[test]
    fn no_servers_is_an_error() {
        assert_eq!(Cluster::new(" ", ""), Err(Error::NoServers));
    }
}
