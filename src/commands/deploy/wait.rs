//! `--wait`: until every replica that runs the pipeline has the revision, and its models ready.

use std::time::{Duration, Instant};

use quadrille_choreography::Cluster;
use quadrille_registry::{Deployment, ModelState, Registry, Replica, Replicas};
use quadrille_service::Error;

use super::show::of_pipeline;
use crate::{
    output::{self, Output},
    preview, registry, time,
};

/// How often the replicas' reports are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the reports say of a deployment.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Ready(usize),
    /// Not yet, in words.
    Waiting(String),
    /// It will not become ready by waiting, in words.
    Failed(String),
}

pub fn judge(deployment: &Deployment, replicas: &[Replica]) -> Verdict {
    let (mut count, mut waiting, mut failed) = (0, Vec::new(), Vec::new());
    for (replica, revision) in of_pipeline(&deployment.pipeline, replicas) {
        count += 1;
        let name = preview::cell(&replica.instance);
        if revision < deployment.revision {
            waiting.push(format!("{name} is at revision {revision}"));
            continue;
        }
        for route in &deployment.routes {
            match replica.state(&route.model) {
                Some(ModelState::Ready) => {}
                Some(ModelState::Failed { why }) => {
                    failed.push(format!("{name}: {}: {why}", route.model));
                }
                Some(state) => waiting.push(format!("{name}: {} is {}", route.model, state.name())),
                None => waiting.push(format!("{name} does not know {} yet", route.model)),
            }
        }
    }
    match (count, failed.is_empty(), waiting.is_empty()) {
        (_, false, _) => Verdict::Failed(failed.join("; ")),
        (0, ..) => Verdict::Waiting(format!(
            "no replica that runs {} reports",
            deployment.pipeline
        )),
        (_, _, false) => Verdict::Waiting(waiting.join("; ")),
        _ => Verdict::Ready(count),
    }
}

/// Blocks until the deployment is ready everywhere; says what it waits for whenever that changes.
pub fn until_ready(
    cluster: &Cluster,
    registry: &Registry,
    deployment: &Deployment,
    within: Duration,
    output: Output,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    let replicas = Replicas::start(cluster).map_err(registry::refused)?;
    replicas.wait_caught_up(within).map_err(registry::refused)?;
    let mut said = String::new();
    loop {
        let now = time::now_ms();
        let list = replicas.list();
        let alive: Vec<Replica> = list.iter().filter(|r| !r.is_silent(now)).cloned().collect();
        let waits = match judge(deployment, &alive) {
            Verdict::Ready(count) => {
                let replicas = output::counted(count, "replica");
                let line = format!("ready on {replicas}");
                match output {
                    Output::Text => output::print(line).map(drop)?,
                    // The answer is the deployment.
                    Output::Json => output::note(line),
                }
                return Ok(());
            }
            Verdict::Failed(why) => {
                return Err(Error::Failed(format!(
                    "revision {} does not become ready: {why}; what served before goes on there; \
                     `quadrille deploy rollback {}` restores it everywhere",
                    deployment.revision, deployment.pipeline
                )));
            }
            // Old reports say nothing of the replicas.
            Verdict::Waiting(_) if !registry.follower().caught_up() => {
                "Kafka does not answer; waiting for it".to_owned()
            }
            Verdict::Waiting(waits) => waits,
        };
        let view = registry.view();
        let current = view.current(&deployment.pipeline);
        if let Some(newer) = current.filter(|current| current.revision > deployment.revision) {
            return Err(Error::Failed(format!(
                "revision {} by {} has taken its place before it was ready everywhere",
                newer.revision, newer.by
            )));
        }
        if waits != said {
            output::note(&waits);
            said = waits;
        }
        if Instant::now() > deadline {
            return Err(Error::Failed(format!(
                "not ready everywhere within {} s: {said}; the deployment stands, `quadrille deploy show {}` looks again",
                within.as_secs(),
                deployment.pipeline
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use quadrille_registry::ReplicaModel;

    use super::*;
    use crate::registry::deployment;

    fn replica(instance: &str, revision: Option<u64>, state: Option<ModelState>) -> Replica {
        let id = registry::model_id("m:1").unwrap();
        Replica {
            service: "inference".to_owned(),
            instance: instance.to_owned(),
            at_ms: 0,
            models: state
                .into_iter()
                .map(|state| ReplicaModel {
                    id: id.clone(),
                    state,
                })
                .collect(),
            revisions: revision
                .map(|revision| ("p".to_owned(), revision))
                .into_iter()
                .collect(),
            models_offset: 0,
            deployments_offset: 0,
            ..Replica::default()
        }
    }

    #[test]
    fn it_waits_for_every_replica_that_runs_the_pipeline_and_no_other() {
        let ready = || replica("a", Some(2), Some(ModelState::Ready));
        let elsewhere = replica("x", None, None);
        let verdict = |others: &[Replica]| judge(&deployment(), others);
        assert_eq!(verdict(&[ready(), elsewhere.clone()]), Verdict::Ready(1));
        assert!(matches!(verdict(&[elsewhere]), Verdict::Waiting(_)));
        let old = replica("b", Some(1), Some(ModelState::Ready));
        assert_eq!(
            verdict(&[ready(), old]),
            Verdict::Waiting("b is at revision 1".to_owned())
        );
        let loading = replica("b", Some(3), Some(ModelState::Loading));
        assert_eq!(
            verdict(&[ready(), loading]),
            Verdict::Waiting("b: m:1 is loading".to_owned())
        );
        assert!(matches!(
            verdict(&[replica("b", Some(2), None)]),
            Verdict::Waiting(_)
        ));
    }

    #[test]
    fn a_failure_with_this_revision_ends_the_wait_with_the_reason() {
        let failed = |revision| {
            let why = "SHA-256".to_owned();
            replica("b", Some(revision), Some(ModelState::Failed { why }))
        };
        let verdict = judge(&deployment(), &[failed(2)]);
        assert_eq!(verdict, Verdict::Failed("b: m:1: SHA-256".to_owned()));
        // Of an older revision it may be another deployment's.
        assert!(matches!(
            judge(&deployment(), &[failed(1)]),
            Verdict::Waiting(_)
        ));
    }
}
