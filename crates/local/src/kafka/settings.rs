//! The broker's settings: small, quick to start, replication factor 1.

use std::path::Path;

use super::{Member, Options, Ports, secured};
use crate::Error;

const DEFAULTS: &str = "\
auto.create.topics.enable=false
# One broker holds the only replica.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# 50 partitions each by default: seconds of start-up.
offsets.topic.num.partitions=5
transaction.state.log.num.partitions=5
share.coordinator.state.topic.num.partitions=5
# Consumers need not wait for company.
group.initial.rebalance.delay.ms=0
# A killed client's open transaction holds readers back until this scan.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
# After kill -9 the controller refuses the broker until its old session is over: 5 s to a restart, not 12 s.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# A bound on what a forgotten producer can fill: a week, 2 GiB a partition.
log.retention.hours=168
log.retention.bytes=2147483648
log.segment.bytes=134217728
# 128 MB by default, taken at start from a small heap.
log.cleaner.dedupe.buffer.size=16777216
";

/// Overrides for several brokers: nothing is lost with one of them, and one may be down.
const OF_MANY: &str = "\
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
default.replication.factor=3
min.insync.replicas=2
";

/// The broker's address and identity, on which the rest of this crate relies: they cannot be overridden.
const OWNED: [&str; 11] = [
    "advertised.listeners",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.voters",
    "inter.broker.listener.name",
    "listener.security.protocol.map",
    "listeners",
    "log.dir",
    "log.dirs",
    "node.id",
    "process.roles",
];

pub(super) fn check(extra: &[(String, String)]) -> Result<(), Error> {
    match extra.iter().find(|(key, _)| OWNED.contains(&key.trim())) {
        Some((key, _)) => Err(Error::OwnedSetting { key: key.clone() }),
        None => Ok(()),
    }
}

/// The content of `server.properties`. If a key occurs twice, the last one counts. `member`: None for a single broker.
pub(super) fn server(
    options: &Options,
    ports: Ports,
    member: Option<&Member>,
    data: &Path,
) -> String {
    let broker = format!("127.0.0.1:{}", ports.broker);
    let controller = format!("127.0.0.1:{}", ports.controller);
    // Of its own, so that the broker's requests to itself do not go through the proxy.
    let (mut listeners, mut advertised) = (String::new(), String::new());
    if let Some(proxy) = options.proxy_port {
        listeners = format!(",PROXIED://127.0.0.1:{}", ports.proxied);
        advertised = format!(",PROXIED://127.0.0.1:{proxy}");
    }
    if options.secured {
        let secured = format!(
            ",SSL://127.0.0.1:{},SASL_SSL://127.0.0.1:{}",
            ports.tls, ports.sasl
        );
        listeners.push_str(&secured);
        advertised.push_str(&secured);
    }
    let node = member.map_or(1, |member| member.id);
    let quorum = match member {
        None => format!("controller.quorum.bootstrap.servers={controller}"),
        Some(member) => format!("controller.quorum.voters={}", member.voters()),
    };
    let mut file = format!(
        "process.roles=broker,controller
node.id={node}
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}{listeners}
advertised.listeners=PLAINTEXT://{broker},CONTROLLER://{controller}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
{quorum}
log.dirs={}
{DEFAULTS}",
        escaped(&data.to_string_lossy())
    );
    if member.is_some() {
        file.push_str(OF_MANY);
    }
    if options.secured {
        file.push_str(&secured::settings());
    }
    if let Some(partitions) = options.partitions_default {
        file.push_str(&format!("num.partitions={partitions}\n"));
    }
    for (key, value) in &options.extra {
        file.push_str(&format!("{}={}\n", escaped(key), escaped(value)));
    }
    file
}

/// A backslash or a line break would change the file's meaning.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        broker: 1,
        controller: 2,
        proxied: 3,
        tls: 4,
        sasl: 5,
    };

    #[test]
    fn extra_properties_come_last_and_stay_on_their_line() {
        let options = Options {
            partitions_default: Some(8),
            extra: vec![("a".into(), "b\nlisteners=c\\".into())],
            ..Options::default()
        };
        let file = server(&options, PORTS, None, Path::new("/d"));
        assert!(file.ends_with("num.partitions=8\na=b\\nlisteners=c\\\\\n"));
        assert!(file.contains("\nlog.dirs=/d\nauto.create.topics.enable=false\n"));
    }

    #[test]
    fn clients_of_a_proxy_are_told_its_port_and_others_are_not() {
        let options = Options {
            proxy_port: Some(9),
            ..Options::default()
        };
        let file = server(&options, PORTS, None, Path::new("/d"));
        assert!(file.contains(
            "\nlisteners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,PROXIED://127.0.0.1:3\n"
        ));
        assert!(file.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,PROXIED://127.0.0.1:9\n"));
    }

    #[test]
    fn one_of_several_knows_the_others_and_keeps_nothing_alone() {
        let member = Member {
            id: 2,
            controllers: vec![7, 2, 8],
        };
        let file = server(&Options::default(), PORTS, Some(&member), Path::new("/d"));
        assert!(file.contains("\nnode.id=2\n"));
        assert!(
            file.contains("\ncontroller.quorum.voters=1@127.0.0.1:7,2@127.0.0.1:2,3@127.0.0.1:8\n")
        );
        let last = |key: &str| file.lines().rev().find(|line| line.starts_with(key));
        let replicas = "offsets.topic.replication.factor=";
        assert_eq!(last(replicas), Some(&*format!("{replicas}3")));
    }

    #[test]
    fn secured_listeners_are_there_only_where_they_are_asked_for() {
        let file = |secured| {
            let options = Options {
                secured,
                ..Options::default()
            };
            server(&options, PORTS, None, Path::new("/d"))
        };
        let listeners = ",SSL://127.0.0.1:4,SASL_SSL://127.0.0.1:5\n";
        assert_eq!(file(true).matches(listeners).count(), 2);
        assert!(!file(false).contains("://127.0.0.1:4"));
        assert!(!file(false).contains("keystore"));
    }

    #[test]
    fn settings_of_ours_are_refused() {
        let refused = check(&[("log.dirs".into(), "/".into())]);
        assert!(matches!(refused, Err(Error::OwnedSetting { key }) if key == "log.dirs"));
        assert!(check(&[("num.io.threads".into(), "2".into())]).is_ok());
    }
}
