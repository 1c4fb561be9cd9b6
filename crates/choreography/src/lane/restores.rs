//! The restores of a lane's partitions as people see them: in the answer of a health check, in metrics, in the log.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use quadrille_telemetry::metrics::{RestoreMetrics, RestoreProgress};

use crate::status::LaneStatus;

/// A partition on its way.
struct Restoring {
    since: Instant,
    progress: RestoreProgress,
}

/// Those of one lane.
pub(super) struct Restores {
    lane: String,
    status: Arc<LaneStatus>,
    metrics: RestoreMetrics,
    partitions: BTreeMap<i32, Restoring>,
}

impl Restores {
    pub fn new(lane: &str, status: &Arc<LaneStatus>, metrics: &RestoreMetrics) -> Self {
        Restores {
            lane: lane.to_owned(),
            status: Arc::clone(status),
            metrics: metrics.clone(),
            partitions: BTreeMap::new(),
        }
    }

    /// A partition has come so far. Whether that is further than before.
    pub fn pending(&mut self, partition: i32, done: u64, total: u64) -> bool {
        let now = RestoreProgress { done, total };
        let restoring = self.partitions.entry(partition).or_insert_with(|| {
            self.metrics.begun();
            Restoring {
                since: Instant::now(),
                progress: RestoreProgress::default(),
            }
        });
        let before = std::mem::replace(&mut restoring.progress, now);
        self.metrics.moved(before, now);
        if before.total == 0 && total > 0 {
            let lane = &self.lane;
            tracing::info!(lane, partition, records = total, "restoring state");
        }
        self.status.restores(partition, done, total);
        now != before
    }

    pub fn done(&mut self, partition: i32) {
        self.status.restored(&[partition]);
        let restoring = self.partitions.remove(&partition).unwrap_or_else(|| {
            self.metrics.begun();
            Restoring {
                since: Instant::now(),
                progress: RestoreProgress::default(),
            }
        });
        let (after, records) = (restoring.since.elapsed(), restoring.progress.total);
        self.metrics.ended(restoring.progress, Some(after));
        let (lane, ms) = (&self.lane, after.as_millis() as u64);
        tracing::info!(lane, partition, records, ms, "state restored");
    }

    /// These are not to be restored any more.
    pub fn given_up(&mut self, partitions: &[i32]) {
        self.status.restored(partitions);
        for partition in partitions {
            if let Some(restoring) = self.partitions.remove(partition) {
                self.metrics.ended(restoring.progress, None);
                let (lane, done) = (&self.lane, restoring.progress.done);
                tracing::info!(lane, partition, done, "restore given up with its partition");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quadrille_telemetry::{Registry, metrics::LoopMetrics};

    use super::*;

    fn metrics(registry: &Registry) -> Vec<String> {
        let text = registry.encode();
        let ours = |line: &&str| {
            line.starts_with("quadrille_resto")
                && !line.contains("_bucket")
                && !line.contains("_sum")
        };
        let lines = text.lines().filter(ours);
        lines
            .map(|line| line.replace("pipeline=\"p\"", ""))
            .collect()
    }

    #[test]
    fn metrics_are_the_sums_of_the_lanes_and_go_with_what_is_given_up() {
        let registry = Registry::default();
        let stage = LoopMetrics::register(&registry).stage("p", "g", "t");
        let lane = || Restores::new("a-0", &Arc::new(LaneStatus::new()), &stage.restores);
        let (mut one, mut other) = (lane(), lane());
        one.pending(0, 0, 0);
        assert!(one.pending(0, 0, 100));
        assert!(one.pending(0, 40, 100));
        assert!(!one.pending(0, 40, 100), "no further");
        other.pending(1, 1, 10);
        let found = metrics(&registry);
        for expected in [
            "quadrille_restoring_partitions{} 2",
            "quadrille_restore_records{,state=\"done\"} 41",
            "quadrille_restore_records{,state=\"remaining\"} 69",
        ] {
            assert!(found.iter().any(|it| it == expected), "{found:?}");
        }
        one.done(0);
        other.given_up(&[1, 2]);
        let found = metrics(&registry);
        for expected in [
            "quadrille_restoring_partitions{} 0",
            "quadrille_restore_records{,state=\"done\"} 0",
            "quadrille_restore_records{,state=\"remaining\"} 0",
            "quadrille_restore_duration_seconds_count{} 1",
        ] {
            assert!(found.iter().any(|it| it == expected), "{found:?}");
        }
    }
}
