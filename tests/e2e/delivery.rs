//! Nothing lost, doubled or misordered, whatever ends.

use std::time::{Duration, Instant};

use quadrille_proto::{KeyedState, Service};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseProducer, Producer},
};

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, Watch, record},
    eventually,
    oracle::{self, Load, Promise},
    process::Process,
    world::World,
};

#[test]
fn records_flow_from_the_inbox_to_the_database() {
    let world = World::new(4);
    let services = world.start_all();
    let load = Load {
        records: 500,
        keys: 20,
        rate: 2_000,
    };
    let sent = load.send(&world, |_| {});
    oracle::check(&world, services[3].address(), &sent);
}

#[test]
fn at_least_once_loses_nothing_keeps_order_and_stores_an_id_once_whatever_is_killed() {
    let world = World::new(4);
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .map(|stage| {
            world
                .launch(*stage, "a")
                .env("QUADRILLE_DELIVERY", "at-least-once")
                .start()
        })
        .collect();
    for service in &mut services {
        service.ready();
    }
    let load = Load {
        records: 4_000,
        keys: 20,
        rate: 500,
    };
    let sent = load.send_poisoned(&world, 50, |n| {
        if n % 800 == 700
            && let Some(service) = services.get_mut(n as usize / 800)
        {
            service.kill();
            *service = service.launch.start();
        }
    });
    oracle::check_sent(&world, services[3].address(), &sent, Promise::AtLeastOnce);
}

#[test]
fn two_instances_of_each_service_share_the_work() {
    let world = World::new(4).with_postgres();
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .flat_map(|stage| ["a", "b"].map(|instance| world.start(*stage, instance)))
        .collect();
    for service in &mut services {
        service.ready();
    }
    let load = Load {
        records: 4_000,
        keys: 40,
        rate: 1_000,
    };
    let sent = load.send(&world, |_| {});
    oracle::check(&world, services[6].address(), &sent);
    for service in &services {
        let line = format!(
            "messaging_client_consumed_messages_total{{pipeline=\"{}\",",
            world.pipeline
        );
        let consumed = service.metric(&line).expect("the metric");
        assert!(
            consumed > 0.0,
            "{} {} took part",
            service.launch.binary,
            service.launch.log.display()
        );
    }
}

/// Kills one of two instances of `victim` a third into the load and starts it again at once.
fn survives_a_kill(victim: Service) {
    let world = World::new(4).with_postgres();
    let mut services: Vec<Process> = Service::ALL
        .iter()
        .flat_map(|stage| {
            let instances: &[&str] = if *stage == victim {
                &["a", "b"]
            } else {
                &["a"]
            };
            instances
                .iter()
                .map(|instance| world.start(*stage, instance))
                .collect::<Vec<_>>()
        })
        .collect();
    for service in &mut services {
        service.ready();
    }
    let index = services
        .iter()
        .position(|s| s.launch.binary == victim.name())
        .expect("it runs");
    let last = services.len() - 1;
    let watched = victim
        .stage()
        .outputs(&world.pipeline, KeyedState::None)
        .pop()
        .map(|(_, topic)| topic)
        .unwrap_or(world.topics().predictions);
    let watch = Watch::start(&world, &watched);
    let load = Load {
        records: 6_000,
        keys: 40,
        rate: 500,
    };
    let mut killed_at = Instant::now();
    let sent = load.send_poisoned(&world, 40, |n| {
        if n == 2_000 {
            services[index].kill();
            killed_at = Instant::now();
            services[index] = services[index].launch.start();
        }
    });
    services[index].ready();
    let promise = match victim {
        Service::Results => Promise::ResultsCrashed,
        _ => Promise::ExactlyOnce,
    };
    oracle::check_sent(&world, services[last].address(), &sent, promise);
    let pause = watch.longest_pause(killed_at);
    println!(
        "{}: longest pause of a partition after kill -9: {pause:?}",
        victim.name()
    );
    // The target is 8 s; a loaded machine is given more before it is called a fault.
    assert!(pause < Duration::from_secs(20), "{pause:?}");
}

#[test]
fn a_killed_ingest_loses_and_doubles_nothing() {
    survives_a_kill(Service::Ingest);
}

#[test]
fn a_killed_feature_loses_and_doubles_nothing() {
    survives_a_kill(Service::Feature);
}

#[test]
fn a_killed_inference_loses_and_doubles_nothing() {
    survives_a_kill(Service::Inference);
}

#[test]
fn a_killed_results_loses_and_doubles_nothing() {
    survives_a_kill(Service::Results);
}

/// A transaction that commits these offsets of ingest's group and stays open: as a killed member leaves it,
/// or one whose commit the broker has not finished.
fn open_transaction(world: &World, offsets: &[i64]) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("transactional.id", format!("{}-open", world.pipeline))
        .create()
        .expect("a producer");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", Service::Ingest.group(&world.pipeline))
        .create()
        .expect("a consumer");
    let group = consumer.group_metadata().expect("a group");
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset(&world.topics().inbox, partition, Offset::Offset(*offset))
            .expect("an offset");
    }
    producer.init_transactions(PATIENCE).expect("an epoch");
    producer.begin_transaction().expect("begun");
    producer
        .send_offsets_to_transaction(&list, &group, PATIENCE)
        .expect("sent");
    producer
}

#[test]
fn a_partition_whose_offset_is_being_committed_is_not_read_from_its_start() {
    let world = World::new(4);
    let client = Client::new(&world);
    let topics = world.topics();
    let send = |round: u32| {
        for n in 0..40_u32 {
            let (id, key) = (format!("{round}-{n:02}"), format!("p{n}"));
            let mut raw = Raw::json(&key, record(&id, &key, 80));
            raw.partition = Some((n % 4) as i32);
            client.send(&topics.inbox, &raw);
        }
        client.flush();
    };
    let passed_on = |count: usize| {
        eventually("the records are passed on", PATIENCE, || {
            let found = client.read(&topics.records).len();
            assert!(found <= count, "{found} records of {count}");
            (found == count).then_some(())
        });
    };
    let mut first = world.start(Service::Ingest, "a");
    first.ready();
    send(0);
    passed_on(40);
    first.signal("TERM");
    first.wait();

    let open = open_transaction(&world, &[10; 4]);
    // Members that come one after the other change each other's assignment while they wait for the offset.
    let members = ["a", "b", "c", "d"].map(|instance| {
        let mut member = world.start(Service::Ingest, instance);
        member.ready();
        member
    });
    send(1);
    open.commit_transaction(PATIENCE).expect("committed");
    passed_on(80);
    send(2);
    passed_on(120);
    drop(members);
}

#[test]
fn a_partition_that_moved_is_committed_to_its_end_without_a_new_record() {
    let world = World::new(2);
    let mut services = world.start_all();
    let load = Load {
        records: 100,
        keys: 20,
        rate: 1_000,
    };
    let sent = load.send(&world, |_| {});
    oracle::check(&world, services[3].address(), &sent);
    services[1].signal("TERM");
    assert_eq!(services[1].wait().code(), Some(0));

    // As if it had moved after its last record and before the marker behind it was committed.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", Service::Feature.group(&world.pipeline))
        .create()
        .expect("a consumer");
    let records = world.topics().records;
    let mut list = TopicPartitionList::new();
    for partition in 0..world.partitions {
        let (_, end) = consumer
            .fetch_watermarks(&records, partition, PATIENCE)
            .expect("the end");
        list.add_partition_offset(&records, partition, Offset::Offset(end - 1))
            .expect("an offset");
    }
    consumer.commit(&list, CommitMode::Sync).expect("committed");

    services[1] = services[1].launch.start();
    services[1].ready();
    oracle::check(&world, services[3].address(), &sent);
}
