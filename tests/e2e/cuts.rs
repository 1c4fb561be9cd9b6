//! Connections that are cut and slow, to Kafka and to PostgreSQL, and a database that fails in the middle of commits.

use std::time::Duration;

use quadrille_local::{
    Postgres,
    proxy::{self, Proxy, Statement, Verdict},
};
use quadrille_proto::Service;

use crate::harness::{
    broker,
    oracle::{self, Load, Promise},
    process::Process,
    world::World,
};

const RATE: u32 = 200;

fn before_postgres(world: &mut World) -> (Proxy<Statement>, Postgres) {
    let postgres = Postgres::start().expect("PostgreSQL starts");
    let proxy = proxy::before_postgres(&postgres).expect("a proxy");
    world.database_url = proxy.url();
    (proxy, postgres)
}

fn ready(mut services: Vec<Process>) -> Vec<Process> {
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    services
}

#[test]
fn connections_that_are_cut_and_slow_again_and_again_cost_nothing_but_time() {
    let (kafka_proxy, kafka) = proxy::before(broker::options()).expect("Apache Kafka starts");
    let mut world = World::on(kafka.bootstrap_servers(), 4);
    let (database_proxy, _postgres) = before_postgres(&mut world);
    let start = |stage: &Service| {
        let launch = world.launch(*stage, "a");
        let servers = kafka_proxy.bootstrap_servers();
        launch.env("KAFKA_BOOTSTRAP_SERVERS", &servers).start()
    };
    let services = ready(Service::ALL.iter().map(start).collect());
    let load = Load {
        records: 15 * RATE,
        keys: 40,
        rate: RATE,
    };
    let sent = load.send_poisoned(&world, 100, |n| {
        // Twice a second each, and never at the same moment of a batch.
        match n % 97 {
            40 => kafka_proxy.cut(),
            80 => database_proxy.cut(),
            _ => {}
        }
        let (slow, fast) = (Duration::from_millis(15), Duration::ZERO);
        match n % (4 * RATE) {
            0 => [kafka_proxy.delay(fast), database_proxy.delay(fast)],
            200 => [kafka_proxy.delay(slow), database_proxy.delay(fast)],
            400 => [kafka_proxy.delay(fast), database_proxy.delay(slow)],
            600 => [kafka_proxy.delay(slow), database_proxy.delay(slow)],
            _ => return,
        };
    });
    kafka_proxy.delay(Duration::ZERO);
    database_proxy.delay(Duration::ZERO);
    // A cut may come between a dead letter's confirmation and its batch's.
    oracle::check_sent(
        &world,
        services[3].address(),
        &sent,
        Promise::ResultsCrashed,
    );
}

#[test]
fn a_database_that_fails_in_the_middle_of_commits_stores_each_row_once() {
    let mut world = World::new(4);
    let (proxy, mut postgres) = before_postgres(&mut world);
    let services = ready(
        Service::ALL
            .iter()
            .map(|stage| world.start(*stage, "a"))
            .collect(),
    );
    let mut commits = 0;
    proxy.rule(move |statement: &Statement| {
        if statement.sql != "COMMIT" {
            return Verdict::Pass;
        }
        commits += 1;
        match commits % 8 {
            // It happened, and nobody says so.
            3 => Verdict::LoseAnswer,
            // It did not.
            6 => Verdict::Lose,
            _ => Verdict::Pass,
        }
    });
    let load = Load {
        records: 12 * RATE,
        keys: 40,
        rate: RATE,
    };
    let sent = load.send_poisoned(&world, 100, |n| {
        // At once, as in a crash, with whatever is open.
        if n % (4 * RATE) == 2 * RATE {
            postgres.kill();
            postgres.restart().expect("it comes back");
        }
    });
    proxy.no_rule();
    oracle::check_sent(
        &world,
        services[3].address(),
        &sent,
        Promise::ResultsCrashed,
    );
    let log = services[3].log();
    assert!(log.contains("batch not committed"), "{log}");
}
