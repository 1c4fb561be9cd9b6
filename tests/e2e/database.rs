//! results while its PostgreSQL is away, silent or back, and its replicas come, go, die and freeze.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use quadrille_local::Postgres;
use quadrille_proto::{Service, dlq_of};
use rdkafka::Message;

use crate::harness::{
    PATIENCE,
    client::{Client, Raw},
    eventually,
    oracle::{self, Load},
    process::Process,
    world::World,
};

/// Longer than anything here waits for the database.
const AWAY: Duration = Duration::from_secs(30);
/// What Kubernetes gives by default is 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// A world with a PostgreSQL of its own, and what leads to results.
fn world(partitions: i32) -> (World, Postgres, Vec<Process>) {
    let postgres = Postgres::start().expect("PostgreSQL starts");
    let mut world = World::new(partitions);
    world.database_url = postgres.url().to_owned();
    let mut before: Vec<Process> = [Service::Ingest, Service::Feature, Service::Inference]
        .map(|stage| world.start(stage, "a"))
        .into();
    for service in &mut before {
        service.ready();
    }
    (world, postgres, before)
}

/// Ends a service and is sure that it ends in time.
#[track_caller]
fn drain(service: &mut Process) {
    let began = Instant::now();
    service.signal("TERM");
    let status = service.wait();
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0), "{status}: {}", service.log());
    assert!(took < GRACE, "it took {took:?} to end:\n{}", service.log());
}

#[test]
fn replicas_that_come_go_and_die_while_postgres_is_away_go_on_when_it_is_back() {
    let (world, mut postgres, _before) = world(3);
    let mut results: Vec<Process> = ["a", "b", "c"]
        .map(|instance| world.start(Service::Results, instance))
        .into();
    for replica in &mut results {
        replica.ready();
    }
    let load = Load {
        records: 4_500,
        keys: 30,
        rate: 150,
    };
    let sent = load.send(&world, |n| match n % 1_500 {
        200 => postgres.stop(),
        // One leaves while nobody can say where its partitions go on.
        300 => drain(&mut results[0]),
        450 => results[0] = results[0].launch.start(),
        600 => results[1].kill(),
        900 => postgres.restart().expect("it comes back"),
        1_200 => results[1] = results[1].launch.start(),
        _ => {}
    });
    oracle::check(&world, results[2].address(), &sent);
    for replica in &mut results {
        drain(replica);
    }
}

#[test]
fn a_replica_that_froze_stores_nothing_in_its_successor_s_name() {
    let (world, _postgres, _before) = world(4);
    let mut results: Vec<Process> = ["a", "b"]
        .map(|instance| world.start(Service::Results, instance))
        .into();
    for replica in &mut results {
        replica.ready();
    }
    let load = Load {
        records: 4_000,
        keys: 30,
        rate: 200,
    };
    // Longer than a session: its partitions go to the other one and come back.
    let sent = load.send(&world, |n| match n {
        400 | 2_400 => results[0].signal("STOP"),
        2_200 | 3_200 => results[0].signal("CONT"),
        _ => {}
    });
    oracle::check(&world, results[1].address(), &sent);
    for replica in &mut results {
        drain(replica);
    }
}

/// Sends a signal to the server's processes, each of which answers one client.
fn signal_all(postgres: &Postgres, name: &str) {
    let server = postgres.pid().expect("it runs").to_string();
    let found = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &server])
        .output()
        .expect("ps runs");
    let children = String::from_utf8(found.stdout).expect("numbers");
    let all = children.split_whitespace().chain([server.as_str()]);
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .args(all)
        .status();
    assert!(sent.is_ok(), "the signal is sent");
}

#[test]
fn sigterm_ends_results_in_time_while_postgres_is_silent_or_gone() {
    let (world, mut postgres, _before) = world(2);
    let mut results = world.start(Service::Results, "a");
    results.ready();
    let load = Load {
        records: 1_200,
        keys: 20,
        rate: 200,
    };
    let sent = load.send(&world, |n| match n {
        200 => signal_all(&postgres, "STOP"),
        400 => {
            drain(&mut results);
            signal_all(&postgres, "CONT");
            results = results.launch.start();
            results.ready();
        }
        600 => postgres.stop(),
        800 => {
            drain(&mut results);
            postgres.restart().expect("it comes back");
            results = results.launch.start();
        }
        _ => {}
    });
    oracle::check(&world, results.address(), &sent);
}

#[test]
fn garbage_is_one_dead_letter_each_however_long_postgres_is_away() {
    let (world, mut postgres, _before) = world(2);
    let mut results = world.start(Service::Results, "a");
    results.ready();
    let load = Load {
        records: 100,
        keys: 10,
        rate: 200,
    };
    let sent = load.send(&world, |_| {});
    oracle::stored(&world, results.address(), sent.len());
    postgres.stop();
    let stopped = Instant::now();
    let client = Client::new(&world);
    let topic = world.topics().predictions;
    for n in 0..8 {
        let raw = Raw {
            partition: Some(n % 2),
            value: Some(format!("garbage {n}").into_bytes()),
            ..Raw::default()
        };
        client.send(&topic, &raw);
        client.flush();
    }
    // Its batch is tried again and again.
    eventually("the batch was tried often", AWAY + PATIENCE, || {
        let aborts = format!(
            "quadrille_transaction_aborts_total{{pipeline=\"{}\"}}",
            world.pipeline
        );
        let often = results.metric(&aborts)? >= 6.0;
        (often && stopped.elapsed() >= AWAY).then_some(())
    });
    postgres.restart().expect("it comes back");
    eventually("all are committed", PATIENCE, || {
        let dead = format!(
            "quadrille_dead_letters_total{{pipeline=\"{}\"",
            world.pipeline
        );
        (results.metric(&dead)? >= 8.0).then_some(())
    });
    drain(&mut results);
    let letters = client.read(&dlq_of(&topic));
    let mut letters: Vec<_> = letters
        .iter()
        .map(|it| it.payload().unwrap_or_default())
        .collect();
    letters.sort_unstable();
    let expected: Vec<_> = (0..8)
        .map(|n| format!("garbage {n}").into_bytes())
        .collect();
    assert_eq!(letters, expected);
}
