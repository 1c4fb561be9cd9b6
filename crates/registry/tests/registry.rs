//! The registry on the embedded broker: pushes, deployments, reports, as several writers and readers see them.
//! Exactly-once and compaction are not claims of these tests; the end-to-end tests have a real Kafka.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Cluster, EmbeddedBroker, TableEvent, TableWrite, TopicSpec, read_table, write_table,
};
use quadrille_proto::Topics;
use quadrille_registry::{
    Action, Deployment, Error, Follower, ModelId, ModelState, PackageBytes, Pushed, Registry,
    Replica, ReplicaModel, Replicas, Reporter, Role, Route, Uri,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn broker() -> (EmbeddedBroker, Cluster) {
    let broker = EmbeddedBroker::start().expect("the embedded broker");
    broker.create(&TopicSpec::shared()).expect("topics");
    let cluster = broker.cluster().expect("a cluster");
    (broker, cluster)
}

fn id(version: &str) -> ModelId {
    ModelId {
        name: "m".to_owned(),
        version: version.to_owned(),
    }
}

fn package(content: u8) -> PackageBytes {
    PackageBytes {
        manifest: format!("{{\"content\": {content}}}").into_bytes(),
        artefact: vec![content; 1_200_000],
    }
}

fn deployment(revision: u64, version: &str, by: &str) -> Deployment {
    Deployment {
        pipeline: "p".to_owned(),
        revision,
        routes: vec![Route {
            name: "live".to_owned(),
            model: id(version),
            role: Role::Live { weight: 1 },
        }],
        ranges: None,
        action: Action::Set,
        by: by.to_owned(),
        at_ms: 1,
        reason: String::new(),
    }
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Keys of the models' topic that have a value now.
fn keys(cluster: &Cluster) -> Vec<String> {
    let mut keys = std::collections::BTreeSet::new();
    read_table(cluster, Topics::MODELS, PATIENCE, |event| {
        if let TableEvent::Record(record) = event {
            let key = String::from_utf8_lossy(record.key).into_owned();
            match record.value {
                Some(_) => keys.insert(key),
                None => keys.remove(&key),
            };
        }
        ControlFlow::Continue(())
    })
    .expect("read");
    keys.into_iter().collect()
}

#[test]
fn a_package_is_pushed_once_fetched_as_it_was_and_deleted() {
    let (_broker, cluster) = broker();
    let registry = Registry::open(&cluster).expect("open");
    let pushed = registry
        .push(&id("1"), &package(1), "a", 5)
        .expect("pushed");
    let Pushed::New(entry) = pushed else {
        panic!("{pushed:?}")
    };
    assert_eq!(
        (entry.chunks(), &*entry.pushed_by, entry.pushed_at_ms),
        (3, "a", 5)
    );
    assert_eq!(entry.sha256, package(1).sha256());
    let fetched = registry.follower().fetch(&id("1")).expect("fetched");
    assert_eq!(fetched, package(1));
    let manifest = registry.follower().manifest(&id("1")).expect("read");
    assert_eq!(manifest, package(1).manifest);

    let again = registry
        .push(&id("1"), &package(1), "b", 6)
        .expect("the same");
    assert_eq!(again, Pushed::AlreadyThere(entry));
    let other = registry
        .push(&id("1"), &package(2), "b", 6)
        .expect_err("other");
    assert!(
        matches!(&other, Error::Taken { first } if first.pushed_by == "a"),
        "{other}"
    );
    let unknown = registry.follower().fetch(&id("2")).expect_err("unknown");
    assert!(
        unknown.to_string().contains("versions of m are: 1"),
        "{unknown}"
    );

    assert_eq!(registry.delete(&id("1")).expect("deleted").records, 4);
    assert!(registry.view().models.is_empty());
    assert!(keys(&cluster).is_empty());
    assert!(matches!(
        registry.delete(&id("1")),
        Err(Error::Unknown { .. })
    ));
    let anew = registry
        .push(&id("1"), &package(2), "b", 7)
        .expect("free again");
    assert!(matches!(anew, Pushed::New(_)));
}

#[test]
fn a_package_that_lies_elsewhere_is_fetched_from_there_as_long_as_it_is_the_same() {
    let (_broker, cluster) = broker();
    let registry = Registry::open(&cluster).expect("open");
    let folder = tempfile::tempdir().expect("a folder");
    let uri = Uri::File(folder.path().to_owned()).join("forest.bin");
    let file = folder.path().join("forest.bin");
    std::fs::write(&file, package(1).artefact).expect("written");
    let pushed = registry.push_by_uri(&id("1"), &package(1), &uri, "a", 5);
    let Ok(Pushed::New(entry)) = pushed else {
        panic!("{pushed:?}")
    };
    assert_eq!(entry.artefact_uri(), Some(&*uri.to_string()));
    assert_eq!(entry.sha256, package(1).sha256());
    assert_eq!(keys(&cluster).len(), 1, "no chunks");
    let fetched = registry.follower().fetch(&id("1")).expect("fetched");
    assert_eq!(fetched, package(1));
    let again = registry.push(&id("1"), &package(1), "b", 6);
    assert_eq!(again.expect("the same"), Pushed::AlreadyThere(entry));

    let (wanted, found) = (package(1).sha256(), {
        let mut changed = package(1);
        changed.artefact[4_711] ^= 1;
        std::fs::write(&file, &changed.artefact).expect("written");
        changed.sha256()
    });
    let error = registry.follower().fetch(&id("1")).expect_err("changed");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    let told = error.to_string();
    for part in [wanted.to_string(), found.to_string(), uri.to_string()] {
        assert!(told.contains(&part), "{told}");
    }
    for (bytes, told) in [(1_200_001, "more than the 1200000 bytes"), (7, "(7 bytes)")] {
        std::fs::write(&file, vec![1; bytes]).expect("written");
        let error = registry.follower().fetch(&id("1")).expect_err("changed");
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    std::fs::remove_file(&file).expect("removed");
    let error = registry.follower().fetch(&id("1")).expect_err("gone");
    assert!(matches!(error, Error::Store(_)), "{error}");

    assert_eq!(registry.delete(&id("1")).expect("deleted").records, 1);
    assert!(keys(&cluster).is_empty());
}

#[test]
fn of_pushes_that_race_one_stands_and_each_is_told() {
    let (_broker, cluster) = broker();
    // All have read the log before any has written.
    let registries: Vec<Registry> = (0..3)
        .map(|_| Registry::open(&cluster).expect("open"))
        .collect();
    let results: Vec<Result<Pushed, Error>> = std::thread::scope(|scope| {
        let push = |(number, registry)| {
            // The first and the last have the same content.
            let package = package(number % 2);
            scope.spawn(move || registry_push(registry, &package, number))
        };
        let threads: Vec<_> = (0..).zip(&registries).map(push).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let new = results
        .iter()
        .filter(|result| matches!(result, Ok(Pushed::New(_))))
        .count();
    assert_eq!(new, 1, "{results:?}");
    let standing = registries[0].view().models[&id("1")].clone();
    for (number, result) in results.iter().enumerate() {
        let same = standing.sha256 == package(number as u8 % 2).sha256();
        match result {
            Ok(Pushed::New(entry)) => assert_eq!(*entry, standing),
            Ok(Pushed::AlreadyThere(entry)) => assert!(same && *entry == standing),
            Err(Error::Taken { first }) => assert!(!same && **first == standing),
            Err(error) => panic!("{error}"),
        }
    }
    let left = keys(&cluster);
    assert_eq!(left.len(), 4, "losers take their records away: {left:?}");
}

fn registry_push(registry: &Registry, package: &PackageBytes, number: u8) -> Result<Pushed, Error> {
    registry.push(&id("1"), package, &number.to_string(), 5)
}

#[test]
fn of_deployments_that_race_one_counts_and_the_other_is_told_whose() {
    let (_broker, cluster) = broker();
    let registries: Vec<Registry> = (0..2)
        .map(|_| Registry::open(&cluster).expect("open"))
        .collect();
    registries[0]
        .push(&id("1"), &package(1), "a", 5)
        .expect("pushed");
    let follower = registries[1].follower();
    eventually("the other sees the model", || {
        follower.view().models.get(&id("1")).cloned()
    });

    registries[0]
        .deploy(&deployment(1, "1", "first"))
        .expect("deployed");
    // The second has decided on the same base.
    let lost = registries[1]
        .deploy(&deployment(1, "1", "second"))
        .expect_err("lost");
    assert!(
        matches!(&lost, Error::LostRace { winner } if winner.by == "first"),
        "{lost}"
    );
    registries[1]
        .deploy(&deployment(2, "1", "second"))
        .expect("deployed");
    let gap = registries[1]
        .deploy(&deployment(4, "1", "second"))
        .expect_err("a gap");
    assert!(matches!(gap, Error::Void(_)), "{gap}");

    let history = eventually("all four are seen", || {
        let history = registries[0].view().deployments.get("p").cloned()?;
        (history.events.len() == 4).then_some(history)
    });
    let void: Vec<bool> = history
        .events
        .iter()
        .map(|event| event.void.is_some())
        .collect();
    assert_eq!(void, [false, true, false, true]);
    assert_eq!(history.current().map(|current| current.revision), Some(2));

    let used = registries[0].delete(&id("1")).expect_err("in use");
    assert!(
        matches!(&used, Error::InUse { pipelines, .. } if pipelines == &["p"]),
        "{used}"
    );
    let unknown = registries[0]
        .deploy(&deployment(3, "9", "a"))
        .expect_err("no such version");
    assert!(matches!(unknown, Error::Unknown { .. }), "{unknown}");
}

#[test]
fn a_chunk_that_was_changed_on_the_log_is_found_by_its_hash() {
    let (_broker, cluster) = broker();
    let registry = Registry::open(&cluster).expect("open");
    registry
        .push(&id("1"), &package(1), "a", 5)
        .expect("pushed");
    let keys = keys(&cluster);
    let chunk = keys
        .iter()
        .find(|key| key.ends_with("/chunk/1"))
        .expect("a chunk");
    let mut changed = vec![1; 512 << 10];
    changed[77] = 2;
    let record = TableWrite {
        key: chunk.clone(),
        value: Some(&changed),
    };
    let (_, deployments) = registry.follower().offsets();
    let before = registry.follower().offsets().0;
    write_table(&cluster, Topics::MODELS, &[record]).expect("written");
    eventually("the change is seen", || {
        (registry.follower().offsets().0 > before).then_some(())
    });
    assert_eq!(registry.follower().offsets().1, deployments);
    let error = registry.follower().fetch(&id("1")).expect_err("changed");
    assert!(
        matches!(error, Error::Corrupt { .. }) && error.to_string().contains("SHA-256"),
        "{error}"
    );
}

#[test]
fn a_follower_says_what_is_missing_and_goes_on_when_it_comes() {
    let broker = EmbeddedBroker::start().expect("the embedded broker");
    let cluster = broker.cluster().expect("a cluster");
    let follower = Follower::start(&cluster).expect("started");
    let refused = follower.wait_caught_up(PATIENCE).expect_err("no topics");
    assert!(matches!(refused, Error::Missing { .. }), "{refused}");
    assert!(!follower.caught_up() && !follower.missing().is_empty());
    broker.create(&TopicSpec::shared()).expect("topics");
    eventually("it catches up", || follower.caught_up().then_some(()));
    let changed = follower.changed();
    let registry = Registry::open(&cluster).expect("open");
    registry
        .push(&id("1"), &package(1), "a", 5)
        .expect("pushed");
    eventually("it sees the model", || {
        follower.view().models.get(&id("1")).cloned()
    });
    assert!(changed.has_changed().expect("it lives"));
    drop(broker);
    let why = eventually("it says that it cannot read", || follower.behind());
    assert!(why.contains("quadrille."), "{why}");
    assert_eq!(
        follower.view().models.len(),
        1,
        "what was known stays known"
    );
}

#[test]
fn the_last_report_of_a_replica_is_seen_until_it_is_withdrawn() {
    let (_broker, cluster) = broker();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let reporter = Reporter::connect(&cluster, "test").expect("a reporter");
    let mut replica = Replica {
        service: "inference".to_owned(),
        instance: "a:7003".to_owned(),
        at_ms: 5,
        models: Vec::new(),
        revisions: [("p".to_owned(), 1)].into(),
        models_offset: 0,
        deployments_offset: 0,
        ..Replica::default()
    };
    runtime
        .block_on(reporter.report(&replica))
        .expect("reported");
    replica.models.push(ReplicaModel {
        id: id("1"),
        state: ModelState::Failed {
            why: "no".to_owned(),
        },
    });
    runtime
        .block_on(reporter.report(&replica))
        .expect("reported");
    let replicas = Replicas::start(&cluster).expect("started");
    replicas.wait_caught_up(PATIENCE).expect("read");
    assert_eq!(*replicas.list(), [replica]);
    runtime
        .block_on(reporter.withdraw("inference", "a:7003"))
        .expect("withdrawn");
    eventually("it is gone", || replicas.list().is_empty().then_some(()));
}
