//! State that a replica keeps up with although another one owns it.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::{PipelineLabel, Registry};

/// `state`: `ready` or `restoring`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    pipeline: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabels {
    pipeline: String,
    partition: i32,
}

/// Of all pipelines of a service; a [`StandbyMetrics`] is its view for one of them.
#[derive(Clone)]
pub struct StandbysMetrics {
    partitions: Family<StateLabels, Gauge>,
    lag: Family<PartitionLabels, Gauge>,
    failures: Family<PipelineLabel, Counter>,
}

impl StandbysMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        StandbysMetrics {
            partitions: registry.family("quadrille.standby_partitions", "Partitions of state that this replica stands by for: ready to answer, and restoring"),
            lag: registry.family("quadrille.standby_lag_records", "Records of a changelog that a standby has not applied yet, those of transactions that are not ended included"),
            failures: registry.family("quadrille.standby_failures", "Standbys that could not be read or written, or were begun anew; they are tried again"),
        }
    }

    pub fn pipeline(&self, pipeline: &str) -> StandbyMetrics {
        let count = |state| {
            let labels = StateLabels {
                pipeline: pipeline.to_owned(),
                state,
            };
            self.partitions.get_or_create_owned(&labels)
        };
        let label = PipelineLabel {
            pipeline: pipeline.to_owned(),
        };
        StandbyMetrics {
            ready: count("ready"),
            restoring: count("restoring"),
            lag: self.lag.clone(),
            failures: self.failures.get_or_create_owned(&label),
            pipeline: pipeline.to_owned(),
        }
    }
}

/// Of one pipeline.
#[derive(Clone)]
pub struct StandbyMetrics {
    ready: Gauge,
    restoring: Gauge,
    lag: Family<PartitionLabels, Gauge>,
    failures: Counter,
    pipeline: String,
}

impl StandbyMetrics {
    pub fn partitions(&self, ready: usize, restoring: usize) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.ready.set(count(ready));
        self.restoring.set(count(restoring));
    }

    pub fn lag(&self, partition: i32, records: u64) {
        let gauge = self.lag.get_or_create_owned(&self.labels(partition));
        gauge.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// The replica does not stand by for this partition any more.
    pub fn lag_gone(&self, partition: i32) {
        self.lag.remove(&self.labels(partition));
    }

    pub fn failed(&self) {
        self.failures.inc();
    }

    fn labels(&self, partition: i32) -> PartitionLabels {
        PartitionLabels {
            pipeline: self.pipeline.clone(),
            partition,
        }
    }
}
