//! Three brokers, each of which is restarted under load.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use quadrille_local::kafka::Cluster;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use crate::harness::{
    PATIENCE, broker, eventually_or_show,
    oracle::{self, Load},
    world::World,
};

/// Waits, as operators do between two restarts, until every partition has all its replicas again.
fn in_sync(servers: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .expect("a consumer");
    eventually_or_show("all replicas are in sync", PATIENCE, || {
        let found = consumer
            .fetch_metadata(None, Duration::from_secs(5))
            .map_err(|error| error.to_string())?;
        for topic in found.topics() {
            for partition in topic.partitions() {
                let (replicas, isr) = (partition.replicas(), partition.isr());
                if isr.len() < replicas.len() {
                    let (name, id) = (topic.name(), partition.id());
                    return Err(format!("{name} {id}: {isr:?} of {replicas:?}"));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_rolling_restart_of_three_brokers_under_load_loses_nothing() {
    let mut cluster = Cluster::start(broker::options()).expect("Apache Kafka starts");
    let servers = cluster.bootstrap_servers();
    let world = World::on(servers.clone(), 4);
    let services = world.start_all();
    let load = Load {
        records: 20_000,
        keys: 40,
        rate: 200,
    };
    let rolled = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let rolling = scope.spawn(|| {
            for broker in cluster.brokers() {
                broker.restart().expect("it comes back");
                in_sync(&servers);
            }
            rolled.store(true, Ordering::Release);
        });
        let sent = load.send_while(&world, |_| {
            !rolled.load(Ordering::Acquire) && !rolling.is_finished()
        });
        rolling.join().expect("all were restarted");
        sent
    });
    println!("{} records were sent meanwhile", sent.len());
    oracle::check(&world, services[3].address(), &sent);
}
