//! What an operator does with models and deployments from the command line, on a real Kafka.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use quadrille_proto::{Service, Topics};
use quadrille_registry::{ModelState, Registry, Replica, ReplicaModel, Reporter};
use rdkafka::admin::AdminOptions;
use tempfile::TempDir;

use crate::harness::{
    PATIENCE, broker,
    cli::{Cli, written},
    eventually, eventually_or_show,
    world::World,
};
use crate::registry::{admin, id, keys, package};

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
    assert!(
        gone.contains(&format!("{name}:1 is not on the log")),
        "{gone}"
    );
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
}

#[test]
fn a_misspelt_pipeline_is_refused_and_a_forced_one_can_be_removed_again() {
    let world = World::new(1);
    let cli = Cli(world.bootstrap.clone());
    let (typo, name) = (
        format!("{}-no", world.pipeline),
        format!("{}-m", world.pipeline),
    );
    let registry = Registry::open(&world.cluster()).expect("open");
    let pushed = registry.push(&id(&name, "1"), &package(1), "a", 1);
    pushed.expect("pushed");
    let live = format!("{name}:1");
    let set = ["deploy", "set", &typo, "--live", &live];
    let refused = cli.bad(64, &set);
    assert!(refused.contains("check the name"), "{refused}");
    let none = cli.bad(64, &["deploy", "unset", &typo]);
    assert!(none.contains("no deployment yet"), "{none}");

    let forced = cli.good(&[&set[..], &["--force"]].concat());
    assert!(forced.contains("revision 1"), "{forced}");
    let used = cli.bad(64, &["model", "delete", &name, "1"]);
    assert!(used.contains("deploy unset"), "{used}");
    let removed = cli.good(&[
        "deploy", "unset", &typo, "--by", "bea", "--reason", "a slip",
    ]);
    assert!(removed.contains("revision 2: no routes"), "{removed}");
    let history = cli.good(&["deploy", "history", &typo]);
    for word in ["unset", "bea", "a slip"] {
        assert!(history.contains(word), "{word}: {history}");
    }
    let shown = cli.good(&["deploy", "show", &typo]);
    assert!(shown.contains("revision 2, unset by bea"), "{shown}");
    assert!(!cli.good(&["deploy", "show"]).contains(&typo));
    let again = cli.bad(64, &["deploy", "unset", &typo]);
    assert!(again.contains("no deployment"), "{again}");
    // It may be restored while its model is there.
    let back = cli.good(&["deploy", "rollback", &typo]);
    assert!(back.contains(&format!("revision 3: live={live}")), "{back}");
    cli.good(&["deploy", "unset", &typo]);
    cli.good(&["model", "delete", &name, "1"]);
    assert!(keys(&world.cluster(), &format!("{name}/1/")).is_empty());
}

#[test]
fn rollbacks_in_a_row_go_back_through_what_served_and_not_forward_again() {
    let world = World::new(1);
    let (pipeline, cli) = (&world.pipeline, Cli(world.bootstrap.clone()));
    let name = format!("{pipeline}-m");
    let registry = Registry::open(&world.cluster()).expect("open");
    for version in 1..=3 {
        let pushed = registry.push(&id(&name, &version.to_string()), &package(version), "a", 1);
        pushed.expect("pushed");
        let live = format!("{name}:{version}");
        cli.good(&["deploy", "set", pipeline, "--live", &live]);
    }
    for version in [2, 1] {
        let told = cli.good(&["deploy", "rollback", pipeline]);
        assert!(told.contains(&format!("live={name}:{version}")), "{told}");
    }
    let last = cli.bad(64, &["deploy", "rollback", pipeline]);
    assert!(last.contains("has no earlier deployment"), "{last}");
    let chosen = cli.good(&["deploy", "rollback", pipeline, "--to", "3"]);
    assert!(chosen.contains(&format!("live={name}:3")), "{chosen}");
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
            ..Replica::default()
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

/// An installation from before these topics.
#[test]
fn topics_that_are_missing_are_named_with_what_makes_them() {
    let broker = broker::options().start().expect("Apache Kafka starts");
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
    let broker = broker::options().start().expect("Apache Kafka starts");
    let world = World::on(broker.bootstrap_servers(), 1);
    let topics = [Topics::MODELS, Topics::DEPLOYMENTS, Topics::STATUS];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gone = admin(&world.bootstrap);
    let gone = runtime.block_on(gone.delete_topics(&topics, &AdminOptions::new()));
    assert!(gone.expect("an answer").iter().all(Result::is_ok));
    world.start(Service::Inference, "a").ready();
}
