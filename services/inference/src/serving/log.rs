//! The log on Kafka as a source, and this replica's reports.

use std::{collections::BTreeMap, time::Duration};

use quadrille_choreography::Cluster;
use quadrille_proto::Topics;
use quadrille_registry::{
    Error as LogError, Follower, History, ModelId, ModelState as Reported, Replica, ReplicaModel,
    Reporter,
};
use quadrille_service::{Error, fields::now_ms};
use tokio::{runtime::Handle, sync::watch};

use super::{
    source::{self, Files, Report, Source, View},
    status::ModelState,
};

/// Deployments of a pipeline that a replica which starts may try.
const DEPLOYMENTS_MAX: usize = 8;

/// What stops does not wait longer for Kafka.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(1);

/// Follows `quadrille.models` and `quadrille.deployments`, reports on `quadrille.status`.
pub struct Log {
    follower: Follower,
    reporter: Reporter,
    service: &'static str,
    instance: String,
    runtime: Handle,
}

impl Log {
    /// To be called within a runtime, on which reports are sent.
    ///
    /// # Errors
    /// A client or a thread could not be had.
    pub fn follow(cluster: &Cluster, service: &'static str, instance: &str) -> Result<Self, Error> {
        let name = format!("quadrille.status-{instance}");
        let reporter = Reporter::connect(cluster, &name);
        Ok(Log {
            follower: Follower::start(cluster)
                .map_err(|error| Error::Failed(format!("log of models: {error}")))?,
            reporter: reporter.map_err(|error| Error::Failed(format!("status: {error}")))?,
            service,
            instance: instance.to_owned(),
            runtime: Handle::current(),
        })
    }

    fn replica(&self, report: &Report) -> Replica {
        let (models_offset, deployments_offset) = self.follower.offsets();
        let models = report.models.iter().map(|status| ReplicaModel {
            id: status.id.clone(),
            state: match &status.state {
                ModelState::Wanted => Reported::Wanted,
                ModelState::Loading => Reported::Loading,
                ModelState::Ready => Reported::Ready,
                ModelState::Failed { why } => Reported::Failed { why: why.clone() },
            },
        });
        // 0 where there is none yet: who waits for a deployment waits for this replica, too.
        let seen = report.pipelines.iter();
        let revisions: BTreeMap<String, u64> = seen
            .map(|status| (status.pipeline.clone(), status.seen.unwrap_or(0)))
            .collect();
        Replica {
            service: self.service.to_owned(),
            instance: self.instance.clone(),
            at_ms: now_ms(),
            models: models.collect(),
            revisions,
            models_offset,
            deployments_offset,
            ..Replica::default()
        }
    }
}

impl Source for Log {
    fn view(&self) -> View {
        let view = self.follower.view();
        let models = view.models.values();
        let newest = |(pipeline, history): (&String, &History)| {
            let valid = history.valid().rev().take(DEPLOYMENTS_MAX);
            (pipeline.clone(), valid.cloned().collect())
        };
        View {
            models: models.map(|it| (it.id.clone(), it.sha256.0)).collect(),
            deployments: view.deployments.iter().map(newest).collect(),
        }
    }

    fn caught_up(&self) -> Result<(), String> {
        // A Kafka from before there were deployments has none, and local models serve it.
        if self.follower.missing().contains(&Topics::DEPLOYMENTS) {
            return Ok(());
        }
        self.follower.behind().map_or(Ok(()), Err)
    }

    fn age(&self) -> Option<Duration> {
        self.follower.age()
    }

    fn bytes(&self, id: &ModelId) -> u64 {
        let view = self.follower.view();
        view.models.get(id).map_or(0, |entry| entry.bytes)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.follower.changed()
    }

    fn fetch(&self, id: &ModelId) -> Result<Files, source::Error> {
        let package = self.follower.fetch(id).map_err(|error| match error {
            LogError::Corrupt { .. } | LogError::Changed { .. } | LogError::Broken { .. } => {
                source::Error::Damaged(error.to_string())
            }
            error => source::Error::Unreachable(error.to_string()),
        })?;
        Ok(Files {
            manifest: package.manifest,
            artefact: package.artefact,
        })
    }

    fn report(&self, report: &Report) {
        let sent = self.reporter.report(&self.replica(report));
        self.runtime.spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "status not reported; later again");
            }
        });
    }

    fn withdraw(&self) {
        let sent = self.reporter.withdraw(self.service, &self.instance);
        let sent = async { tokio::time::timeout(WITHDRAW_WITHIN, sent).await };
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "status not withdrawn; it grows silent"),
            Err(_) => tracing::debug!("status not withdrawn in time; it grows silent"),
        }
    }
}
