//! The Kafka cluster to talk to, and the extra settings of its clients.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{ClientConfig, error::KafkaError};

use super::{Error, RECEIVE, RECEIVE_BYTES_MIN};

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
    /// takes nothing that is damaged: without `check.crcs` librdkafka (2.12.1) reads whatever the bytes of a damaged batch
    /// happen to mean; with it that batch is left out, and reported as an error.
    pub(crate) fn consumer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        if !self.properties.contains_key(CHECK) {
            config.set(CHECK, "true");
        }
        config
    }

    /// After how long without a sign of life a member's partitions are another's: as it is set, or Quadrille's default. With the
    /// protocol of KIP-848 the brokers set it, to 45 s by default, and never below this default.
    pub fn session_timeout(&self) -> Duration {
        let set = self.properties.get(SESSION_TIMEOUT);
        let set = set.and_then(|ms| ms.parse().ok());
        set.map_or(SESSION_TIMEOUT_DEFAULT, Duration::from_millis)
    }

    /// What a client may receive in one answer, where that was set.
    pub(super) fn receive_bytes_max(&self) -> Option<usize> {
        self.properties.get(RECEIVE)?.parse().ok()
    }
}

const CHECK: &str = "check.crcs";
pub(crate) const SESSION_TIMEOUT: &str = "session.timeout.ms";
/// The shortest that brokers allow by default: how long a killed replica's partitions stand still.
pub(crate) const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(6);
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
    fn the_session_lasts_as_long_as_it_is_set_to() {
        let session =
            |properties| Cluster::new("localhost:1", properties).map(|it| it.session_timeout());
        assert_eq!(session(""), Ok(Duration::from_secs(6)));
        assert_eq!(
            session("session.timeout.ms=45000"),
            Ok(Duration::from_secs(45))
        );
        assert!(session("session.timeout.ms=soon").is_err());
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
