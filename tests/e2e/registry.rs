//! Models and deployments as a log on a real Kafka: transactions, races, damage, compaction, a broker's absence.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Barrier, time::Duration};

use prost::Message;
use quadrille_choreography::{
    Admin, Cluster, TableEvent, TableWrite, TopicSpec, read_table, write_table,
};
use quadrille_proto::{Topics, v1::ModelManifest};
use quadrille_registry::{
    Action, Deployment, Error, Follower, ModelId, PackageBytes, Pushed, Registry, Role, Route,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::harness::{PATIENCE, broker, eventually, world::World};

pub fn id(name: &str, version: &str) -> ModelId {
    ModelId {
        name: name.to_owned(),
        version: version.to_owned(),
    }
}

/// A package of some size that no model crate would load: the log does not care.
pub fn package(content: u8) -> PackageBytes {
    PackageBytes {
        manifest: format!("{{\"content\": {content}}}").into_bytes(),
        artefact: vec![content; 1_500_000],
    }
}

fn deployment(pipeline: &str, revision: u64, model: ModelId, by: &str) -> Deployment {
    Deployment {
        pipeline: pipeline.to_owned(),
        revision,
        routes: vec![Route {
            name: "live".to_owned(),
            model,
            role: Role::Live { weight: 1 },
        }],
        ranges: None,
        action: Action::Set,
        by: by.to_owned(),
        at_ms: 1,
        reason: format!("because {by} says so"),
    }
}

/// Keys of the models' topic that begin so and have a value.
pub fn keys(cluster: &Cluster, prefix: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    read_table(cluster, Topics::MODELS, PATIENCE, |event| {
        match event {
            TableEvent::Restarted => keys.clear(),
            TableEvent::Record(record) => {
                let key = String::from_utf8_lossy(record.key).into_owned();
                match record.value {
                    Some(_) if key.starts_with(prefix) => keys.insert(key),
                    _ => keys.remove(&key),
                };
            }
        }
        ControlFlow::Continue(())
    })
    .expect("the topic is read");
    keys
}

#[test]
fn a_push_that_was_aborted_is_never_seen() {
    let world = World::new(1);
    let name = format!("{}-m", world.pipeline);
    let registry = Registry::open(&world.cluster()).expect("open");
    let small = PackageBytes {
        manifest: b"{}".to_vec(),
        artefact: Vec::new(),
    };
    let sha256 = small.sha256();
    let manifest = ModelManifest {
        name: name.clone(),
        version: "1".to_owned(),
        sha256: sha256.0.to_vec(),
        manifest_json: small.manifest,
        ..ModelManifest::default()
    };
    let (key, value) = (
        format!("{name}/1/{sha256}/u/manifest"),
        manifest.encode_to_vec(),
    );
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("transactional.id", &name)
        .create()
        .expect("a producer");
    let within = Duration::from_secs(30);
    producer.init_transactions(within).expect("initialised");
    for commits in [false, true] {
        producer.begin_transaction().expect("begun");
        let record = BaseRecord::to(Topics::MODELS)
            .partition(0)
            .key(&key)
            .payload(&value);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
        producer.flush(within).expect("flushed");
        if !commits {
            producer.abort_transaction(within).expect("aborted");
            // What is written after it is seen, so it would be.
            registry
                .push(&id(&name, "2"), &package(1), "a", 1)
                .expect("pushed");
            assert!(!registry.view().models.contains_key(&id(&name, "1")));
            let again = Registry::open(&world.cluster()).expect("open");
            assert!(!again.view().models.contains_key(&id(&name, "1")));
            continue;
        }
        assert!(!registry.view().models.contains_key(&id(&name, "1")));
        producer.commit_transaction(within).expect("committed");
    }
    // The same record counts once it is committed.
    eventually("the committed one is seen", PATIENCE, || {
        registry.view().models.get(&id(&name, "1")).cloned()
    });
}

#[test]
fn of_pushes_that_race_exactly_one_stands_and_all_are_told() {
    let world = World::new(1);
    let name = format!("{}-m", world.pipeline);
    let registries: Vec<Registry> = (0..4)
        .map(|_| Registry::open(&world.cluster()).expect("open"))
        .collect();
    let barrier = Barrier::new(registries.len());
    let results: Vec<Result<Pushed, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0_u8..)
            .zip(&registries)
            .map(|(number, registry)| {
                let (barrier, id) = (&barrier, id(&name, "1"));
                scope.spawn(move || {
                    barrier.wait();
                    registry.push(&id, &package(number), &number.to_string(), 1)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let standing = registries[0].view().models[&id(&name, "1")].clone();
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(Pushed::New(entry)) => assert_eq!(
                (entry, &*entry.pushed_by),
                (&standing, &*number.to_string())
            ),
            Err(Error::Taken { first }) => assert_eq!(**first, standing),
            other => panic!("{other:?}"),
        }
    }
    let new = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(new, 1, "{results:?}");
    assert_eq!(
        keys(&world.cluster(), &format!("{name}/")).len(),
        4,
        "losers take theirs away"
    );
    let winner: u8 = standing.pushed_by.parse().expect("a number");
    let fetched = registries[3]
        .follower()
        .fetch(&id(&name, "1"))
        .expect("fetched");
    assert_eq!(fetched, package(winner));
}

#[test]
fn of_deployments_that_race_each_revision_has_one_winner_whom_all_others_are_told() {
    let world = World::new(1);
    let pipeline = &world.pipeline;
    let model = id(&format!("{pipeline}-m"), "1");
    let registries: Vec<Registry> = (0..4)
        .map(|_| Registry::open(&world.cluster()).expect("open"))
        .collect();
    registries[0]
        .push(&model, &package(1), "a", 1)
        .expect("pushed");
    for registry in &registries {
        eventually("all see the model", PATIENCE, || {
            registry.view().models.get(&model).cloned()
        });
    }
    for revision in 1..=3 {
        let barrier = Barrier::new(registries.len());
        let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = registries
                .iter()
                .enumerate()
                .map(|(number, registry)| {
                    let asked =
                        deployment(pipeline, revision, model.clone(), &format!("w{number}"));
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        registry.deploy(&asked)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let current = registries[0]
            .view()
            .current(pipeline)
            .cloned()
            .expect("one");
        assert_eq!(current.revision, revision);
        for (number, result) in results.iter().enumerate() {
            match result {
                Ok(()) => assert_eq!(current.by, format!("w{number}")),
                Err(Error::LostRace { winner }) => assert_eq!(**winner, current),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    }
    let fresh = Registry::open(&world.cluster()).expect("open");
    let history = fresh.view().deployments[pipeline].clone();
    assert_eq!((history.events.len(), history.valid().count()), (12, 3));
    assert_eq!(history, registries[1].view().deployments[pipeline]);
}

#[test]
fn a_package_larger_than_what_a_reader_holds_comes_back_whole() {
    let world = World::new(1);
    let model = id(&format!("{}-m", world.pipeline), "1");
    let registry = Registry::open(&world.cluster()).expect("open");
    let large = PackageBytes {
        manifest: vec![b' '; 2 << 20],
        artefact: (0..40_u32 << 20).map(|at| (at % 251) as u8).collect(),
    };
    let pushed = registry.push(&model, &large, "a", 1).expect("pushed");
    assert!(matches!(pushed, Pushed::New(entry) if entry.chunks() == 80));
    let fresh = Registry::open(&world.cluster()).expect("open");
    let fetched = fresh.follower().fetch(&model).expect("fetched");
    assert!(fetched == large, "byte by byte");
    assert_eq!(fresh.delete(&model).expect("deleted").records, 81);
}

#[test]
fn a_chunk_that_was_damaged_on_the_log_is_found_by_its_hash() {
    let world = World::new(1);
    let model = id(&format!("{}-m", world.pipeline), "1");
    let registry = Registry::open(&world.cluster()).expect("open");
    registry.push(&model, &package(1), "a", 1).expect("pushed");
    let keys = keys(&world.cluster(), &format!("{}/", model.name));
    let chunk = keys
        .iter()
        .find(|key| key.ends_with("chunk/1"))
        .expect("a chunk");
    let mut damaged = vec![1; 512 << 10];
    damaged[4_711] ^= 1;
    let record = TableWrite {
        key: chunk.clone(),
        value: Some(&damaged),
    };
    write_table(&world.cluster(), Topics::MODELS, &[record]).expect("written");
    let fresh = Registry::open(&world.cluster()).expect("open");
    let error = fresh.follower().fetch(&model).expect_err("damaged");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
}

pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", bootstrap);
    settings.create().expect("an admin client")
}

fn create(runtime: &tokio::runtime::Runtime, bootstrap: &str, extra: &[(&str, &str)]) {
    let shared = TopicSpec::shared();
    let topics = shared.iter().map(|spec| {
        let mut topic = NewTopic::new(&spec.name, 1, TopicReplication::Fixed(1));
        for (key, value) in extra {
            topic = topic.set(key, value);
        }
        topic.set("cleanup.policy", "compact")
    });
    let topics: Vec<NewTopic<'_>> = topics.collect();
    let made = admin(bootstrap);
    let made = runtime.block_on(made.create_topics(&topics, &AdminOptions::new()));
    assert!(made.expect("an answer").iter().all(Result::is_ok));
}

#[test]
fn a_follower_lives_through_a_broker_that_stops_and_a_topic_that_is_made_anew() {
    let mut broker = broker::that_goes_away()
        .start()
        .expect("Apache Kafka starts");
    let cluster = Cluster::new(&broker.bootstrap_servers(), "").expect("a cluster");
    let specs = TopicSpec::shared();
    Admin::connect(&cluster)
        .and_then(|admin| admin.create(&specs))
        .expect("topics");
    let follower = Follower::start(&cluster).expect("started");
    follower.wait_caught_up(PATIENCE).expect("read");
    let first = Registry::open(&cluster).expect("open");
    first
        .push(&id("m", "1"), &package(1), "a", 1)
        .expect("pushed");
    eventually("it is seen", PATIENCE, || {
        follower.view().models.get(&id("m", "1")).cloned()
    });

    broker.stop();
    let why = eventually("the follower says that it cannot read", PATIENCE, || {
        follower.behind()
    });
    assert!(why.contains("quadrille."), "{why}");
    assert!(
        follower.view().models.contains_key(&id("m", "1")),
        "what was known stays"
    );
    broker.restart().expect("it comes back");
    eventually("it catches up", PATIENCE, || {
        follower.caught_up().then_some(())
    });
    let second = Registry::open(&cluster).expect("open");
    second
        .push(&id("m", "2"), &package(2), "a", 1)
        .expect("pushed");
    eventually("news are seen", PATIENCE, || {
        follower.view().models.get(&id("m", "2")).cloned()
    });

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gone = admin(&broker.bootstrap_servers());
    let gone = runtime.block_on(gone.delete_topics(&[Topics::MODELS], &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    eventually("it says that the topic is missing", PATIENCE, || {
        (follower.missing() == [Topics::MODELS]).then_some(())
    });
    assert_eq!(follower.view().models.len(), 2, "what was known stays");
    let specs = TopicSpec::shared();
    Admin::connect(&cluster)
        .and_then(|admin| admin.create(&specs))
        .expect("topics");
    let third = Registry::open(&cluster).expect("open");
    third
        .push(&id("m", "3"), &package(3), "a", 1)
        .expect("pushed");
    eventually("only what is there now is known", PATIENCE, || {
        let view = follower.view();
        let only = view.models.len() == 1 && view.models.contains_key(&id("m", "3"));
        only.then_some(())
    });
    assert!(follower.caught_up());
}

#[test]
fn a_compaction_changes_no_answer_and_no_history() {
    let mut options = broker::options();
    options.extra = [("log.cleaner.backoff.ms", "200")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec();
    let broker = options.start().expect("Apache Kafka starts");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let eager = [
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.0"),
        ("delete.retention.ms", "0"),
        ("max.compaction.lag.ms", "1000"),
    ];
    create(&runtime, &broker.bootstrap_servers(), &eager);
    let cluster = Cluster::new(&broker.bootstrap_servers(), "").expect("a cluster");
    let registry = Registry::open(&cluster).expect("open");
    for version in ["1", "2", "3"] {
        registry
            .push(&id("m", version), &package(1), "a", 1)
            .expect("pushed");
    }
    for (revision, version) in [(1, "1"), (2, "3"), (2, "1"), (3, "1")] {
        let _ = registry.deploy(&deployment("p", revision, id("m", version), "a"));
    }
    registry.delete(&id("m", "2")).expect("deleted");
    let count = || {
        let mut count = 0;
        read_table(&cluster, Topics::MODELS, PATIENCE, |event| {
            count += usize::from(matches!(event, TableEvent::Record(_)));
            ControlFlow::Continue(())
        })
        .expect("read");
        count
    };
    let before = count();
    // A segment is closed, and so cleaned, when something is written after its time.
    let mut number = 0;
    eventually("the deleted package is cleaned away", PATIENCE, || {
        number += 1;
        for topic in [Topics::MODELS, Topics::DEPLOYMENTS] {
            let nudge = TableWrite {
                key: "nudge".to_owned(),
                value: None,
            };
            write_table(&cluster, topic, &[nudge]).expect("written");
        }
        (count() < before - 3 && number > 3).then_some(())
    });
    let fresh = Registry::open(&cluster).expect("open");
    let (read_along, came_after) = (registry.view(), fresh.view());
    assert_eq!(came_after.models, read_along.models);
    assert_eq!(came_after.deployments, read_along.deployments);
    assert_eq!(came_after.deployments["p"].events.len(), 4);
    let fetched = fresh.follower().fetch(&id("m", "3")).expect("fetched");
    assert_eq!(fetched, package(1));
}
