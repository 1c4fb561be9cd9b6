//! Starting, draining, refusing, and living through the broker's and the database's absences.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use quadrille_choreography::{Admin, Cluster, Lookup, Schemas, TopicSpec};
use quadrille_proto::{Kind, Schema, Service};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminOptions, ResourceSpecifier},
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use crate::harness::{
    PATIENCE, broker,
    client::Watch,
    eventually, http,
    oracle::{self, Load},
    process::Process,
    world::World,
};
use crate::registry::admin;

#[test]
fn sigterm_drains_every_service_and_exits_0() {
    let world = World::new(4);
    let mut services = world.start_all();
    let load = Load {
        records: 2_000,
        keys: 20,
        rate: 1_000,
    };
    // Each service is ended in mid-stream and started again.
    let mut clean = Vec::new();
    let sent = load.send(&world, |n| {
        if n % 400 == 399
            && let Some(service) = services.get_mut(n as usize / 400)
        {
            service.signal("TERM");
            let status = service.wait();
            clean.push((service.launch.binary.clone(), status.code(), service.log()));
            *service = service.launch.start();
        }
    });
    for (binary, code, log) in clean {
        assert_eq!(code, Some(0), "{binary} drains:\n{log}");
        assert!(log.contains("drained"), "{binary} says so:\n{log}");
    }
    oracle::check(&world, services[3].address(), &sent);
}

#[test]
fn a_clean_handover_pauses_a_partition_only_shortly() {
    let world = World::new(4);
    let mut features = ["a", "b"].map(|instance| world.start(Service::Feature, instance));
    let mut others =
        [Service::Ingest, Service::Inference, Service::Results].map(|s| world.start(s, "a"));
    for service in features.iter_mut().chain(&mut others) {
        service.ready();
    }
    let watch = Watch::start(&world, &world.topics().features);
    let load = Load {
        records: 3_000,
        keys: 40,
        rate: 500,
    };
    let mut ended_at = Instant::now();
    let sent = load.send(&world, |n| {
        if n == 1_000 {
            ended_at = Instant::now();
            features[0].signal("TERM");
        }
    });
    assert_eq!(features[0].wait().code(), Some(0));
    oracle::check(&world, others[2].address(), &sent);
    let pause = watch.longest_pause(ended_at);
    println!("longest pause of a partition in a clean handover: {pause:?}");
    // The target is 1 s; a loaded machine is given more before it is called a fault.
    assert!(pause < Duration::from_secs(5), "{pause:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let world = World::new(2);
    let mut feature = world.start(Service::Feature, "a");
    feature.ready();
    // Stopped, it cannot drain; both signals are there when it goes on.
    feature.signal("STOP");
    feature.signal("TERM");
    feature.signal("INT");
    feature.signal("CONT");
    let code = feature.wait().code();
    assert!(matches!(code, Some(0 | 1)), "it ends: {code:?}");
}

#[test]
fn wrong_configuration_is_refused_with_64_and_the_settings_name() {
    let world = World::new(2);
    let no_such = world
        .pipeline_file()
        .with_file_name("missing.toml")
        .display()
        .to_string();
    for (stage, key, value, named) in [
        (
            Service::Feature,
            "QUADRILLE_PIPELINE",
            no_such.as_str(),
            "QUADRILLE_PIPELINE",
        ),
        (
            Service::Feature,
            "KAFKA_PROPERTIES",
            "isolation.level=x",
            "isolation.level",
        ),
        (
            Service::Feature,
            "KAFKA_PROPERTIES",
            "no.such.key=x",
            "no.such.key",
        ),
        (Service::Feature, "QUADRILLE_LANES", "0", "QUADRILLE_LANES"),
        (Service::Feature, "QUADRILLE_LISTEN", "nonsense", "--listen"),
        (
            Service::Inference,
            "QUADRILLE_MODEL",
            "/no/such/model",
            "QUADRILLE_MODEL",
        ),
        (
            Service::Results,
            "DATABASE_URL",
            "mysql://x",
            "DATABASE_URL",
        ),
    ] {
        let mut process = world.launch(stage, "refused").env(key, value).start();
        let code = process.wait().code();
        let log = process.log();
        assert_eq!(code, Some(64), "{key}={value}: {log}");
        assert!(log.contains(named), "{key}={value} names {named}: {log}");
    }
}

#[test]
fn missing_topics_are_refused_or_created_on_request() {
    let world = World::new(2);
    let text = std::fs::read_to_string(world.pipeline_file()).expect("the pipeline");
    let other = format!("{}-new", world.pipeline);
    let text = text.replacen(
        &format!("\"{}\"", world.pipeline),
        &format!("\"{other}\""),
        1,
    );
    let file = world.pipeline_file().with_file_name("other.toml");
    std::fs::write(&file, text).expect("written");
    let launch = world
        .launch(Service::Feature, "a")
        .env("QUADRILLE_PIPELINE", &file.display().to_string());
    let mut refused = launch.start();
    assert_eq!(refused.wait().code(), Some(64));
    let log = refused.log();
    assert!(
        log.contains(&format!("{other}.records")) && log.contains("topics create"),
        "{log}"
    );
    let mut created = launch.env("QUADRILLE_CREATE_TOPICS", "3").start();
    created.ready();
    // Kafka deletes by the records' own timestamps, and a letter has its original's.
    let letters = format!("{other}.records.dlq");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let asked = admin(&world.bootstrap);
    let topic = [ResourceSpecifier::Topic(&letters)];
    let described = runtime.block_on(asked.describe_configs(&topic, &AdminOptions::new()));
    let config = described.expect("an answer").remove(0).expect("a topic");
    let retention = config.get("retention.ms").and_then(|it| it.value.clone());
    assert_eq!(retention.as_deref(), Some("-1"));
}

/// Each lane checks where its partitions begin, by questions that must not wait behind its own fetches.
#[test]
fn the_first_records_of_quiet_partitions_are_handled_at_once() {
    let world = World::new(1);
    let mut services = world.start_all();
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    let load = Load {
        records: 20,
        keys: 5,
        rate: 1_000,
    };
    let began = Instant::now();
    load.send(&world, |_| {});
    oracle::stored(&world, services[3].address(), 20);
    let took = began.elapsed();
    // Some 40 s where the questions wait, half a second where they do not.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_broker_that_stops_and_comes_back_under_load_loses_nothing() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 4);
    let services = world.start_all();
    let load = Load {
        records: 4_000,
        keys: 40,
        rate: 400,
    };
    let sent = load.send(&world, |n| {
        if n == 1_500 {
            broker.stop();
        }
        if n == 2_000 {
            broker.restart().expect("it comes back");
        }
    });
    oracle::check(&world, services[3].address(), &sent);
}

/// Takes the group's offsets in Kafka back to the start: as if results had died each time between the
/// database's commit and Kafka's.
fn forget_offsets(world: &World) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", Service::Results.group(&world.pipeline))
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..world.partitions {
        let topic = world.topics().predictions;
        list.add_partition_offset(&topic, partition, Offset::Offset(0))
            .expect("an offset");
    }
    consumer.commit(&list, CommitMode::Sync).expect("committed");
}

fn rows_are_not_doubled(world: &World) {
    let mut services = world.start_all();
    let load = Load {
        records: 2_000,
        keys: 20,
        rate: 500,
    };
    let sent = load.send(world, |n| {
        if n % 500 == 499 {
            services[3].kill();
            services[3] = services[3].launch.start();
        }
    });
    oracle::stored(world, services[3].address(), sent.len());
    services[3].kill();
    // The killed member's session holds the group until it times out.
    crate::harness::eventually("the group is empty", crate::harness::PATIENCE, || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &world.bootstrap)
            .create()
            .ok()?;
        let group = Service::Results.group(&world.pipeline);
        let list = consumer
            .fetch_group_list(Some(&group), Duration::from_secs(10))
            .ok()?;
        (list.groups().first()?.members().is_empty()).then_some(())
    });
    forget_offsets(world);
    services[3] = services[3].launch.start();
    services[3].ready();
    oracle::check(world, services[3].address(), &sent);
}

#[test]
fn rows_are_not_doubled_when_sqlite_and_kafka_disagree() {
    rows_are_not_doubled(&World::new(4));
}

#[test]
fn rows_are_not_doubled_when_postgres_and_kafka_disagree() {
    rows_are_not_doubled(&World::new(4).with_postgres());
}

#[test]
fn probes_metrics_and_health_answer_on_one_port() {
    let world = World::new(2);
    let mut feature = world.start(Service::Feature, "a");
    let ready = feature.ready();
    println!("feature was ready after {ready:?}");
    let address = feature.address();
    assert_eq!(http::get(address, "/livez").0, 200);
    let (status, metrics) = http::get(address, "/metrics");
    assert_eq!(status, 200);
    for name in [
        "messaging_client_consumed_messages_total",
        "quadrille_assigned_partitions",
        "messaging_client_operation_duration_seconds",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert_eq!(http::get(address, "/no/such/path").0, 404);
}

#[test]
fn replicas_beyond_the_partitions_are_ready_and_idle() {
    let world = World::new(1);
    let mut all: Vec<Process> = ["a", "b"].map(|i| world.start(Service::Feature, i)).into();
    for process in &mut all {
        process.ready();
    }
}

#[test]
fn schemas_are_read_by_who_began_before_kafka_was_back() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let cluster = Cluster::new(&broker.bootstrap_servers(), "").expect("a cluster");
    Admin::connect(&cluster)
        .and_then(|admin| admin.create(&TopicSpec::shared()))
        .expect("topics");
    let schema = |pipeline: &str| Schema {
        kind: Kind::Record,
        pipeline: pipeline.to_owned(),
        fields: Vec::new(),
    };
    let (old, new) = (schema("old"), schema("new"));
    let first = Schemas::new(&cluster);
    first.publish(&old).expect("published");

    broker.stop();
    let second = Schemas::new(&cluster);
    let (asking, asked) = mpsc::channel();
    let began = thread::spawn({
        let (second, id) = (second.clone(), old.id());
        move || {
            asking.send(()).expect("who waits for it");
            eventually("a schema is known again", PATIENCE, || {
                match second.lookup(id, Instant::now()) {
                    Lookup::Known(schema) => Some(schema),
                    Lookup::Unreadable(_) => None,
                    Lookup::Unknown => panic!("unknown although it was published"),
                }
            })
        }
    });
    asked.recv().expect("it asks");
    broker.restart().expect("it comes back");
    assert_eq!(*began.join().expect("a schema"), old);
    for schemas in [&first, &second] {
        schemas.publish(&new).expect("published");
        let found = schemas.lookup(new.id(), Instant::now());
        assert!(matches!(found, Lookup::Known(it) if *it == new));
    }
}
