//! Models and deployments as a log on a real Kafka: transactions, races, damage, compaction, a broker's absence.

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    time::Duration,
};

use prost::Message;
use quadrille_choreography::{
    Admin, Cluster, TableEvent, TableWrite, TopicSpec, read_table, write_table,
};
use quadrille_local::Kafka;
use quadrille_proto::{Stage, Topics, v1::ModelManifest};
use quadrille_registry::{
    Action, Deployment, Error, Follower, ModelId, ModelState, PackageBytes, Pushed, Registry,
    Replica, ReplicaModel, Reporter, Role, Route,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tempfile::TempDir;

use crate::harness::{
    PATIENCE,
    cli::{Cli, written},
    eventually, eventually_or_show,
    world::World,
};

fn id(name: &str, version: &str) -> ModelId {
    ModelId {
        name: name.to_owned(),
        version: version.to_owned(),
    }
}

/// A package of some size that no model crate would load: the log does not care.
fn package(content: u8) -> PackageBytes {
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
        action: Action::Set,
        by: by.to_owned(),
        at_ms: 1,
        reason: format!("because {by} says so"),
    }
}

/// Keys of the models' topic that begin so and have a value.
fn keys(cluster: &Cluster, prefix: &str) -> BTreeSet<String> {
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
fn a_package_is_pushed_listed_shown_deployed_and_deleted() {
    let world = World::new(1);
    let (pipeline, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let folder = TempDir::new().expect("a folder");
    let name = format!("{pipeline}-m");
    let one = written(folder.path(), &name, "1", "test");
    let (one, file) = (one.display().to_string(), world.pipeline_file());
    let told = cli.good(&[
        "model",
        "push",
        &one,
        "--pipeline",
        &file.display().to_string(),
        "--by",
        "ann",
    ]);
    assert!(told.contains(&format!("pushed {name}:1")), "{told}");
    let told = cli.good(&["model", "push", &one]);
    assert!(
        told.contains("already there") && told.contains("by ann"),
        "{told}"
    );
    let other = written(&folder.path().join("other"), &name, "1", "another");
    let refused = cli.bad(64, &["model", "push", &other.display().to_string()]);
    assert!(
        refused.contains("does not change") && refused.contains("ann"),
        "{refused}"
    );
    let two = written(folder.path(), &name, "2", "test");
    cli.good(&["model", "push", &two.display().to_string()]);

    let table = cli.good(&["model", "list", &name]);
    assert!(
        table.contains("SHA-256") && table.lines().count() == 3,
        "{table}"
    );
    let json = cli.good(&["model", "list", &name, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["models"][0]["pushed_by"], "ann", "{json}");
    let shown = cli.good(&["model", "show", &name, "1"]);
    assert!(
        shown.contains("backend") && shown.contains("by ann"),
        "{shown}"
    );
    let manifest = cli.good(&["model", "show", &name, "1", "--manifest"]);
    let file = fs::read_to_string(Path::new(&one).join("manifest.json")).expect("read");
    assert_eq!(manifest.trim_end(), file.trim_end());

    let (live, canary) = (format!("{name}:1"), format!("{name}:2@10%"));
    let set = [
        "deploy", "set", pipeline, "--live", &live, "--canary", &canary, "--by", "bea", "--reason",
        "try",
    ];
    assert!(cli.good(&set).contains("revision 1"));
    let table = cli.good(&["model", "list", &name]);
    assert!(table.contains("canary, 10%"), "{table}");
    let used = cli.bad(64, &["model", "delete", &name, "2"]);
    assert!(used.contains(pipeline.as_str()), "{used}");
    cli.good(&["deploy", "promote", pipeline, "--reason", "better"]);
    let shown = cli.good(&["deploy", "show", pipeline]);
    assert!(
        shown.contains("revision 2, promote") && shown.contains(&format!("{name}:2")),
        "{shown}"
    );
    cli.good(&["deploy", "rollback", pipeline]);
    let history = cli.good(&["deploy", "history", pipeline]);
    assert_eq!(history.lines().count(), 4, "{history}");
    assert!(
        history.contains("bea") && history.contains("try") && history.contains("rollback"),
        "{history}"
    );
    cli.good(&[
        "deploy",
        "set",
        pipeline,
        "--live",
        &format!("{name}:2"),
        "--base",
        "3",
    ]);
    let stale = cli.bad(
        1,
        &["deploy", "set", pipeline, "--live", &live, "--base", "3"],
    );
    assert!(stale.contains("revision 4 serves"), "{stale}");
    cli.good(&["model", "delete", &name, "1"]);
    assert!(keys(&world.cluster(), &format!("{name}/1/")).is_empty());
    let gone = cli.bad(64, &["deploy", "rollback", pipeline]);
    assert!(gone.contains(&format!("there is no {name}:1")), "{gone}");
}

#[test]
fn what_cannot_be_deployed_is_refused_with_the_reason() {
    let world = World::new(1);
    let (pipeline, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let name = format!("{pipeline}-m");
    let registry = Registry::open(&world.cluster()).expect("open");
    registry
        .push(&id(&name, "1"), &package(1), "a", 1)
        .expect("pushed");
    let model = |amount: &str| format!("{name}:1{amount}");
    for (args, reason) in [
        (vec!["--shadow", &*model("")], "no live route"),
        (vec!["--live", &*model("@0")], "no live route"),
        (vec![], "no route"),
        (
            vec![
                "--live",
                &*model(""),
                "--canary",
                &*model("@60%"),
                "--canary",
                &*model("@50%"),
            ],
            "110 %",
        ),
        (vec!["--live", &*format!("{name}:7")], "versions of"),
        (vec!["--live", "nowhere:1"], "there is no model nowhere"),
        (
            vec!["--live", &*model(""), "--canary", &*model("@10")],
            "10%",
        ),
        (
            vec![
                "--live",
                &*format!("a={}", model("")),
                "--shadow",
                &*format!("a={}", model("")),
            ],
            "two routes are named a",
        ),
    ] {
        let mut command = vec!["deploy", "set", pipeline.as_str()];
        command.extend(args);
        let error = cli.bad(64, &command);
        assert!(error.contains(reason), "{command:?}: {error}");
    }
    let error = cli.bad(64, &["deploy", "promote", pipeline]);
    assert!(error.contains("no deployment yet"), "{error}");
    let output = cli.run(&[
        "deploy",
        "set",
        &format!("{pipeline}-no"),
        "--live",
        &model(""),
    ]);
    let note = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && note.contains("check the name"),
        "{note}"
    );
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

#[test]
fn a_watched_folder_is_pushed_version_by_version_and_never_half_written() {
    let world = World::new(1);
    let cli = Cli(world.bootstrap.clone());
    let folder = TempDir::new().expect("a folder");
    let name = format!("{}-m", world.pipeline);
    written(folder.path(), &name, "1", "test");
    let registry = Registry::open(&world.cluster()).expect("open");
    let path = folder.path().display().to_string();
    let log = folder.path().join("watch.log");
    let errors = fs::File::create(&log).expect("a log");
    let mut watch = cli
        .command(&["model", "watch", &path, "--every", "0.1"])
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .expect("the CLI starts");
    let seen = |version: &str| registry.view().models.contains_key(&id(&name, version));
    eventually("the version that was there is pushed", PATIENCE, || {
        seen("1").then_some(())
    });

    // Whole, but for the end of its artefact.
    let source = written(&folder.path().join("source"), &name, "2", "test");
    let two = folder.path().join(&name).join("2");
    fs::create_dir(&two).expect("a folder");
    let mut rest = Vec::new();
    for entry in fs::read_dir(&source).expect("listed") {
        let from = entry.expect("an entry").path();
        let to = two.join(from.file_name().expect("a name"));
        let bytes = fs::read(&from).expect("read");
        let cut = match to.ends_with("manifest.json") {
            true => bytes.len(),
            false => bytes.len() / 2,
        };
        fs::write(&to, &bytes[..cut]).expect("written");
        rest.push((to, bytes));
    }
    eventually_or_show("the half-written one is named", PATIENCE, || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("cut off").then_some(()).ok_or(log)
    });
    written(folder.path(), &name, "3", "test");
    eventually("the next version is pushed", PATIENCE, || {
        seen("3").then_some(())
    });
    assert!(!seen("2"), "half a version is not pushed");
    for (to, bytes) in rest {
        fs::write(to, bytes).expect("written");
    }
    eventually("what became whole is pushed", PATIENCE, || {
        seen("2").then_some(())
    });
    let interrupted = Command::new("kill")
        .args(["-INT", &watch.id().to_string()])
        .status();
    assert!(interrupted.is_ok_and(|status| status.success()));
    let status = eventually("it ends", PATIENCE, || {
        watch.try_wait().expect("a child of ours")
    });
    assert_eq!(status.code(), Some(0));

    // Once more, with nothing left to do; and a version that says it is another.
    cli.good(&["model", "watch", &path, "--once"]);
    let four = written(&folder.path().join("source"), &name, "5", "test");
    fs::rename(four, folder.path().join(&name).join("4")).expect("renamed");
    let error = cli.bad(1, &["model", "watch", &path, "--once"]);
    assert!(error.contains("name them alike"), "{error}");
}

#[test]
fn a_deployment_that_is_waited_for_is_ready_when_every_replica_says_so() {
    let world = World::new(1);
    let (pipeline, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let model = id(&format!("{pipeline}-m"), "1");
    let registry = Registry::open(&world.cluster()).expect("open");
    registry.push(&model, &package(1), "a", 1).expect("pushed");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let reporter = Reporter::connect(&world.cluster(), "test").expect("a reporter");
    let report = |instance: &str, revision: u64, state: ModelState| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let replica = Replica {
            service: "inference".to_owned(),
            instance: format!("{pipeline}-{instance}"),
            at_ms: now.expect("a clock").as_millis() as i64,
            models: vec![ReplicaModel {
                id: model.clone(),
                state,
            }],
            revisions: [(pipeline.clone(), revision)].into(),
            models_offset: 0,
            deployments_offset: 0,
        };
        runtime
            .block_on(reporter.report(&replica))
            .expect("reported");
    };
    report("a", 0, ModelState::Wanted);
    report("b", 0, ModelState::Wanted);
    let live = model.to_string();
    let set = ["deploy", "set", pipeline, "--live", &live, "--wait"];
    let mut waiting = cli
        .command(&set)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the CLI starts");
    eventually("the deployment is there", PATIENCE, || {
        registry.view().current(pipeline).cloned()
    });
    report("a", 1, ModelState::Ready);
    report("b", 1, ModelState::Loading);
    assert!(
        waiting.try_wait().expect("a child").is_none(),
        "b is not ready"
    );
    report("b", 1, ModelState::Ready);
    let status = eventually("it ends", PATIENCE, || waiting.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0));
    let table = cli.good(&["model", "list", &model.name]);
    assert!(table.contains("2 ready"), "{table}");

    report(
        "b",
        2,
        ModelState::Failed {
            why: "wrong shape".to_owned(),
        },
    );
    let error = cli.bad(
        1,
        &[
            "deploy",
            "set",
            pipeline,
            "--live",
            &format!("{live}@7"),
            "--wait",
        ],
    );
    assert!(
        error.contains("wrong shape") && error.contains("rollback"),
        "{error}"
    );
    let table = cli.good(&["model", "list", &model.name]);
    assert!(
        table.contains("1 ready") && table.contains("b failed: wrong shape"),
        "{table}"
    );
}

fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
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
    let mut broker = Kafka::options().start().expect("Apache Kafka starts");
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
    let mut options = Kafka::options();
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

/// An installation from before these topics.
#[test]
fn topics_that_are_missing_are_named_with_what_makes_them() {
    let broker = Kafka::options().start().expect("Apache Kafka starts");
    let cli = Cli(broker.bootstrap_servers());
    for args in [["model", "list"], ["deploy", "show"]] {
        let error = cli.bad(64, &args);
        assert!(
            error.contains("quadrille.models") && error.contains("topics create"),
            "{error}"
        );
    }
}

#[test]
fn a_service_with_a_model_of_its_own_starts_where_these_topics_are_not() {
    let broker = Kafka::options().start().expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 1);
    let topics = [Topics::MODELS, Topics::DEPLOYMENTS, Topics::STATUS];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gone = admin(&world.bootstrap);
    let gone = runtime.block_on(gone.delete_topics(&topics, &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    world.start(Stage::Inference, "a").ready();
}
