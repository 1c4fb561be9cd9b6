//! Which deployment is in effect: of a log that is read, of a replica that starts, and where one cannot take effect.

use std::time::Duration;

use inference::serving::Error;
use quadrille_registry::Role;

use crate::replica::*;

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
    let status = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((status.seen, status.serving), (Some(2), Some(1)));
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
    let status = replica.serving.pipeline_statuses()[0].clone();
    assert_eq!((status.seen, status.serving), (Some(4), Some(1)));
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
    let status = &replica.serving.pipeline_statuses()[0];
    assert_eq!((status.seen, status.serving), (Some(1), Some(0)));
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
