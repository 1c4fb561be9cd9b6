//! What a pipeline was made with: topics that are created again, or get more partitions, under running services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::{Child, Stdio},
};

use quadrille_choreography::{Admin, TopicSpec};
use quadrille_proto::{KeyedState, Service, Topics, dlq_of};
use rdkafka::admin::AdminOptions;

use crate::harness::{
    PATIENCE, broker,
    cli::Cli,
    client::{Client, Raw},
    eventually,
    oracle::{self, Load},
    process::Process,
    world::World,
};
use crate::registry::admin;

/// Of World's topics.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Records without an id: they get one of their place.
pub fn send_nameless(world: &World, first: u32, count: u32) {
    let client = Client::new(world);
    for n in first..first + count {
        let key = format!("p{n}");
        let json = format!(
            r#"{{"patient_id":"{key}","pregnant":6,"glucose":148,"pressure":72,"triceps":35,"insulin":0,"mass":33.6,"pedigree":0.627,"age":50}}"#
        );
        client.send(&world.topics().inbox, &Raw::json(&key, json));
    }
    client.flush();
}

fn asked(world: &World) -> Admin {
    Admin::connect(&world.cluster()).expect("a client")
}

/// Deletes a topic and creates it again, as people do who want it empty.
fn create_again(world: &World, topic: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let deleting = admin(&world.bootstrap);
    let gone = runtime.block_on(deleting.delete_topics(&[topic], &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    let before = asked(world);
    let specs = world.specs(MESSAGE_BYTES_MAX);
    let spec: Vec<TopicSpec> = specs.into_iter().filter(|it| it.name == topic).collect();
    eventually("the topic is gone", PATIENCE, || {
        before
            .partitions(topic)
            .expect("an answer")
            .is_none()
            .then_some(())
    });
    eventually("the topic is there again", PATIENCE, || {
        asked(world)
            .create(&spec)
            .is_ok_and(|it| !it.is_empty())
            .then_some(())
    });
}

fn add_partitions(world: &World, partitions: i32) {
    let admin = asked(world);
    let topics = admin
        .pipeline_topics(&world.pipeline, KeyedState::None)
        .expect("topics");
    admin.add_partitions(&topics, partitions).expect("altered");
}

#[track_caller]
fn ends_with_64(process: &mut Process, words: &[&str]) {
    let code = process.wait().code();
    let log = process.log();
    assert_eq!(code, Some(64), "{}: {log}", process.launch.binary);
    for word in words {
        assert!(log.contains(word), "{word} in {log}");
    }
}

/// Waits until a stage has nothing left to read.
#[track_caller]
pub fn worked_off(world: &World, stage: Service) {
    let (group, input) = (
        stage.group(&world.pipeline),
        stage.stage().input(&world.pipeline),
    );
    let admin = asked(world);
    eventually("its input is worked off", PATIENCE, || {
        let progress = admin.progress(&group, &input).ok()?;
        (progress.lag() == 0).then_some(())
    });
}

#[track_caller]
pub fn drained(process: &mut Process) {
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "{}", process.log());
}

/// Every record is predicted and stored once, and each key's in their order. The oracle compares by offsets: here a key may
/// go on in another partition, so it is the time that tells.
#[track_caller]
fn in_order(world: &World, results: SocketAddr, sent: &BTreeSet<String>) {
    oracle::stored(world, results, sent.len());
    assert_eq!(&oracle::rows(world, results), sent);
    let mut keys: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for (_, prediction) in oracle::predictions(world) {
        let of = keys.entry(prediction.key).or_default();
        of.push((prediction.predicted_at_ms, prediction.id));
    }
    assert_eq!(keys.values().map(Vec::len).sum::<usize>(), sent.len());
    for (key, mut predicted) in keys {
        // Those of one partition come in its order, and stay so.
        predicted.sort_by_key(|(at_ms, _)| *at_ms);
        let ids: Vec<&String> = predicted.iter().map(|(_, id)| id).collect();
        assert!(ids.is_sorted(), "{key}: {ids:?}");
    }
    let client = Client::new(world);
    for topic in world.topics().flow() {
        assert_eq!(
            client.read(&dlq_of(topic)).len(),
            0,
            "dead letters of {topic}"
        );
    }
}

fn migrating(world: &World, more: &[&str]) -> Child {
    let file = world.pipeline_file().display().to_string();
    let mut args = vec!["topics", "migrate", "--pipeline", &file];
    args.extend(more);
    let mut command = Cli(world.bootstrap.clone()).command(&args);
    command.stderr(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("the CLI starts")
}

#[track_caller]
fn succeeded(child: Child) -> String {
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    format!("{error}{}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn an_inbox_that_is_created_again_stops_ingest_and_once_accepted_loses_no_record() {
    let world = World::new(2);
    let mut services = world.start_all();
    send_nameless(&world, 0, 10);
    oracle::stored(&world, services[3].address(), 10);
    let inbox = world.topics().inbox;
    create_again(&world, &inbox);
    let accept = "quadrille topics accept";
    ends_with_64(&mut services[0], &[&inbox, accept]);
    let mut again = services[0].launch.start();
    ends_with_64(&mut again, &[&inbox, accept]);

    let (cli, file) = (Cli(world.bootstrap.clone()), world.pipeline_file());
    let file = file.display().to_string();
    let fault = cli.bad(64, &["topics", "check", "--pipeline", &file]);
    assert!(fault.contains(&inbox) && fault.contains(accept), "{fault}");
    let told = cli.good(&[
        "topics",
        "accept",
        "--pipeline",
        &file,
        "--reason",
        "a test",
    ]);
    assert!(
        told.contains("generation 1") && told.contains(&inbox),
        "{told}"
    );
    let told = cli.good(&["topics", "accept", "--pipeline", &file]);
    assert!(told.contains("as written down"), "{told}");
    cli.good(&["topics", "check", "--pipeline", &file]);

    services[0] = services[0].launch.start();
    services[0].ready();
    send_nameless(&world, 10, 10);
    oracle::stored(&world, services[3].address(), 20);
    let ids = oracle::rows(&world, services[3].address());
    let first = ids.iter().filter(|id| id.starts_with(&format!("{inbox}-")));
    let second = ids
        .iter()
        .filter(|id| id.starts_with(&format!("{inbox}@1-")));
    assert_eq!((first.count(), second.count()), (10, 10), "{ids:?}");
}

#[test]
fn a_dead_letter_of_a_later_generation_keeps_its_own_place_when_it_is_redriven() {
    let world = World::new(1);
    let mut ingest = world.start(Service::Ingest, "a");
    ingest.ready();
    drained(&mut ingest);
    let inbox = world.topics().inbox;
    create_again(&world, &inbox);
    let file = world.pipeline_file().display().to_string();
    let cli = Cli(world.bootstrap.clone());
    cli.good(&["topics", "accept", "--pipeline", &file]);
    let mut ingest = ingest.launch.start();
    ingest.ready();
    let client = Client::new(&world);
    client.send(&inbox, &Raw::json("k", "no JSON".to_owned()));
    client.flush();
    let letters = eventually("it is a dead letter", PATIENCE, || {
        let letters = client.read(&dlq_of(&inbox));
        (!letters.is_empty()).then_some(letters)
    });
    let origin = crate::harness::client::header(&letters[0], "quadrille.origin");
    assert_eq!(origin, Some(format!("{inbox}@1-0-0")));
}

#[test]
fn topics_with_more_partitions_stop_what_runs_and_start_nothing_until_they_are_migrated() {
    let world = World::new(2);
    let mut services = world.start_all();
    let load = Load {
        records: 600,
        keys: 20,
        rate: 400,
    };
    let sent = load.send_while(&world, |n| n < 300);
    oracle::stored(&world, services[3].address(), 300);
    add_partitions(&world, 4);
    let words = ["4 partitions", "created with 2", "quadrille topics migrate"];
    for service in &mut services {
        ends_with_64(service, &words);
    }
    for service in &services {
        let mut again = service.launch.start();
        ends_with_64(&mut again, &words);
    }
    let file = world.pipeline_file().display().to_string();
    let fault = Cli(world.bootstrap.clone()).bad(64, &["topics", "check", "--pipeline", &file]);
    assert!(words.iter().all(|word| fault.contains(word)), "{fault}");

    let told = succeeded(migrating(&world, &[]));
    assert!(told.contains("4 partitions"), "{told}");
    for service in &mut services {
        *service = service.launch.start();
    }
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    let mut all = sent;
    all.extend(load.send_from(&world, 300, |_| true));
    in_order(&world, services[3].address(), &all);
}

#[test]
fn a_migration_waits_until_everything_is_worked_off_and_every_key_keeps_its_order() {
    let world = World::new(2);
    let mut services = world.start_all();
    let load = Load {
        records: 1_000,
        keys: 20,
        rate: 1_000,
    };
    // What ingest has spread by the old number waits for feature.
    drained(&mut services[1]);
    let mut sent = load.send_while(&world, |n| n < 500);
    worked_off(&world, Service::Ingest);
    let mut migration = migrating(&world, &["--partitions", "4"]);
    let file = world.pipeline_file().display().to_string();
    eventually("the pipeline drains", PATIENCE, || {
        let output = Cli(world.bootstrap.clone()).run(&["topics", "check", "--pipeline", &file]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.contains("being migrated to another number")
            .then_some(())
    });
    drained(&mut services[0]);
    let mut refused = services[0].launch.start();
    ends_with_64(&mut refused, &["being migrated to another number"]);
    if migration.try_wait().expect("a child").is_some() {
        panic!("it did not wait: {}", succeeded(migration));
    }
    let partitions = asked(&world).partitions(&world.topics().records);
    assert_eq!(
        partitions.expect("an answer"),
        Some(2),
        "nothing changed yet"
    );
    // Whoever only follows partitions starts, to work off what is there.
    services[1] = services[1].launch.start();
    let told = succeeded(migration);
    assert!(
        told.contains("wait for feature") && told.contains("4 partitions"),
        "{told}"
    );
    for service in &mut services[1..] {
        ends_with_64(service, &["quadrille topics migrate"]);
    }
    for service in &mut services {
        *service = service.launch.start();
    }
    services.iter_mut().for_each(|service| {
        service.ready();
    });
    sent.extend(load.send_from(&world, 500, |_| true));
    in_order(&world, services[3].address(), &sent);
}

/// An installation from before this topic.
#[test]
fn a_deployment_without_the_topic_of_facts_is_told_what_makes_it_and_goes_on() {
    let broker = broker::options().start().expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 2);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let deleting = admin(&world.bootstrap);
    let gone = runtime.block_on(deleting.delete_topics(&[Topics::PIPELINES], &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    let mut refused = world.start(Service::Ingest, "a");
    ends_with_64(
        &mut refused,
        &["quadrille.pipelines", "quadrille topics create"],
    );
    let file = world.pipeline_file().display().to_string();
    Cli(world.bootstrap.clone()).good(&["topics", "create", "--pipeline", &file]);
    let services = world.start_all();
    send_nameless(&world, 0, 5);
    oracle::stored(&world, services[3].address(), 5);
    let ids = oracle::rows(&world, services[3].address());
    let inbox = world.topics().inbox;
    assert!(
        ids.iter().all(|id| id.starts_with(&format!("{inbox}-"))),
        "{ids:?}"
    );
}

#[test]
fn a_file_whose_categories_were_reordered_does_not_start_unless_it_is_accepted() {
    let world = World::new(1);
    let file = world.pipeline_file();
    let text = std::fs::read_to_string(&file).expect("the pipeline");
    let with = |categories: &str| {
        let field = format!(
            "[[record.fields]]\nname = \"ward\"\ntype = \"category\"\ncategories = [{categories}]\nrequired = false\n\n[[record.fields]]"
        );
        std::fs::write(&file, text.replacen("[[record.fields]]", &field, 1)).expect("written");
    };
    with(r#""north", "south""#);
    let mut ingest = world.start(Service::Ingest, "a");
    ingest.ready();
    drained(&mut ingest);
    with(r#""south", "north""#);
    for stage in [Service::Ingest, Service::Feature] {
        let mut refused = world.start(stage, "a");
        ends_with_64(&mut refused, &["contradicts", "only at the end"]);
    }
    let file = file.display().to_string();
    let cli = Cli(world.bootstrap.clone());
    cli.good(&["topics", "accept", "--pipeline", &file, "--schemas"]);
    ingest.launch.start().ready();
}
