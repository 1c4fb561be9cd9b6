//! Versions on their way into service: beside each other, again, and where they fail.

use std::time::Duration;

use inference::serving::{ModelState, source::Files};
use quadrille_registry::Role;

use crate::replica::*;

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

/// The files of version `version` with these names for its classes.
fn called(version: u32, negative: &str, positive: &str) -> Files {
    let mut files = files(version);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&files.manifest).expect("a manifest");
    manifest["labels"] = serde_json::json!({"negative": negative, "positive": positive});
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
