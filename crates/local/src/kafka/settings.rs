//! The broker's settings: small, quick to start, one of everything.

use std::path::Path;

use super::{Options, Ports};
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

/// Where the broker is and who it is: the rest of this crate relies on these.
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

/// The content of `server.properties`. Of a key given twice the last one counts.
pub(super) fn server(options: &Options, ports: Ports, data: &Path) -> String {
    let broker = format!("127.0.0.1:{}", ports.broker);
    let controller = format!("127.0.0.1:{}", ports.controller);
    // Of its own, so that the broker's requests to itself do not go through the proxy.
    let (mut listeners, mut advertised) = (String::new(), String::new());
    if let Some(proxy) = options.proxy_port {
        listeners = format!(",PROXIED://127.0.0.1:{}", ports.proxied);
        advertised = format!(",PROXIED://127.0.0.1:{proxy}");
    }
    let mut file = format!(
        "process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}{listeners}
advertised.listeners=PLAINTEXT://{broker},CONTROLLER://{controller}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={controller}
log.dirs={}
{DEFAULTS}",
        escaped(&data.to_string_lossy())
    );
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

    #[test]
    fn extra_properties_come_last_and_stay_on_their_line() {
        let options = Options {
            partitions_default: Some(8),
            extra: vec![("a".into(), "b\nlisteners=c\\".into())],
            ..Options::default()
        };
        let ports = Ports {
            broker: 1,
            controller: 2,
            proxied: 3,
        };
        let file = server(&options, ports, Path::new("/d"));
        assert!(file.ends_with("num.partitions=8\na=b\\nlisteners=c\\\\\n"));
        assert!(file.contains("\nlog.dirs=/d\nauto.create.topics.enable=false\n"));
    }

    #[test]
    fn clients_of_a_proxy_are_told_its_port_and_others_are_not() {
        let options = Options {
            proxy_port: Some(9),
            ..Options::default()
        };
        let ports = Ports {
            broker: 1,
            controller: 2,
            proxied: 3,
        };
        let file = server(&options, ports, Path::new("/d"));
        assert!(file.contains(
            "\nlisteners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,PROXIED://127.0.0.1:3\n"
        ));
        assert!(file.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,PROXIED://127.0.0.1:9\n"));
    }

    #[test]
    fn settings_of_ours_are_refused() {
        let refused = check(&[("log.dirs".into(), "/".into())]);
        assert!(matches!(refused, Err(Error::OwnedSetting { key }) if key == "log.dirs"));
        assert!(check(&[("num.io.threads".into(), "2".into())]).is_ok());
    }
}
