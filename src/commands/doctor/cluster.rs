//! What a Kafka says of a pipeline: its topics and their limits, its groups, its models. One question after the other.

use std::{cell::OnceCell, ops::ControlFlow, sync::Arc, time::Duration};

use quadrille_choreography::{Admin, Cluster, GroupProgress, TopicIdentity, TopicSpec, admin};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{STAGES, Service, StageSpec, Topics};
use quadrille_registry::{Action, Deployment, Replica, View};
use quadrille_service::Error;

use super::Check;
use crate::{
    commands::{
        deploy::wait::{Verdict, judge},
        topics::{check::changed, survey::survey},
    },
    output, preview, registry,
};

const OF: &str = "kafka";
/// The first answer: Kafka's client is asked for 10 s, then says why there was none (a password, a certificate).
pub const FIRST_WITHIN: Duration = Duration::from_secs(12);
/// Any other one: the log of models may take 10 s and 60 s, the replicas' reports 20 s.
const NEXT_WITHIN: Duration = Duration::from_secs(100);
/// How the id of every embedded broker's cluster begins.
const EMBEDDED: &str = "mockCluster";

/// What is asked, and then what was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Asks { of: String, within: Duration },
    Found(Check),
}

/// Takes steps as they come; `Break` when there is nobody to take more.
pub type Tell<'a> = &'a dyn Fn(Step) -> ControlFlow<()>;

/// Asks one question after the other; what follows from an answer that did not come is left out.
pub fn look(cluster: &Cluster, pipelines: &[Pipeline], tell: Tell<'_>) -> ControlFlow<()> {
    let admin = match Admin::connect(cluster) {
        Ok(admin) => admin,
        Err(error) => return tell(Step::Found(Check::failed(OF, error))),
    };
    ask(tell, OF, FIRST_WITHIN)?;
    if let Err(error) = admin.partitions(Topics::SCHEMAS) {
        return tell(Step::Found(unreached(cluster, &error)));
    }
    ask(tell, OF, NEXT_WITHIN)?;
    let (reached, goes_on) = reached(cluster, admin.identity(Topics::SCHEMAS));
    tell(Step::Found(reached))?;
    if !goes_on {
        return ControlFlow::Continue(());
    }
    let models = Models::default();
    let next = |of: &str| ask(tell, of, NEXT_WITHIN);
    for pipeline in pipelines {
        let name = pipeline.name();
        let of = format!("{name} topics");
        next(&of)?;
        let mut topics = topics(of, &admin, pipeline).into_iter();
        topics.try_for_each(|check| tell(Step::Found(check)))?;
        for stage in &STAGES {
            let of = format!("{name} {}", stage.label());
            next(&of)?;
            let mut group = group(of, &admin, stage, name).into_iter();
            group.try_for_each(|check| tell(Step::Found(check)))?;
        }
        let of = format!("{name} model");
        next(&of)?;
        tell(Step::Found(models.check(of, cluster, name)))?;
    }
    ControlFlow::Continue(())
}

fn ask(tell: Tell<'_>, of: &str, within: Duration) -> ControlFlow<()> {
    let of = of.to_owned();
    tell(Step::Asks { of, within })
}

fn unreached(cluster: &Cluster, error: &admin::Error) -> Check {
    let here = ["127.0.0.1", "localhost", "[::1]"];
    let hint = match here
        .iter()
        .any(|it| cluster.bootstrap_servers().contains(it))
    {
        true => {
            "; `quadrille up` has a broker of its own, on the address in the line that begins with `kafka`"
        }
        false => "",
    };
    Check::failed(OF, format!("{error}{hint}"))
}

/// Which cluster answers, and whether there is more to be asked of it.
fn reached(cluster: &Cluster, identity: Result<TopicIdentity, admin::Error>) -> (Check, bool) {
    let servers = cluster.bootstrap_servers();
    match identity {
        Ok(identity) if identity.cluster_id.starts_with(EMBEDDED) => {
            let found = format!(
                "{servers} is the embedded broker of `quadrille up`; topics and groups are not looked at"
            );
            (Check::warning(OF, found), false)
        }
        Ok(identity) => {
            let found = format!("{servers} answers, cluster {}", identity.cluster_id);
            (Check::ok(OF, found), true)
        }
        Err(error) => (Check::failed(OF, error), false),
    }
}

/// Whether topics are there, agree, hold dead letters, and are the ones the pipeline was made with.
fn topics(of: String, admin: &Admin, pipeline: &Pipeline) -> Vec<Check> {
    let name = pipeline.name();
    let survey = match survey(
        admin,
        TopicSpec::of_pipeline(name, pipeline.keeps_state().into(), 1, 0),
    ) {
        Ok(survey) => survey,
        Err(error) => return vec![Check::failed(of, error)],
    };
    let mut faults = survey.faults(name);
    if !faults.iter().any(admin::Error::is_missing) {
        match changed(admin, pipeline) {
            Ok(fault) => faults.extend(fault),
            Err(error) => faults.push(error),
        }
    }
    if faults.is_empty() {
        let partitions = survey.partitions(&Topics::of(name).inbox).unwrap_or(0);
        let partitions = output::counted(partitions.unsigned_abs() as usize, "partition");
        return vec![Check::ok(of, format!("all there, {partitions} each"))];
    }
    let failed = |fault: admin::Error| Check::failed(of.clone(), fault);
    faults.into_iter().map(failed).collect()
}

fn group(of: String, admin: &Admin, stage: &StageSpec, pipeline: &str) -> Option<Check> {
    match admin.progress(&stage.group(pipeline), &stage.input(pipeline)) {
        Ok(progress) => Some(consumers(of, stage.service, &progress)),
        // Said of the topics already.
        Err(admin::Error::Missing { .. }) => None,
        Err(error) => Some(Check::failed(of, error)),
    }
}

fn consumers(of: String, service: Service, progress: &GroupProgress) -> Check {
    let (lanes, lag) = (progress.members.len(), progress.lag());
    if lanes == 0 {
        let name = service.name();
        return Check::warning(
            of,
            format!("does not run, lag {lag}; start it: `{name}`, or `quadrille up` for all"),
        );
    }
    let found = format!(
        "{} with {}, lag {lag}",
        output::counted(progress.replicas(), "replica"),
        output::counted(lanes, "lane"),
    );
    Check::ok(of, found)
}

/// What is on the log of models, and what replicas have made of it.
struct Log {
    view: Arc<View>,
    replicas: Vec<Replica>,
}

/// Read once for all pipelines.
#[derive(Default)]
struct Models(OnceCell<Result<Log, String>>);

impl Models {
    fn check(&self, of: String, cluster: &Cluster, pipeline: &str) -> Check {
        let read = || -> Result<Log, Error> {
            Ok(Log {
                view: registry::open(cluster)?.view(),
                replicas: registry::replicas(cluster)?,
            })
        };
        let log = self
            .0
            .get_or_init(|| read().map_err(|error| error.to_string()));
        match log {
            Ok(log) => deployed(of, log, pipeline),
            Err(error) => Check::failed(of, error),
        }
    }
}

fn deployed(of: String, log: &Log, pipeline: &str) -> Check {
    let current = log.view.current(pipeline);
    match current.filter(|current| current.action != Action::Unset) {
        Some(deployment) => serves(of, log, deployment),
        None => Check::warning(
            of,
            format!(
                "nothing is deployed, inference serves the package of QUADRILLE_MODEL or none; `quadrille model push DIR`, then `quadrille deploy set {pipeline} --live NAME:VERSION`"
            ),
        ),
    }
}

/// Whether what is deployed is there, and ready on every replica.
fn serves(of: String, log: &Log, deployment: &Deployment) -> Check {
    let (revision, routes) = (deployment.revision, registry::routes(deployment));
    let deployed = format!("revision {revision}: {routes}");
    let models = deployment.routes.iter().map(|route| &route.model);
    let gone = models.filter(|id| !log.view.models.contains_key(id));
    let gone: Vec<String> = gone.map(ToString::to_string).collect();
    if !gone.is_empty() {
        let (gone, pipeline) = (gone.join(", "), &deployment.pipeline);
        return Check::failed(
            of,
            format!(
                "{deployed}; not on the log: {gone}; `quadrille model push` it, or `quadrille deploy set {pipeline}` another version"
            ),
        );
    }
    ready(of, &deployed, deployment, &log.replicas)
}

fn ready(of: String, deployed: &str, deployment: &Deployment, replicas: &[Replica]) -> Check {
    let shown = |why: &str| preview::text(why, preview::MESSAGE_CHARS_MAX);
    match judge(deployment, replicas) {
        Verdict::Ready(count) => {
            let replicas = output::counted(count, "replica");
            Check::ok(of, format!("{deployed}, ready on {replicas}"))
        }
        Verdict::Waiting(why) => Check::warning(of, format!("{deployed}; {}", shown(&why))),
        Verdict::Failed(why) => Check::failed(
            of,
            format!(
                "{deployed}; {}; mend it, or `quadrille deploy rollback {}`",
                shown(&why),
                deployment.pipeline
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use quadrille_choreography::{EmbeddedBroker, PartitionProgress};
    use quadrille_registry::{ModelState, ReplicaModel};

    use super::{super::Status, *};
    use crate::registry::deployment;

    fn log(view: View, replicas: Vec<Replica>) -> Log {
        Log {
            view: Arc::new(view),
            replicas,
        }
    }

    #[test]
    fn a_service_that_does_not_run_is_a_warning_with_what_to_start() {
        let partition = PartitionProgress {
            partition: 0,
            committed: Some(3),
            begin: 0,
            end: 10,
        };
        let mut progress = GroupProgress {
            members: Vec::new(),
            partitions: vec![partition],
        };
        let check = consumers("p feature".to_owned(), Service::Feature, &progress);
        assert_eq!(check.status, Status::Warning);
        assert!(
            check.found.contains("lag 7; start it: `feature`"),
            "{check:?}"
        );
        progress.members = vec!["g-a-0".to_owned(), "g-a-1".to_owned()];
        let check = consumers("p feature".to_owned(), Service::Feature, &progress);
        assert_eq!(
            check,
            Check::ok("p feature", "1 replica with 2 lanes, lag 7")
        );
    }

    #[test]
    fn a_pipeline_without_a_deployment_is_a_warning() {
        let check = deployed("p model".to_owned(), &log(View::default(), Vec::new()), "p");
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.contains("deploy set p"), "{check:?}");
    }

    #[test]
    fn a_route_to_a_version_that_is_not_on_the_log_is_a_failure() {
        let log = log(View::default(), Vec::new());
        let check = serves("p model".to_owned(), &log, &deployment());
        assert_eq!(check.status, Status::Failed);
        assert!(check.found.contains("not on the log: m:1"), "{check:?}");
    }

    #[test]
    fn a_version_is_served_when_every_replica_is_ready_with_it() {
        let replica = |state: ModelState| Replica {
            service: "inference".to_owned(),
            instance: "a".to_owned(),
            at_ms: 0,
            models: vec![ReplicaModel {
                id: registry::model_id("m:1").unwrap(),
                state,
            }],
            revisions: [("p".to_owned(), 2)].into(),
            models_offset: 0,
            deployments_offset: 0,
            ..Replica::default()
        };
        let why = "wrong shape".to_owned();
        for (replicas, status, found) in [
            (vec![], Status::Warning, "no replica"),
            (
                vec![replica(ModelState::Loading)],
                Status::Warning,
                "loading",
            ),
            (
                vec![replica(ModelState::Ready)],
                Status::Ok,
                "ready on 1 replica",
            ),
            (
                vec![replica(ModelState::Failed { why })],
                Status::Failed,
                "wrong shape; mend it, or `quadrille deploy rollback p`",
            ),
        ] {
            let check = ready("p model".to_owned(), "revision 2", &deployment(), &replicas);
            assert_eq!(check.status, status, "{check:?}");
            assert!(check.found.contains(found), "{check:?}");
        }
    }

    /// Everything asked, and what was found.
    fn steps(cluster: &Cluster, pipelines: &[Pipeline]) -> Vec<Step> {
        let steps = RefCell::new(Vec::new());
        let tell = |step| {
            steps.borrow_mut().push(step);
            ControlFlow::Continue(())
        };
        assert!(look(cluster, pipelines, &tell).is_continue());
        steps.into_inner()
    }

    #[test]
    fn beside_the_embedded_broker_there_is_one_warning_and_no_more() {
        let broker = EmbeddedBroker::start().unwrap();
        let cluster = Cluster::new(broker.bootstrap_servers(), "").unwrap();
        let steps = steps(&cluster, &[]);
        let found: Vec<&Check> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Found(check) => Some(check),
                Step::Asks { .. } => None,
            })
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].status, Status::Warning);
        assert!(found[0].found.contains("quadrille up"), "{found:?}");
    }
}
