//! Processes that stand still, services and the broker, for longer than anyone waits for them, and then go on as if
//! nothing had been.

use std::process::Command;

use quadrille_local::{
    Kafka,
    proxy::{self, Verdict},
};
use quadrille_proto::Service;

use crate::harness::{
    PATIENCE, broker,
    client::{Client, Raw, record},
    eventually,
    oracle::{self, Load},
    process::Process,
    world::World,
};

/// The shortest session that a broker allows by default, and a poll interval that is as short as that lets it be.
const SHORT: &str = "session.timeout.ms=6000,max.poll.interval.ms=6500";

const RATE: u32 = 200;
/// Longer than both, and than a transaction's timeout.
const FROZEN_FOR: u32 = 12 * RATE;
const FREEZE_AT: u32 = 2 * RATE;

/// A load in the middle of which something stands still.
fn load() -> Load {
    Load {
        records: FREEZE_AT + FROZEN_FOR + 3 * RATE,
        keys: 40,
        rate: RATE,
    }
}

fn start(world: &World, stage: Service, instance: &str) -> Process {
    world
        .launch(stage, instance)
        .env("KAFKA_PROPERTIES", SHORT)
        .start()
}

fn start_all(world: &World, instance: &str) -> Vec<Process> {
    Service::ALL
        .iter()
        .map(|stage| start(world, *stage, instance))
        .collect()
}

/// Sends the load and its poison; all of `frozen` stand still meanwhile.
fn send(world: &World, frozen: &[Process]) -> oracle::Sent {
    load().send_poisoned(world, 100, |n| {
        let signal = match n {
            FREEZE_AT => "STOP",
            _ if n == FREEZE_AT + FROZEN_FOR => "CONT",
            _ => return,
        };
        frozen.iter().for_each(|service| service.signal(signal));
    })
}

#[test]
fn services_that_stood_still_alone_go_on_by_themselves() {
    let world = World::new(4);
    let mut services = start_all(&world, "a");
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    let sent = send(&world, &services);
    // As far as anyone else can see, results crashed: it may have been between its dead letters and its rows.
    let promise = oracle::Promise::ResultsCrashed;
    oracle::check_sent(&world, services[3].address(), &sent, promise);
}

#[test]
fn services_that_stood_still_beside_others_disturb_none_and_take_part_again() {
    let world = World::new(4).with_postgres();
    let mut frozen = start_all(&world, "a");
    let mut others = start_all(&world, "b");
    for service in frozen.iter_mut().chain(&mut others) {
        service.ready();
    }
    let sent = send(&world, &frozen);
    let promise = oracle::Promise::ResultsCrashed;
    oracle::check_sent(&world, others[3].address(), &sent, promise);
    for service in frozen.iter().chain(&others) {
        eventually("each replica has partitions again", PATIENCE, || {
            let assigned = format!(
                "quadrille_assigned_partitions{{pipeline=\"{}\"",
                world.pipeline
            );
            (service.metric(&assigned)? > 0.0).then_some(())
        });
    }
}

const END: i16 = 26;

/// Its session lives meanwhile: the client's own threads go on, it is the lane that waits.
#[test]
fn a_lane_that_does_not_poll_for_longer_than_the_poll_interval_joins_again() {
    let (proxy, kafka) = proxy::before(broker::options()).expect("Apache Kafka starts");
    let world = World::on(kafka.bootstrap_servers(), 1);
    let launch = world
        .launch(Service::Ingest, "a")
        .env("KAFKA_BOOTSTRAP_SERVERS", &proxy.bootstrap_servers())
        .env("KAFKA_PROPERTIES", SHORT);
    let mut ingest = launch.start();
    ingest.ready();
    let client = Client::new(&world);
    let topics = world.topics();
    let send = |id: &str| {
        client.send(&topics.inbox, &Raw::json("p", record(id, "p", 80)));
        client.flush();
    };
    let passed_on = |count: usize| {
        eventually("the records are passed on", PATIENCE, || {
            let found = client.read(&topics.records).len();
            assert!(found <= count, "{found} records of {count}");
            (found == count).then_some(())
        });
    };
    send("first");
    passed_on(1);
    let mut slow = vec![END];
    proxy.rule(
        move |request| match slow.pop_if(|end| *end == request.api_key) {
            Some(_) => Verdict::Slow(std::time::Duration::from_secs(8)),
            None => Verdict::Pass,
        },
    );
    send("second");
    send("third");
    passed_on(3);
    send("fourth");
    passed_on(4);
    let log = ingest.log();
    assert!(log.contains("PollExceeded"), "it was noticed:\n{log}");
}

pub fn signal(broker: &Kafka, name: &str) {
    let pid = broker.pid().expect("it runs").to_string();
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "the signal is sent"
    );
}

#[test]
fn a_broker_that_stood_still_longer_than_anyone_waits_loses_nothing() {
    let broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 4);
    // Requests are given up as well.
    let properties = format!("{SHORT},socket.timeout.ms=6000");
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .map(|stage| {
            let launch = world.launch(*stage, "a");
            launch.env("KAFKA_PROPERTIES", &properties).start()
        })
        .collect();
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    let sent = load().send_poisoned(&world, 100, |n| match n {
        FREEZE_AT => signal(&broker, "STOP"),
        _ if n == FREEZE_AT + FROZEN_FOR => signal(&broker, "CONT"),
        _ => {}
    });
    // Nobody crashed, but a batch's letters may have been confirmed in part.
    let promise = oracle::Promise::ResultsCrashed;
    oracle::check_sent(&world, services[3].address(), &sent, promise);
}
