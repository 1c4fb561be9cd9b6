//! What this replica tells the others of itself: where it can be asked, and about which partitions; and what the others' reports are
//! read for beside that: connections end to those that say nothing any more, and transactions of those that died.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quadrille_choreography::{Cluster, LaneId};
use quadrille_proto::Service;
use quadrille_registry::{HeldPartitions, HoldingLanes, REPORT_EVERY, Replica, Replicas, Reporter};
use quadrille_service::{Context, Drain, Error, StopSignal, Task, fields::now_ms};
use tokio::sync::watch;

use crate::{
    query::{Peers, Reports, Served, Siblings},
    state::{Claimants, Shared},
};

/// What stops does not wait longer for Kafka.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(1);
/// A report that Kafka has not confirmed by then is written anew: by then there may be more to say.
const REPORT_WITHIN: Duration = Duration::from_secs(5);
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A replica that has reported nothing for so long has left no transaction open: Kafka ends them after some 20 s. The rest is for clocks
/// that differ.
const LEFT_NOTHING_AFTER: Duration = Duration::from_mins(5);

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

fn failed(error: &dyn std::error::Error) -> Error {
    Error::Failed(format!("status: {error}"))
}

/// Begins to follow what replicas report.
///
/// # Errors
/// A thread could not be had.
pub(crate) fn follow(cluster: &Cluster) -> Result<Reports, Error> {
    let replicas = Replicas::start(cluster).map_err(|error| failed(&error))?;
    Ok(Arc::new(move || replicas.list()))
}

/// The lanes that say that they hold partitions of a pipeline.
pub(crate) fn claimants(reports: Reports, pipeline: &str) -> Claimants {
    let pipeline = pipeline.to_owned();
    Arc::new(move |partition| claimants_among(&reports(), (&pipeline, partition), now_ms()))
}

fn claimants_among(
    reports: &[Replica],
    (pipeline, partition): (&str, i32),
    now_ms: i64,
) -> Vec<LaneId> {
    let recent = reports.iter().filter(|it| {
        it.service == Service::Feature.name()
            && now_ms.saturating_sub(it.at_ms) < LEFT_NOTHING_AFTER.as_millis() as i64
    });
    let lanes = recent.filter_map(|it| {
        Some(LaneId {
            instance: it.instance.clone(),
            index: usize::try_from(it.lane_of(pipeline, partition)?).ok()?,
        })
    });
    lanes.collect()
}

/// Begins to report what is held of pipelines with state.
///
/// # Errors
/// A client could not be had.
pub(crate) fn start(
    context: &Context,
    served: &[Served],
    changes: watch::Receiver<u64>,
    reports: Reports,
) -> Result<Siblings, Error> {
    let with_state = served.iter().filter(|it| it.pipeline.keeps_state());
    let shared = with_state.map(|it| (it.pipeline.name().to_owned(), it.shared.clone()));
    let (cluster, instance) = (&context.config.cluster, context.config.instance());
    let reporter = Reporter::connect(cluster, &format!("quadrille.status-{instance}"));
    let peers = Arc::new(Peers::default());
    let ownership = Ownership {
        reporter: reporter.map_err(|error| failed(&error))?,
        shared: shared.collect(),
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
    Ok(Siblings::new(instance, reports, peers))
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
        let mut replica = Replica {
            service: Service::Feature.name().to_owned(),
            instance: self.instance.clone(),
            at_ms: now_ms(),
            address: self.address.clone(),
            ..Replica::default()
        };
        for (pipeline, shared) in &self.shared {
            let standing = shared.standing();
            if !standing.is_empty() {
                replica.standing_by.insert(pipeline.clone(), standing);
            }
            let held = shared.held();
            if held.is_empty() {
                continue;
            }
            let since = held.iter().map(|it| (it.partition, it.since_ms));
            let lanes = held.iter().map(|it| (it.partition, it.lane));
            let (since, lanes): (HeldPartitions, HoldingLanes) = (since.collect(), lanes.collect());
            replica.held.insert(pipeline.clone(), since);
            replica.lanes.insert(pipeline.clone(), lanes);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(instance: &str, partition: i32, lane: Option<u32>) -> Replica {
        let lane = lane.map(|lane| (partition, lane));
        Replica {
            service: Service::Feature.name().to_owned(),
            instance: instance.to_owned(),
            held: [("p".to_owned(), [(partition, 1)].into())].into(),
            lanes: [("p".to_owned(), lane.into_iter().collect())].into(),
            ..Replica::default()
        }
    }

    #[test]
    fn lanes_are_known_by_the_newest_reports_of_their_replicas() {
        let mut other = replica("d", 3, Some(4));
        other.service = "inference".to_owned();
        let reports = [
            replica("a", 3, Some(1)),
            replica("b", 3, None),
            replica("c", 2, Some(0)),
            other,
            replica("a-2", 3, Some(0)),
        ];
        let lanes = |place, now_ms| claimants_among(&reports, place, now_ms);
        let lane = |instance: &str, index| LaneId {
            instance: instance.to_owned(),
            index,
        };
        assert_eq!(lanes(("p", 3), 299_999), [lane("a", 1), lane("a-2", 0)]);
        assert_eq!(lanes(("p", 3), 300_000), [], "they are long gone");
        assert_eq!(lanes(("q", 3), 0), []);
    }
}
