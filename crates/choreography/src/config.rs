//! What a stage is told: which cluster, which topics, how to deliver, how much to hold.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::ClientConfig;

/// Keys of librdkafka that exactly-once and order depend on.
const OWNED_KEYS: [&str; 18] = [
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
    "request.required.acks",
    "transaction.timeout.ms",
    "transactional.id",
    "partitioner",
];

/// A setting that cannot be. The message names it and says what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("KAFKA_BOOTSTRAP_SERVERS is empty; give host:port, several separated by commas")]
    NoServers,
    #[error(
        "KAFKA_PROPERTIES: {entry:?} is not key=value; give one per line or separated by commas"
    )]
    NotAPair { entry: String },
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
    pub fn new(bootstrap_servers: &str, properties: &str) -> Result<Self, ConfigError> {
        if bootstrap_servers
            .split(',')
            .all(|server| server.trim().is_empty())
        {
            return Err(ConfigError::NoServers);
        }
        let properties = parse_properties(properties)?;
        let cluster = Cluster {
            bootstrap_servers: bootstrap_servers.trim().to_owned(),
            properties,
            embedded: false,
        };
        // librdkafka checks names and values when the native configuration is made.
        match cluster.client_config().create_native_config() {
            Ok(_) => Ok(cluster),
            Err(error) => Err(ConfigError::Refused {
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
        config
    }
}

fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut properties = BTreeMap::new();
    // A comma also separates values of a list: an entry without '=' continues the one before.
    let mut last: Option<String> = None;
    for line in text.lines() {
        for entry in line.split(',') {
            let trimmed = entry.trim();
            if trimmed.is_empty() {
                continue;
            }
            match (trimmed.split_once('='), &last) {
                (Some((key, value)), _) => {
                    let key = key.trim().to_owned();
                    if OWNED_KEYS.contains(&key.as_str()) {
                        return Err(ConfigError::Owned { key });
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
                    return Err(ConfigError::NotAPair {
                        entry: trimmed.to_owned(),
                    });
                }
            }
        }
        last = None;
    }
    Ok(properties)
}

/// How outputs and progress are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Outputs and offsets in one Kafka transaction.
    #[default]
    ExactlyOnce,
    /// Outputs confirmed, then offsets committed: lower latency; ids make a redelivery harmless.
    AtLeastOnce,
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
    /// None where the handler keeps the results itself.
    pub output: Option<String>,
    /// Stable name of this replica: a restarted process ends its predecessor's transactions by it.
    pub instance: String,
    /// Threads, each a member of the group; at most one a partition is started.
    pub lanes: usize,
    pub delivery: Delivery,
    pub limits: Limits,
    /// A record older than this, by its Kafka timestamp, is traced from here on.
    pub latency_objective: Option<Duration>,
}

impl StageConfig {
    /// # Errors
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let out = |setting, value: String, allowed| {
            Err(ConfigError::OutOfRange {
                setting,
                value,
                allowed,
            })
        };
        if !(1..=64).contains(&self.lanes) {
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
        if self.limits.in_flight_bytes_max < 8 << 20 {
            let value = self.limits.in_flight_bytes_max.to_string();
            return out("QUADRILLE_MEMORY", value, "at least 8 MiB");
        }
        Ok(())
    }

    /// Bytes each of a lane's buffers may hold.
    pub(crate) fn lane_buffer_bytes(&self) -> usize {
        (self.limits.in_flight_bytes_max / self.lanes.max(1) / 4).max(1 << 20)
    }
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
    fn keys_the_loop_owns_are_refused_by_name() {
        let error = Cluster::new("localhost:1", "isolation.level=read_uncommitted").unwrap_err();
        assert!(error.to_string().contains("isolation.level"), "{error}");
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
        assert_eq!(Cluster::new(" ", ""), Err(ConfigError::NoServers));
    }
}
