//! Every metric's name, unit and labels. Base units; histograms in seconds; cardinality bounded by
//! the pipeline files: no label ever holds a record's id, key or free text.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry as PrometheusRegistry, Unit},
};
use std::sync::Mutex;

/// OpenTelemetry's buckets for messaging durations, seconds.
const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The content type of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One service's metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<PrometheusRegistry>>);

impl Registry {
    /// The OpenMetrics text of all that is registered.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    pub(crate) fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.with(|registry| registry.register(name, help, metric));
    }

    fn with<T>(&self, register: impl FnOnce(&mut PrometheusRegistry) -> T) -> T {
        register(
            &mut self
                .0
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PipelineLabel {
    pipeline: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    pipeline: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LagLabels {
    consumergroup: String,
    topic: String,
    partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    pipeline: String,
    messaging_operation_name: &'static str,
}

type DurationFamily<L> = Family<L, Histogram, fn() -> Histogram>;

fn durations() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

/// What the loop of one service counts; a [`StageMetrics`] is its view for one pipeline.
#[derive(Clone)]
pub struct LoopMetrics {
    consumed: Family<PipelineLabel, Counter>,
    sent: Family<PipelineLabel, Counter>,
    bytes: Family<PipelineLabel, Counter>,
    dead_letters: Family<ReasonLabels, Counter>,
    absorbed: Family<ReasonLabels, Counter>,
    retries: Family<PipelineLabel, Counter>,
    aborts: Family<PipelineLabel, Counter>,
    rebalances: Family<PipelineLabel, Counter>,
    lane_restarts: Family<PipelineLabel, Counter>,
    assigned: Family<PipelineLabel, Gauge>,
    lag: Family<LagLabels, Gauge>,
    lag_seconds: Family<LagLabels, Gauge<f64, AtomicU64>>,
    batch: DurationFamily<PipelineLabel>,
    process: DurationFamily<PipelineLabel>,
    operation: DurationFamily<OperationLabels>,
    age: DurationFamily<PipelineLabel>,
}

impl LoopMetrics {
    /// Registers the loop's metrics; once a service.
    pub fn register(registry: &Registry) -> Self {
        let metrics = LoopMetrics {
            consumed: Family::default(),
            sent: Family::default(),
            bytes: Family::default(),
            dead_letters: Family::default(),
            absorbed: Family::default(),
            retries: Family::default(),
            aborts: Family::default(),
            rebalances: Family::default(),
            lane_restarts: Family::default(),
            assigned: Family::default(),
            lag: Family::default(),
            lag_seconds: Family::default(),
            batch: Family::new_with_constructor(counts),
            process: Family::new_with_constructor(durations),
            operation: Family::new_with_constructor(durations),
            age: Family::new_with_constructor(durations),
        };
        registry.with(|r| {
            let m = &metrics;
            r.register(
                "messaging_client_consumed_messages",
                "Records taken from the input topic",
                m.consumed.clone(),
            );
            r.register(
                "messaging_client_sent_messages",
                "Records confirmed on output topics, dead letters included",
                m.sent.clone(),
            );
            r.register_with_unit(
                "quadrille_consumed",
                "Bytes of payload taken from the input topic",
                Unit::Bytes,
                m.bytes.clone(),
            );
            r.register(
                "quadrille_dead_letters",
                "Records sent to the dead-letter topic, by reason",
                m.dead_letters.clone(),
            );
            r.register(
                "quadrille_absorbed",
                "Records that end in this stage by design, by reason",
                m.absorbed.clone(),
            );
            r.register(
                "quadrille_batch_retries",
                "Batches handled again after a retriable failure",
                m.retries.clone(),
            );
            r.register(
                "quadrille_transaction_aborts",
                "Transactions aborted",
                m.aborts.clone(),
            );
            r.register(
                "quadrille_rebalances",
                "Changes of assignment seen by a lane",
                m.rebalances.clone(),
            );
            r.register(
                "quadrille_lane_restarts",
                "Lanes that closed their clients and began again",
                m.lane_restarts.clone(),
            );
            r.register(
                "quadrille_assigned_partitions",
                "Partitions this replica holds",
                m.assigned.clone(),
            );
            r.register(
                "kafka_consumergroup_lag",
                "Records between the committed and the last stable offset",
                m.lag.clone(),
            );
            r.register_with_unit(
                "quadrille_consumergroup_lag",
                "How long ago the last handled record was produced, while there are more; else 0",
                Unit::Seconds,
                m.lag_seconds.clone(),
            );
            r.register(
                "quadrille_batch_records",
                "Records in a batch",
                m.batch.clone(),
            );
            r.register_with_unit(
                "messaging_process_duration",
                "Decoding and handling one batch",
                Unit::Seconds,
                m.process.clone(),
            );
            r.register_with_unit(
                "messaging_client_operation_duration",
                "Client operations; commit is a transaction's end, from its first send",
                Unit::Seconds,
                m.operation.clone(),
            );
            r.register_with_unit(
                "quadrille_record_age",
                "From the record's Kafka timestamp to its commit here, oldest of a batch",
                Unit::Seconds,
                m.age.clone(),
            );
        });
        metrics
    }

    /// The metrics of one pipeline's stage, looked up once.
    pub fn stage(&self, pipeline: &str, group: &str, topic: &str) -> StageMetrics {
        let label = PipelineLabel {
            pipeline: pipeline.to_owned(),
        };
        let commit = OperationLabels {
            pipeline: pipeline.to_owned(),
            messaging_operation_name: "commit",
        };
        StageMetrics {
            consumed: self.consumed.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
            bytes: self.bytes.get_or_create_owned(&label),
            retries: self.retries.get_or_create_owned(&label),
            aborts: self.aborts.get_or_create_owned(&label),
            rebalances: self.rebalances.get_or_create_owned(&label),
            lane_restarts: self.lane_restarts.get_or_create_owned(&label),
            assigned: self.assigned.get_or_create_owned(&label),
            batch: self.batch.get_or_create_owned(&label),
            process: self.process.get_or_create_owned(&label),
            commit: self.operation.get_or_create_owned(&commit),
            age: self.age.get_or_create_owned(&label),
            families: self.clone(),
            pipeline: pipeline.to_owned(),
            group: group.to_owned(),
            topic: topic.to_owned(),
        }
    }
}

/// One stage's metrics of one pipeline. Cheap to clone.
#[derive(Clone)]
pub struct StageMetrics {
    consumed: Counter,
    sent: Counter,
    bytes: Counter,
    pub retries: Counter,
    pub aborts: Counter,
    pub rebalances: Counter,
    pub lane_restarts: Counter,
    pub assigned: Gauge,
    batch: Histogram,
    process: Histogram,
    commit: Histogram,
    age: Histogram,
    families: LoopMetrics,
    pipeline: String,
    group: String,
    topic: String,
}

/// What became of one committed batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Committed {
    pub records: usize,
    pub bytes: usize,
    pub sent: usize,
    pub process: Duration,
    pub commit: Duration,
    /// Since the Kafka timestamp of the oldest record.
    pub age: Option<Duration>,
}

impl StageMetrics {
    /// Counts a batch once it is committed.
    pub fn committed(&self, batch: &Committed) {
        self.consumed.inc_by(batch.records as u64);
        self.bytes.inc_by(batch.bytes as u64);
        self.sent.inc_by(batch.sent as u64);
        self.batch.observe(batch.records as f64);
        self.process.observe(batch.process.as_secs_f64());
        self.commit.observe(batch.commit.as_secs_f64());
        if let Some(age) = batch.age {
            self.age.observe(age.as_secs_f64());
        }
    }

    pub fn dead_letters(&self, reason: &'static str, count: u64) {
        let labels = ReasonLabels {
            pipeline: self.pipeline.clone(),
            reason,
        };
        self.families
            .dead_letters
            .get_or_create(&labels)
            .inc_by(count);
    }

    pub fn absorbed(&self, reason: &'static str, count: u64) {
        let labels = ReasonLabels {
            pipeline: self.pipeline.clone(),
            reason,
        };
        self.families.absorbed.get_or_create(&labels).inc_by(count);
    }

    /// What is left of a partition: records, and how far behind the present they are.
    pub fn lag(&self, partition: i32, records: i64, behind: Duration) {
        let (labels, families) = (self.lag_labels(partition), &self.families);
        families.lag.get_or_create(&labels).set(records);
        families
            .lag_seconds
            .get_or_create(&labels)
            .set(behind.as_secs_f64());
    }

    /// A partition this replica no longer holds has no lag here.
    pub fn lag_gone(&self, partition: i32) {
        let labels = self.lag_labels(partition);
        self.families.lag.remove(&labels);
        self.families.lag_seconds.remove(&labels);
    }

    /// Records taken and committed since the start.
    pub fn consumed_total(&self) -> u64 {
        self.consumed.get()
    }

    fn lag_labels(&self, partition: i32) -> LagLabels {
        LagLabels {
            consumergroup: self.group.clone(),
            topic: self.topic.clone(),
            partition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_batch_shows_in_the_text() {
        let registry = Registry::default();
        let stage = LoopMetrics::register(&registry).stage("p", "quadrille.feature.p", "p.records");
        stage.committed(&Committed {
            records: 3,
            sent: 3,
            ..Committed::default()
        });
        stage.dead_letters("not_json", 2);
        stage.lag(4, 17, Duration::from_millis(1_500));
        let text = registry.encode();
        for line in [
            r#"messaging_client_consumed_messages_total{pipeline="p"} 3"#,
            r#"quadrille_dead_letters_total{pipeline="p",reason="not_json"} 2"#,
            r#"kafka_consumergroup_lag{consumergroup="quadrille.feature.p",topic="p.records",partition="4"} 17"#,
            r#"quadrille_consumergroup_lag_seconds{consumergroup="quadrille.feature.p",topic="p.records",partition="4"} 1.5"#,
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        stage.lag_gone(4);
        assert!(!registry.encode().contains("partition=\"4\""));
    }
}
