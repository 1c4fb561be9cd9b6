//! Ids that come twice at once, and groups whose offsets Kafka has forgotten.

use std::collections::{BTreeMap, BTreeSet};

use futures_executor::block_on;
use quadrille_proto::Service;
use rdkafka::admin::AdminOptions;

use crate::{
    harness::{
        client::{Client, Raw, record},
        http,
        oracle::{self, Load, Promise, Sent},
        process::Process,
        world::World,
    },
    registry::admin,
};

const IDS: u32 = 200;

/// Two records of each id, of two keys, sent at once; the second ones in the opposite order.
fn send_twice(world: &World) -> BTreeMap<String, [String; 2]> {
    let client = Client::new(world);
    let inbox = world.topics().inbox;
    let key = |n: u32, copy: char| format!("{copy}{}", n % 40);
    let send = |n: u32, copy: char| {
        let (id, key) = (format!("id#{n:06}"), key(n, copy));
        client.send(&inbox, &Raw::json(&key, record(&id, &key, 80 + n % 100)));
    };
    for n in 0..IDS {
        send(n, 'a');
        send(IDS - 1 - n, 'b');
    }
    client.flush();
    (0..IDS)
        .map(|n| (format!("id#{n:06}"), [key(n, 'a'), key(n, 'b')]))
        .collect()
}

fn one_row_each(world: &World) {
    let services = world.start_all();
    let results = services[3].address();
    let keys = send_twice(world);
    oracle::stored(world, results, keys.len());
    oracle::quiescence::wait(world);
    let count = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    let (_, body) = http::get(results, &count);
    assert!(
        body.contains(&format!("\"count\":{IDS},\"duplicates\":{IDS}")),
        "{body}"
    );
    let good: BTreeSet<String> = keys.keys().cloned().collect();
    assert_eq!(oracle::rows(world, results), good);
}

#[test]
fn an_id_that_comes_twice_at_once_by_two_keys_is_one_row_in_postgres() {
    one_row_each(&World::new(4).with_postgres());
}

#[test]
fn an_id_that_comes_twice_at_once_by_two_keys_is_one_row_in_sqlite() {
    one_row_each(&World::new(4));
}

/// Ends them all in order and sees that no group has members any more.
fn drain(services: &mut [Process]) {
    services.iter().for_each(|service| service.signal("TERM"));
    for service in services {
        assert_eq!(service.wait().code(), Some(0), "{}", service.log());
    }
}

/// What Kafka does to a group without members after seven days by default.
#[test]
fn groups_whose_offsets_expired_read_their_topics_again_and_store_nothing_twice() {
    let world = World::new(2);
    let mut services = world.start_all();
    let load = |records| Load {
        records,
        keys: 20,
        rate: 400,
    };
    let mut good = load(400).send(&world, |_| {});
    oracle::check(&world, services[3].address(), &good);
    drain(&mut services);
    let groups = Service::ALL.map(|stage| stage.group(&world.pipeline));
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let admin = admin(&world.bootstrap);
    let gone = block_on(admin.delete_groups(&groups, &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    for service in &mut services {
        *service = service.launch.start();
    }
    good.extend(load(600).send_from(&world, 400, |_| true));
    let sent = Sent {
        good,
        ..Sent::default()
    };
    // Between the services everything comes again.
    oracle::check_sent(&world, services[3].address(), &sent, Promise::AtLeastOnce);
}
