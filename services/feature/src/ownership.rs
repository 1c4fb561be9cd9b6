//! What this replica tells the others of itself: where it can be asked, and about which partitions. And the end of
//! connections to those that say nothing any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quadrille_proto::Service;
use quadrille_registry::{HeldPartitions, REPORT_EVERY, Replica, Replicas, Reporter};
use quadrille_service::{Context, Drain, Error, StopSignal, Task, fields::now_ms};
use tokio::sync::watch;

use crate::{
    query::{Peers, Reports, Served, Siblings},
    state::Shared,
};

/// What stops does not wait longer for Kafka.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(1);
/// A report that Kafka has not confirmed by then is written anew: by then there may be more to say.
const REPORT_WITHIN: Duration = Duration::from_secs(5);
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Reports for as long as the service runs.
struct Ownership {
    reporter: Reporter,
    /// By pipeline.
    shared: Vec<(String, Shared)>,
    reports: Reports,
    peers: Arc<Peers>,
    instance: String,
    address: String,
}

/// Begins to report what is held of pipelines with state, and to follow what others report. None where none has.
///
/// # Errors
/// A client or a thread could not be had.
pub(crate) fn start(
    context: &Context,
    served: &[Served],
    changes: watch::Receiver<u64>,
) -> Result<Option<Siblings>, Error> {
    let with_state = served.iter().filter(|it| it.pipeline.keeps_state());
    let shared = with_state.map(|it| (it.pipeline.name().to_owned(), it.shared.clone()));
    let shared: Vec<(String, Shared)> = shared.collect();
    if shared.is_empty() {
        return Ok(None);
    }
    let (cluster, instance) = (&context.config.cluster, context.config.instance());
    let status = |error: String| Error::Failed(format!("status: {error}"));
    let reporter = Reporter::connect(cluster, &format!("quadrille.status-{instance}"));
    let replicas = Replicas::start(cluster).map_err(|error| status(error.to_string()))?;
    let reports: Reports = Arc::new(move || replicas.list());
    let peers = Arc::new(Peers::default());
    let ownership = Ownership {
        reporter: reporter.map_err(|error| status(error.to_string()))?,
        shared,
        reports: Arc::clone(&reports),
        peers: Arc::clone(&peers),
        instance: instance.clone(),
        address: context.config.advertised(),
    };
    // Stages give their partitions up first, which is reported.
    let task = Task::new(
        "ownership",
        Drain::AfterStages,
        WITHDRAW_WITHIN + REPORT_AGAIN_AFTER,
    );
    context.spawn(task, |stop| ownership.run(changes, stop));
    Ok(Some(Siblings::new(instance, reports, peers)))
}

impl Ownership {
    async fn run(
        self,
        mut changes: watch::Receiver<u64>,
        mut stop: StopSignal,
    ) -> Result<(), Error> {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.requested() => break,
                // The service holds a sender for as long as it runs.
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            changes.mark_unchanged();
            self.close_connections();
            wait = tokio::select! {
                () = stop.requested() => break,
                confirmed = self.report() => match confirmed {
                    true => REPORT_EVERY,
                    false => REPORT_AGAIN_AFTER,
                },
            };
        }
        self.withdraw().await;
        Ok(())
    }

    /// Whether Kafka has confirmed it.
    async fn report(&self) -> bool {
        let held = self.shared.iter();
        let held = held.map(|(pipeline, shared)| (pipeline.clone(), shared.held()));
        let replica = Replica {
            service: Service::Feature.name().to_owned(),
            instance: self.instance.clone(),
            at_ms: now_ms(),
            address: self.address.clone(),
            held: held
                .filter(|(_, held): &(String, HeldPartitions)| !held.is_empty())
                .collect(),
            ..Replica::default()
        };
        let sent = self.reporter.report(&replica);
        match tokio::time::timeout(REPORT_WITHIN, sent).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::debug!(%error, "status not reported; later again"),
            Err(_) => tracing::debug!("status not reported in time; again"),
        }
        false
    }

    /// To replicas that nobody would ask any more.
    fn close_connections(&self) {
        let (reports, now) = ((self.reports)(), now_ms());
        let alive = reports.iter().filter(|it| !it.is_silent(now));
        let addresses: BTreeSet<&str> = alive.map(|it| it.address.as_str()).collect();
        self.peers.keep(&addresses);
    }

    async fn withdraw(&self) {
        let name = Service::Feature.name();
        let sent = self.reporter.withdraw(name, &self.instance);
        match tokio::time::timeout(WITHDRAW_WITHIN, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "status not withdrawn; it grows silent"),
            Err(_) => tracing::debug!("status not withdrawn in time; it grows silent"),
        }
    }
}
