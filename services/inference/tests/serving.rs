//! Versions come into service and go, while others score.

mod common;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::*;
use inference::serving::{Error, Loaded, ModelState, source::Files};
use quadrille_registry::Role;

#[test]
fn a_local_model_serves_until_there_is_a_deployment() {
    let mut replica = Replica::new(Some(1));
    assert!(replica.serving.ready().is_err());
    replica.turn();
    replica.serving.ready().expect("ready");
    assert_eq!(replica.version("k"), 1);
    let choice = replica.serving.choose("ward", None, None).expect("served");
    assert_eq!(choice.variant, "local");
    drop(choice);

    replica.log.push(2);
    replica.turn();
    assert_eq!(replica.version("k"), 1, "pushed is not deployed");
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    let gone = replica.serving.model("m", Some("1")).unwrap_err();
    assert!(matches!(gone, Error::UnknownVersion { .. }), "{gone}");
    assert!(!replica.registry.encode().contains("version=\"1\""));
}

#[test]
fn without_anything_to_serve_a_replica_is_not_ready_and_says_why() {
    let mut replica = Replica::new(None);
    replica.log.behind(Some("the log was read to 3 of 9"));
    replica.turn();
    let why = replica.serving.ready().unwrap_err();
    assert_eq!(why, "the log was read to 3 of 9");
    replica.log.behind(None);
    replica.turn();
    let why = replica.serving.ready().unwrap_err();
    assert!(
        why.contains("ward") && why.contains("no deployment"),
        "{why}"
    );
    let refused = replica.serving.choose("ward", None, None).unwrap_err();
    assert!(matches!(refused, Error::NotReady { .. }));

    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    replica.serving.ready().expect("ready");
}

#[test]
fn a_log_that_cannot_be_read_any_more_takes_no_replica_out_and_answers_say_how_old_the_view_is() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    assert_eq!(replica.serving.stale(), None);
    replica.log.behind(Some("no answer from the log for 30 s"));
    replica.log.aged(Duration::from_secs(30));
    replica.turn();
    replica.serving.ready().expect("what serves goes on");
    assert_eq!(replica.version("k"), 1);
    assert_eq!(replica.serving.stale(), Some(Duration::from_secs(30)));
    let metrics = replica.registry.encode();
    assert!(
        metrics.contains("quadrille_view_age_seconds 30.0"),
        "{metrics}"
    );
    // One that has never read the log to its end is not ready, whatever it has.
    let mut started = Replica::new(Some(1));
    started.log.behind(Some("no answer from the log for 30 s"));
    started.turn();
    assert!(!started.serving.is_ready());
}

#[test]
fn a_version_that_is_rolled_back_while_it_is_loaded_does_not_go_live() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    replica.log.hold(2);
    replica.log.deploy(2, &[("stable", 2, LIVE)]);
    replica.step();
    replica.log.until_fetching(1);
    // Loaded, but rolled back before anybody has looked.
    replica.log.let_through(2);
    replica.log.until_fetching(0);
    replica.log.deploy(3, &[("stable", 1, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    let standing = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((standing.seen, standing.serving), (Some(3), Some(3)));
    let swaps = r#"quadrille_model_swaps_total{pipeline="ward"} 2"#;
    let metrics = replica.registry.encode();
    assert!(
        metrics.contains(swaps),
        "the first and the third: {metrics}"
    );
    assert_eq!(replica.serving.models().len(), 1, "it is not kept either");
}

#[test]
fn a_rollback_waits_for_nobody_elses_download() {
    let pipelines = vec![pipeline(), named_pipeline("clinic")];
    let mut replica = Replica::of(pipelines, vec![None, None]);
    for version in 1..=3 {
        replica.log.push(version);
    }
    replica.log.deploy_to("ward", 1, &[("stable", 1, LIVE)]);
    replica.log.deploy_to("clinic", 1, &[("stable", 1, LIVE)]);
    replica.turn();
    replica.log.deploy_to("ward", 2, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    replica.log.hold(3);
    replica.log.deploy_to("clinic", 2, &[("stable", 3, LIVE)]);
    replica.step();
    replica.log.until_fetching(1);
    replica.log.deploy_to("ward", 3, &[("stable", 1, LIVE)]);
    replica.step();
    assert_eq!(replica.version("k"), 1, "the ward is back");
    let clinic = replica.serving.pipeline_statuses()[1].clone();
    assert_eq!((clinic.seen, clinic.serving), (Some(2), Some(1)));
    replica.log.let_through(3);
    replica.turn();
    assert_eq!(replica.serving.pipeline_statuses()[1].serving, Some(2));
}

#[test]
fn versions_are_loaded_beside_each_other_and_no_more_than_some_at_once() {
    let mut replica = Replica::new(None);
    let mut routes = vec![("stable", 1, LIVE)];
    let names = ["a", "b", "c", "d", "e", "f"];
    routes.extend(
        names
            .into_iter()
            .zip(2..)
            .map(|(name, version)| (name, version, Role::Shadow)),
    );
    for (_, version, _) in &routes {
        replica.log.push(*version);
        replica.log.hold(*version);
    }
    replica.log.deploy(1, &routes);
    replica.step();
    replica.log.until_fetching(4);
    replica.step();
    let loading = |replica: &Replica| {
        let models = replica.serving.models();
        let loading = models.iter().filter(|it| it.state == ModelState::Loading);
        (models.len(), loading.count())
    };
    assert_eq!(loading(&replica), (7, 4));
    for (_, version, _) in &routes {
        replica.log.let_through(*version);
    }
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    assert_eq!(replica.log.until_fetching(0), 4, "the most at once");
}

#[test]
fn an_old_deployment_of_a_log_that_is_still_being_read_takes_no_effect() {
    let mut replica = Replica::new(Some(9));
    replica.log.behind(Some("reading"));
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    assert!(replica.serving.routes(0).is_none());
    assert_eq!(replica.serving.models().len(), 1, "the local one");
    replica.log.deploy(2, &[("stable", 2, LIVE)]);
    replica.log.behind(None);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert_eq!(replica.serving.models().len(), 1);
}

#[test]
fn where_a_deployment_is_removed_what_serves_goes_on_and_a_replica_that_starts_has_nothing() {
    let mut replica = Replica::new(Some(9));
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    replica.log.unset(2);
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    replica.serving.ready().expect("it serves");
    let standing = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((standing.seen, standing.serving), (Some(2), Some(1)));
    assert!(
        replica.why().contains("removed by test"),
        "{}",
        replica.why()
    );

    let mut started = Replica::new(Some(9));
    started.log.push(1);
    started.log.deploy(1, &[("stable", 1, LIVE)]);
    started.log.unset(2);
    started.turn();
    let why = started.serving.ready().unwrap_err();
    assert!(why.contains("removed by test"), "{why}");
    started.log.deploy(3, &[("stable", 1, LIVE)]);
    started.turn();
    assert_eq!(started.version("k"), 1);
}

/// The files of version `version` with these names for its classes.
fn called(version: u32, negative: &str, positive: &str) -> Files {
    let mut files = files(version);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&files.manifest).expect("a manifest");
    manifest["labels"] = serde_json::json!({"negative": negative, "positive": positive});
    files.manifest = manifest.to_string().into_bytes();
    files
}

/// The files of version `version` with the answers of another.
fn renamed(version: u32, other: u32) -> Files {
    let mut files = files(other);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&files.manifest).expect("a manifest");
    manifest["version"] = version.to_string().into();
    files.manifest = manifest.to_string().into_bytes();
    files
}

#[test]
fn a_version_that_is_deleted_and_pushed_with_other_content_is_loaded_anew() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    replica.log.unset(2);
    replica.turn();
    replica.log.drop_files(1);
    replica.turn();
    assert_eq!(replica.version("k"), 1, "what serves goes on");
    replica.log.push_files(1, renamed(1, 7));
    replica.log.away(1);
    replica.log.deploy(3, &[("stable", 1, LIVE)]);
    replica.turn();
    // The old one until the new one can be had, and the standing says so.
    assert_eq!(replica.version("k"), 1);
    let standing = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((standing.seen, standing.serving), (Some(3), Some(1)));
    assert!(
        replica.why().contains("does not answer"),
        "{}",
        replica.why()
    );
    replica.log.back(1);
    replica.now += Duration::from_secs(2);
    replica.turn();
    assert_eq!(replica.answers("k"), (1, vec![answer(7)]));
    assert_eq!(replica.serving.pipeline_statuses()[0].serving, Some(3));
    // Not again and again.
    let swaps = r#"quadrille_model_swaps_total{pipeline="ward"} 2"#;
    replica.turn();
    assert!(replica.registry.encode().contains(swaps));
}

#[test]
fn other_content_of_a_deployed_version_takes_effect_in_the_same_revision() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    replica.log.push_files(1, renamed(1, 7));
    replica.turn();
    assert_eq!(replica.answers("k"), (1, vec![answer(7)]));
}

#[test]
fn a_log_that_is_made_anew_takes_effect_although_its_revisions_begin_again() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    replica.log.made_anew();
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert_eq!(replica.why(), "");
}

#[test]
fn a_replica_that_starts_serves_what_is_deployed_or_nothing() {
    let mut replica = Replica::new(Some(1));
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    let why = replica.serving.ready().unwrap_err();
    assert!(
        why.starts_with("pipeline ward: revision 1: model m 2"),
        "{why}"
    );
    assert!(
        replica.serving.routes(0).is_none(),
        "not the local one either"
    );
}

#[test]
fn a_replica_that_starts_where_the_newest_deployment_fails_serves_the_one_before() {
    let mut replica = Replica::new(Some(1));
    replica.log.push(2);
    replica.log.push_files(3, files_with(3, &["a", "c"]));
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.log.deploy(2, &[("stable", 3, LIVE)]);
    replica
        .log
        .deploy(3, &[("stable", 2, LIVE), ("new", 4, canary(1_000))]);
    replica.log.deploy(4, &[("stable", 2, Role::Shadow)]);
    replica.turn();
    replica.serving.ready().expect("the first one serves");
    assert!((0..50).all(|key| replica.version(&key.to_string()) == 2));
    let standing = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((standing.seen, standing.serving), (Some(4), Some(1)));
    assert!(
        replica.why().starts_with("revision 4: "),
        "{}",
        replica.why()
    );
    let models = replica.serving.models();
    assert_eq!(
        models.len(),
        1,
        "what was tried and failed is forgotten: {models:?}"
    );
    replica.log.push(5);
    replica.log.deploy(5, &[("stable", 5, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 5);
    assert_eq!(replica.why(), "");
}

#[test]
fn a_replica_that_starts_waits_for_the_newest_deployment_where_it_may_still_be_had() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.away(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.log.deploy(2, &[("stable", 2, LIVE)]);
    replica.turn();
    replica.serving.ready().unwrap_err();
    replica.log.back(2);
    replica.now = replica.again_at;
    replica.turn();
    assert_eq!(replica.version("k"), 2);
}

#[test]
fn a_deployment_takes_effect_when_all_its_versions_are_ready() {
    let mut replica = Replica::new(Some(1));
    replica.turn();
    replica.log.push(2);
    replica.log.push(3);
    replica.log.away(3);
    replica
        .log
        .deploy(1, &[("stable", 2, LIVE), ("new", 3, canary(5_000))]);
    replica.turn();
    assert!((0..100).all(|key| replica.version(&key.to_string()) == 1));
    assert!(
        replica
            .why()
            .contains("m 3: fetch: the broker does not answer"),
        "{}",
        replica.why()
    );
    let standing = &replica.serving.pipeline_statuses()[0];
    assert_eq!((standing.seen, standing.serving), (Some(1), Some(0)));
    replica.serving.ready().expect("the old one serves");

    // By itself, after a while, without a change of the log.
    let again_at = replica.again_at;
    assert!(again_at > replica.now && again_at <= replica.now + Duration::from_secs(2));
    replica.log.back(3);
    replica.turn();
    assert_eq!(replica.version("k"), 1, "not before its time");
    replica.now = again_at;
    replica.turn();
    let versions: Vec<u32> = (0..100)
        .map(|key| replica.version(&key.to_string()))
        .collect();
    assert!(versions.contains(&2) && versions.contains(&3) && !versions.contains(&1));
    assert_eq!(replica.why(), "");
}

#[test]
fn fetches_that_go_on_failing_are_further_and_further_apart() {
    let mut replica = Replica::new(Some(1));
    replica.log.push(2);
    replica.log.away(2);
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    let mut waits = Vec::new();
    for _ in 0..12 {
        replica.turn();
        waits.push(replica.again_at - replica.now);
        // Reports come in between.
        replica.now = replica.again_at;
    }
    assert!(waits[0] <= Duration::from_secs(1));
    let failures = "quadrille_model_load_failures_total{step=\"fetch\"} ";
    let text = replica.registry.encode();
    let failed = text
        .lines()
        .find_map(|line| line.strip_prefix(failures))
        .expect("counted");
    assert!(
        failed.parse::<u32>().expect("a number") < 12,
        "{failed} of 12 looks were attempts"
    );
}

/// A name, what is done to version 2, and what is said of it.
type Broken = (&'static str, Box<dyn Fn(&Memory)>, &'static str);

fn broken() -> Vec<Broken> {
    vec![
        ("missing", Box::new(|_| {}), "there is no such version"),
        (
            "truncated",
            Box::new(|log| {
                log.push(2);
                let mut files = files(2);
                files.artefact.pop();
                log.corrupt(2, files);
            }),
            "verify: the artefact logistic.json has",
        ),
        (
            "changed",
            Box::new(|log| {
                log.push(2);
                let mut files = files(2);
                let last = files.artefact.len() - 2;
                files.artefact[last] ^= 1;
                log.corrupt(2, files);
            }),
            "verify: the artefact logistic.json has SHA-256",
        ),
        (
            "another package",
            Box::new(|log| log.push_files(2, files(7))),
            "verify: the package says that it is m 7",
        ),
        (
            "another content",
            Box::new(|log| {
                log.push(2);
                let mut files = files(2);
                files.manifest.push(b' ');
                log.corrupt(2, files);
            }),
            "verify: the package's SHA-256 is not the one that was pushed",
        ),
        (
            "no package",
            Box::new(|log| {
                let mut files = files(2);
                files.manifest = b"{}".to_vec();
                log.push_files(2, files);
            }),
            "load: manifest.json is not a manifest",
        ),
        (
            "other inputs",
            Box::new(|log| log.push_files(2, files_with(2, &["a", "c"]))),
            "check: pipeline ward: the model wants other inputs: missing c",
        ),
        (
            "classes the other way round",
            Box::new(|log| log.push_files(2, called(2, "alarm", "fine"))),
            "check: pipeline ward: the model has its classes (negative \"alarm\", positive \"fine\") the other way round",
        ),
    ]
}

#[test]
fn a_version_that_fails_any_step_leaves_the_old_deployment_serving_and_says_why() {
    for (what, wrong, why) in broken() {
        let mut replica = Replica::new(None);
        replica.log.push(1);
        replica.log.deploy(1, &[("stable", 1, LIVE)]);
        replica.turn();
        wrong(&replica.log);
        replica
            .log
            .deploy(2, &[("stable", 1, LIVE), ("new", 2, canary(5_000))]);
        replica.turn();
        assert!(
            (0..50).all(|key| replica.version(&key.to_string()) == 1),
            "{what}"
        );
        assert!(replica.why().contains(why), "{what}: {}", replica.why());
        let state = |replica: &Replica| {
            let models = replica.serving.models();
            let status = models.into_iter().find(|status| status.id == id(2));
            status.expect("wanted").state
        };
        let failed = state(&replica);
        assert!(
            matches!(&failed, ModelState::Failed { why: told } if told.contains(why)),
            "{what}: {failed:?}"
        );
        let line = r#"quadrille_model_state{model="m",version="2",state="failed"} 1"#;
        assert!(replica.registry.encode().contains(line), "{what}");
        let told = replica.log.reports().pop().expect("told");
        assert_eq!(told.pipelines[0].serving, Some(1), "{what}");

        // Mended by a push: the log changed.
        replica.log.push(2);
        replica.turn();
        assert_eq!(state(&replica), ModelState::Ready, "{what}");
        assert!(
            (0..50).any(|key| replica.version(&key.to_string()) == 2),
            "{what}"
        );
    }
}

#[test]
fn a_deployment_that_contradicts_itself_is_refused_and_loads_nothing() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    let contradictions: [&[(&str, u32, Role)]; 4] = [
        &[("a", 2, LIVE), ("a", 2, canary(1))],
        &[("a", 2, LIVE), ("b", 2, canary(10_001))],
        &[("a", 2, Role::Shadow)],
        &[],
    ];
    for (revision, routes) in (2..).zip(contradictions) {
        replica.log.deploy(revision, routes);
        replica.turn();
        assert_eq!(replica.version("k"), 1);
        let why = replica.why();
        assert!(why.starts_with(&format!("revision {revision}: ")), "{why}");
        assert_eq!(replica.serving.models().len(), 1, "{why}");
    }
    replica.serving.ready().expect("the old one serves");
    replica.log.deploy(6, &[("a", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
}

#[test]
fn one_pipelines_trouble_is_not_the_others() {
    let pipelines = vec![pipeline(), named_pipeline("clinic")];
    let mut replica = Replica::of(pipelines, vec![None, None]);
    replica.log.push(1);
    replica.log.deploy_to("ward", 1, &[("stable", 1, LIVE)]);
    replica.log.deploy_to("clinic", 1, &[("stable", 2, LIVE)]);
    replica.log.deploy_to("unknown", 1, &[("stable", 1, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 1);
    let why = replica.serving.ready().unwrap_err();
    assert!(
        why.starts_with("pipeline clinic: revision 1: model m 2"),
        "{why}"
    );
    replica.log.push(2);
    replica.turn();
    replica.serving.ready().expect("ready");
    let hash = |pipeline| {
        replica
            .serving
            .choose(pipeline, None, None)
            .expect("served")
            .config_hash
    };
    assert_ne!(hash("ward"), hash("clinic"));
}

#[test]
fn models_are_found_by_name_and_version_and_what_is_not_there_is_told_with_what_is() {
    let mut replica = Replica::new(None);
    for version in [9, 10] {
        replica.log.push(version);
    }
    let routes = [
        ("stable", 9, LIVE),
        ("new", 10, canary(1)),
        ("idle", 9, Role::Live { weight: 0 }),
    ];
    replica.log.deploy(1, &routes);
    replica.turn();
    let version = |asked| {
        replica
            .serving
            .model("m", asked)
            .map(|it| it.id().version.clone())
    };
    assert_eq!(version(None).as_deref(), Ok("9"));
    assert_eq!(version(Some("9")).as_deref(), Ok("9"));
    assert_eq!(version(Some("10")).as_deref(), Ok("10"));
    let error = version(Some("11")).unwrap_err().to_string();
    assert!(
        error.contains("available: 10, 9") || error.contains("available: 9, 10"),
        "{error}"
    );
    let error = replica.serving.model("n", None).unwrap_err().to_string();
    assert_eq!(error, "no model \"n\" is served; available: m");
    let choose = |pipeline, variant| replica.serving.choose(pipeline, Some("k"), variant);
    assert_eq!(choose("ward", Some("idle")).expect("named").variant, "idle");
    let error = choose("ward", Some("old")).unwrap_err().to_string();
    assert!(error.ends_with("available: stable, new, idle"), "{error}");
    let error = choose("clinic", None).unwrap_err().to_string();
    assert!(error.ends_with("available: ward"), "{error}");
}

#[test]
fn a_model_without_a_version_is_the_one_that_a_live_route_in_effect_leads_to() {
    let mut replica = Replica::new(None);
    for version in 1..=5 {
        replica.log.push(version);
    }
    let version = |replica: &Replica| {
        let loaded = replica.serving.model("m", None).expect("served");
        loaded.id().version.clone()
    };
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(version(&replica), "2");
    // Of several live routes the highest version; what is tried beside them is not asked.
    let beside = [
        ("stable", 2, LIVE),
        ("other", 1, LIVE),
        ("new", 3, canary(10_000)),
        ("idle", 4, Role::Live { weight: 0 }),
        ("dark", 5, Role::Shadow),
    ];
    replica.log.deploy(2, &beside);
    replica.turn();
    assert_eq!(version(&replica), "2");
    // Loaded, but its deployment waits for another version.
    replica
        .log
        .deploy(3, &[("stable", 5, LIVE), ("lost", 9, canary(1))]);
    replica.turn();
    assert_eq!(replica.serving.pipeline_statuses()[0].serving, Some(2));
    assert_eq!(version(&replica), "2");
    // Pushed again with other content that is not to be had: the one that was deployed goes on.
    replica
        .log
        .deploy(4, &[("stable", 2, LIVE), ("dark", 5, Role::Shadow)]);
    replica.turn();
    replica.log.away(2);
    replica.log.push_files(2, renamed(2, 7));
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert_eq!(version(&replica), "2");
}

#[test]
fn swaps_under_load_fail_nothing_mix_nothing_and_leave_nothing_behind() {
    const SWAPS: u64 = 1_000;
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    let (over, scored) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (serving, over, scored) = (
                replica.serving.clone(),
                Arc::clone(&over),
                Arc::clone(&scored),
            );
            std::thread::spawn(move || {
                let mut outputs = Vec::new();
                while !over.load(Ordering::Acquire) {
                    let routes = serving.routes(0).expect("served");
                    // Both routes are of one revision: version 2r - 1 and 2r, but for the first.
                    let versions = routes.variants.iter().map(|variant| {
                        outputs.clear();
                        variant
                            .loaded
                            .score_waiting(&[0.5, 0.5, 1.0, 1.0], &mut outputs);
                        let version: u32 = variant.loaded.id().version.parse().expect("a number");
                        assert_eq!(outputs, [answer(version); 2]);
                        u64::from(version)
                    });
                    let versions: Vec<u64> = versions.collect();
                    if routes.revision > 1 {
                        assert_eq!(versions, [routes.revision * 2 - 1, routes.revision * 2]);
                    }
                    scored.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut old: Vec<Weak<Loaded>> = Vec::new();
    let mut resident = Vec::new();
    for revision in 2..SWAPS + 2 {
        let versions = [revision as u32 * 2 - 1, revision as u32 * 2];
        let routes = replica.serving.routes(0).expect("served");
        old.extend(routes.variants.iter().map(|it| Arc::downgrade(&it.loaded)));
        drop(routes);
        for version in versions {
            replica.log.push(version);
        }
        replica.log.deploy(
            revision,
            &[
                ("stable", versions[0], LIVE),
                ("new", versions[1], canary(500)),
            ],
        );
        replica.turn();
        assert_eq!(
            replica.serving.routes(0).expect("served").revision,
            revision
        );
        for version in versions {
            replica.log.drop_files(version);
        }
        if revision % 100 == 0 {
            resident.push(resident_kib());
        }
    }
    over.store(true, Ordering::Release);
    for reader in readers {
        reader.join().expect("nothing failed");
    }
    replica.turn();
    assert!(scored.load(Ordering::Relaxed) > 0);
    let alive = old
        .iter()
        .filter(|loaded| loaded.strong_count() > 0)
        .count();
    assert_eq!((alive, replica.serving.models().len()), (0, 2));
    let series = replica
        .registry
        .encode()
        .lines()
        .filter(|line| line.contains("version="))
        .count();
    // Two versions: a state, a count, and the buckets of three stages.
    // Of one version, not of a thousand: its own times are some sixty.
    assert!(series < 250, "{series} series");
    // Loosely: the allocator keeps what it likes, and a model is small here.
    if let (Some(Some(first)), Some(Some(last))) = (resident.get(1), resident.last()) {
        assert!(*last < first + 16 * 1024, "{resident:?} KiB");
    }
}

/// None where the system does not say.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_version_in_use_is_dropped_when_its_batch_is_done_and_by_the_loader() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    let batch = replica.serving.routes(0).expect("served");
    let old = Arc::downgrade(&batch.variants[0].loaded);
    replica.log.deploy(2, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert!(
        replica.again_at <= replica.now + Duration::from_millis(20),
        "it waits for the batch"
    );
    drop(batch);
    assert!(old.strong_count() == 1, "a lane does not free a model");
    replica.turn();
    assert!(old.upgrade().is_none());
    assert!(replica.again_at > replica.now + Duration::from_secs(1));
}

#[tokio::test]
async fn a_running_loader_follows_the_log_by_itself() {
    let replica = Replica::new(Some(1));
    let (log, serving) = (replica.log, replica.serving);
    let loader = replica.loader.spawn().expect("a thread");
    let mut versions = Vec::new();
    for revision in 1..=3 {
        log.push(revision as u32 + 1);
        log.deploy(revision, &[("stable", revision as u32 + 1, LIVE)]);
        let served = async {
            while serving
                .routes(0)
                .is_none_or(|routes| routes.revision != revision)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), served)
            .await
            .expect("in time");
        versions.push(
            serving
                .model("m", None)
                .expect("ready")
                .id()
                .version
                .clone(),
        );
    }
    assert_eq!(versions, ["2", "3", "4"]);
    assert!(!log.reports().is_empty());
    loader.stop().await;
    assert_eq!(log.reports(), [], "others are told that it has gone");
}

#[tokio::test]
async fn a_queued_model_answers_stream_and_requests_alike_and_goes_when_it_is_replaced() {
    let mut replica = Replica::queueing(&["m"], vec![pipeline()], vec![Some(package(1))]);
    replica.turn();
    let choice = replica
        .serving
        .choose("ward", Some("k"), None)
        .expect("served");
    let answered = choice.loaded.score(vec![1.0, 2.0, 3.0, 4.0], None).await;
    assert_eq!(answered, Ok(vec![answer(1); 2]));
    let loaded = Arc::clone(&choice.loaded);
    let lane = std::thread::spawn(move || {
        let mut outputs = Vec::new();
        loaded.score_waiting(&[0.0; 1_000], &mut outputs);
        outputs
    });
    assert_eq!(lane.join().expect("scored"), [answer(1); 500]);
    let batches = r#"quadrille_model_batch_rows_count{model="m",version="1"}"#;
    assert!(replica.registry.encode().contains(batches));
    drop(choice);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert!(!replica.registry.encode().contains("version=\"1\""));
}
