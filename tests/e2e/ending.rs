//! SIGTERM while Kafka is away or silent: every service ends in time, in order, and nothing is lost.

use std::time::{Duration, Instant};

use quadrille_local::Kafka;
use quadrille_proto::Service;

use crate::{
    frozen::signal,
    harness::{
        broker,
        oracle::{self, Load, Promise},
        process::Process,
        world::World,
    },
};

/// What Kubernetes gives by default is 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// Ends all of them at once and starts them again with `back` in between.
#[track_caller]
fn end_all(services: &mut [Process], back: impl FnOnce()) {
    let began = Instant::now();
    services.iter().for_each(|service| service.signal("TERM"));
    for service in &mut *services {
        let code = service.wait().code();
        let (took, name) = (began.elapsed(), &service.launch.binary);
        println!("{name} took {took:?} to end");
        assert_eq!(code, Some(0), "{name}: {}", service.log());
        assert!(
            took < GRACE,
            "{name} took {took:?} to end:\n{}",
            service.log()
        );
    }
    back();
    for service in services {
        *service = service.launch.start();
    }
}

fn ended_under_load(mut broker: Kafka, away: fn(&mut Kafka), back: fn(&mut Kafka)) {
    let world = World::on(broker.bootstrap_servers(), 4);
    let mut services: Vec<Process> = world.start_all();
    let load = Load {
        records: 1_600,
        keys: 40,
        rate: 200,
    };
    let sent = load.send_poisoned(&world, 50, |n| match n {
        600 => away(&mut broker),
        // Batches are in hand whose outputs nobody confirms.
        1_000 => end_all(&mut services, || back(&mut broker)),
        _ => {}
    });
    oracle::check_sent(
        &world,
        services[3].address(),
        &sent,
        Promise::ResultsCrashed,
    );
}

#[test]
fn sigterm_ends_every_service_in_time_while_kafka_is_stopped() {
    let broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    ended_under_load(broker, Kafka::stop, |broker| {
        broker.restart().expect("it comes back");
    });
}

#[test]
fn sigterm_ends_every_service_in_time_while_kafka_is_silent() {
    let broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let silent = |broker: &mut Kafka| signal(broker, "STOP");
    ended_under_load(broker, silent, |broker| signal(broker, "CONT"));
}

#[test]
fn sigterm_ends_a_service_that_never_found_kafka() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 2);
    broker.stop();
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .map(|stage| world.start(*stage, "a"))
        .collect();
    for service in &services {
        service.address();
    }
    end_all(&mut services, || broker.restart().expect("it comes back"));
    services.iter_mut().for_each(|service| {
        service.ready();
    });
}
