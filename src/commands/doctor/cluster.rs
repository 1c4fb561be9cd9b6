//! What a Kafka says of a pipeline: its topics and their limits, its groups, its models. One question after the other.

use std::iter;

use quadrille_choreography::{Admin, AdminError, Cluster, GroupProgress, TopicSpec};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Service, Topics};
use quadrille_registry::{Action, View};
use quadrille_service::Error;

use super::Check;
use crate::{
    commands::topics::{check::changed, survey::survey},
    output, registry,
};

/// Each is asked when it is taken; what follows from an answer that did not come is left out.
pub fn checks<'a>(
    cluster: &'a Cluster,
    pipelines: &'a [Pipeline],
) -> Box<dyn Iterator<Item = Check> + 'a> {
    let admin = match reached(cluster) {
        Ok((admin, check)) => (admin, check),
        Err(check) => return Box::new(iter::once(check)),
    };
    let (admin, first) = admin;
    let models = Models::default();
    let each = pipelines.iter().flat_map(move |pipeline| {
        let topics = topics(&admin, pipeline);
        let groups = groups(&admin, pipeline.name());
        let deployed = models.check(cluster, pipeline.name());
        topics.into_iter().chain(groups).chain(iter::once(deployed))
    });
    Box::new(iter::once(first).chain(each))
}

fn reached(cluster: &Cluster) -> Result<(Admin, Check), Check> {
    let failed = |error: AdminError| Check::failed("kafka", error);
    let admin = Admin::connect(cluster).map_err(failed)?;
    let identity = admin.identity(Topics::SCHEMAS).map_err(failed)?;
    let found = format!(
        "{} answers, cluster {}",
        cluster.bootstrap_servers(),
        identity.cluster_id
    );
    Ok((admin, Check::ok("kafka", found)))
}

/// Whether topics are there, agree, hold dead letters, and are the ones the pipeline was made with.
fn topics(admin: &Admin, pipeline: &Pipeline) -> Vec<Check> {
    let name = pipeline.name();
    let of = format!("{name} topics");
    let survey = match survey(admin, TopicSpec::of_pipeline(name, 1, 0)) {
        Ok(survey) => survey,
        Err(error) => return vec![Check::failed(of, error)],
    };
    let mut faults = survey.faults(name);
    if !faults.iter().any(AdminError::is_missing) {
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
    let failed = |fault: AdminError| Check::failed(of.clone(), fault);
    faults.into_iter().map(failed).collect()
}

fn groups(admin: &Admin, pipeline: &str) -> Vec<Check> {
    let group = |stage: Service| {
        let of = format!("{pipeline} {}", stage.name());
        match admin.progress(&stage.group(pipeline), &stage.input(pipeline)) {
            Ok(progress) => Some(consumers(of, stage, &progress)),
            // Said of the topics already.
            Err(AdminError::Missing { .. }) => None,
            Err(error) => Some(Check::failed(of, error)),
        }
    };
    Service::ALL.into_iter().filter_map(group).collect()
}

fn consumers(of: String, stage: Service, progress: &GroupProgress) -> Check {
    let (lanes, lag) = (progress.members.len(), progress.lag());
    if lanes == 0 {
        let service = stage.name();
        return Check::warning(
            of,
            format!("does not run, lag {lag}; start it: `{service}`, or `quadrille up` for all"),
        );
    }
    let found = format!(
        "{} with {}, lag {lag}",
        output::counted(progress.replicas(), "replica"),
        output::counted(lanes, "lane"),
    );
    Check::ok(of, found)
}

/// The log of models, read once for all pipelines.
#[derive(Default)]
struct Models(std::cell::OnceCell<Result<std::sync::Arc<View>, String>>);

impl Models {
    fn check(&self, cluster: &Cluster, pipeline: &str) -> Check {
        let of = format!("{pipeline} model");
        let view = self.0.get_or_init(|| {
            let opened = registry::open(cluster);
            opened
                .map(|registry| registry.view())
                .map_err(|error: Error| error.to_string())
        });
        match view {
            Ok(view) => deployed(of, view, pipeline),
            Err(error) => Check::failed(of, error),
        }
    }
}

fn deployed(of: String, view: &View, pipeline: &str) -> Check {
    let current = view.current(pipeline);
    match current.filter(|current| current.action != Action::Unset) {
        Some(deployment) => {
            let (revision, routes) = (deployment.revision, registry::routes(deployment));
            Check::ok(of, format!("revision {revision}: {routes}"))
        }
        None => Check::warning(
            of,
            format!(
                "nothing is deployed, inference serves the package of QUADRILLE_MODEL or none; `quadrille model push DIR`, then `quadrille deploy set {pipeline} --live NAME:VERSION`"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use quadrille_choreography::PartitionProgress;

    use super::{super::Status, *};

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
        let check = deployed("p model".to_owned(), &View::default(), "p");
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.contains("deploy set p"), "{check:?}");
    }
}
