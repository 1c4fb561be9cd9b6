//! Every metric's name, unit and labels: OpenTelemetry's names, from which Prometheus's follow. Base units;
//! histograms in seconds; cardinality bounded by the pipeline files: no label ever holds a record's id, key
//! or free text.

pub(crate) mod exposition;
mod features;
mod models;
mod serving;
mod standbys;
mod state;

pub use features::{AskedBy, FeatureMetrics};
pub use models::{
    Missed, ModelState, QueueMetrics, ServingMetrics, VariantMetrics, VariantRecords,
};
pub use serving::{ModelMetrics, ModelTimes, PortMetrics, RequestMetrics, RpcDurations};
pub use standbys::{StandbyMetrics, StandbysMetrics};
pub use state::{PipelineStateMetrics, StateMetrics, StateUsage};

use std::{
    collections::BTreeMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use opentelemetry::TraceId;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        exemplar::HistogramWithExemplars,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry as PrometheusRegistry, Unit},
};

/// OpenTelemetry's buckets for messaging durations, seconds.
const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A restore takes from a moment to an hour; seconds.
const RESTORE_BUCKETS: [f64; 10] = [0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// Why offsets are missing from a log.
const LOST_REASONS: [&str; 2] = ["truncated", "expired"];

/// The content type of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Default)]
struct Registered {
    metrics: PrometheusRegistry,
    /// OpenTelemetry's names by Prometheus's.
    names: BTreeMap<String, &'static str>,
}

/// One service's metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Registered>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All registered metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut text, &self.lock().metrics);
        text
    }

    /// The Prometheus names of all registered metrics, as in `/metrics`.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// OpenTelemetry's name of a metric that has `name` in Prometheus.
    pub(crate) fn opentelemetry_name(&self, name: &str) -> Option<&'static str> {
        self.lock().names.get(name).copied()
    }

    /// Counters or gauges, registered.
    pub(crate) fn family<L, M>(&self, name: &'static str, help: &str) -> Family<L, M>
    where
        L: Clone + Eq + Hash,
        M: Default,
        Family<L, M>: Metric,
    {
        self.registered(name, None, help, Family::default())
    }

    /// Histograms of durations in seconds, registered.
    fn durations<L>(&self, name: &'static str, help: &str) -> DurationFamily<L>
    where
        L: Clone + Eq + Hash,
        DurationFamily<L>: Metric,
    {
        let family = Family::new_with_constructor(durations as fn() -> Durations);
        self.registered(name, Some(Unit::Seconds), help, family)
    }

    /// `name` is OpenTelemetry's: with dots, without unit.
    fn registered<M: Metric + Clone>(
        &self,
        name: &'static str,
        unit: Option<Unit>,
        help: &str,
        metric: M,
    ) -> M {
        let mut registered = self.lock();
        let prometheus = name.replace('.', "_");
        let full = match &unit {
            Some(unit) => format!("{prometheus}_{}", unit.as_str()),
            None => prometheus.clone(),
        };
        registered.names.insert(full, name);
        let metrics = &mut registered.metrics;
        let kept = metric.clone();
        match unit {
            Some(unit) => metrics.register_with_unit(prometheus, help, unit, metric),
            None => metrics.register(prometheus, help, metric),
        }
        kept
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

/// `state`: `done` or `remaining`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RestoreLabels {
    pipeline: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LagLabels {
    consumergroup: String,
    topic: String,
    partition: i32,
}

/// What OpenTelemetry requires of messaging metrics, and the group and the topic.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MessagingLabels {
    pipeline: String,
    messaging_system: &'static str,
    messaging_operation_name: &'static str,
    messaging_consumer_group_name: String,
    messaging_destination_name: String,
}

/// As [`MessagingLabels`]: records are sent by no group, to an output topic and to one of dead letters.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SendLabels {
    pipeline: String,
    messaging_system: &'static str,
    messaging_operation_name: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabels {
    pipeline: String,
    lane: usize,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

/// Seconds; each bucket has the trace of an observation as its exemplar, if one was traced.
type Durations = HistogramWithExemplars<TraceLabel>;
type DurationFamily<L> = Family<L, Durations, fn() -> Durations>;

fn durations() -> Durations {
    HistogramWithExemplars::new(DURATION_BUCKETS.into_iter())
}

fn restores() -> Durations {
    HistogramWithExemplars::new(RESTORE_BUCKETS.into_iter())
}

fn observe(durations: &Durations, time: Duration, trace: Option<TraceId>) {
    let label = trace.map(|trace| TraceLabel {
        trace_id: trace.to_string(),
    });
    let at = label.is_some().then(SystemTime::now);
    durations.observe(time.as_secs_f64(), label, at);
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

/// What the loop of one service counts; a [`StageMetrics`] is its view for one pipeline.
#[derive(Clone)]
pub struct LoopMetrics {
    consumed: Family<MessagingLabels, Counter>,
    sent: Family<SendLabels, Counter>,
    bytes: Family<PipelineLabel, Counter>,
    dead_letters: Family<ReasonLabels, Counter>,
    absorbed: Family<ReasonLabels, Counter>,
    extras_dropped: Family<ReasonLabels, Counter>,
    letters_truncated: Family<PipelineLabel, Counter>,
    lost: Family<ReasonLabels, Counter>,
    retries: Family<PipelineLabel, Counter>,
    aborts: Family<PipelineLabel, Counter>,
    rebalances: Family<PipelineLabel, Counter>,
    lane_restarts: Family<PipelineLabel, Counter>,
    assigned: Family<PipelineLabel, Gauge>,
    lag: Family<LagLabels, Gauge>,
    lag_seconds: Family<LagLabels, Gauge<f64, AtomicU64>>,
    queue: Family<LaneLabels, Gauge>,
    restoring: Family<PipelineLabel, Gauge>,
    restore_records: Family<RestoreLabels, Gauge>,
    restore: DurationFamily<PipelineLabel>,
    late: Family<PipelineLabel, Counter>,
    batch: Family<PipelineLabel, Histogram, fn() -> Histogram>,
    process: DurationFamily<MessagingLabels>,
    operation: DurationFamily<MessagingLabels>,
    age: DurationFamily<PipelineLabel>,
}

impl LoopMetrics {
    /// Registers the loop's metrics; once per service.
    pub fn register(registry: &Registry) -> Self {
        LoopMetrics {
            consumed: registry.family("messaging.client.consumed.messages", "Records taken from the input topic"),
            sent: registry.family("messaging.client.sent.messages", "Records confirmed on output topics, dead letters included"),
            bytes: registry.registered("quadrille.consumed", Some(Unit::Bytes), "Bytes of payload taken from the input topic", Family::default()),
            dead_letters: registry.family("quadrille.dead_letters", "Records sent to the dead-letter topic, by reason"),
            absorbed: registry.family("quadrille.absorbed", "Records that end in this stage by design, by reason"),
            extras_dropped: registry.family("quadrille.extras_dropped", "Output records beside a record's outcome that were not sent, by reason"),
            letters_truncated: registry.family("quadrille.dead_letters_truncated", "Dead letters that only name their original: its bytes could not be kept, or not be read"),
            lost: registry.family("quadrille.lost_records", "Records that Kafka lost: offsets that a log no longer has, by reason; transaction markers count as well"),
            retries: registry.family("quadrille.batch_retries", "Batches handled again after a retriable failure"),
            aborts: registry.family("quadrille.transaction_aborts", "Transactions aborted"),
            rebalances: registry.family("quadrille.rebalances", "Changes of assignment seen by a lane"),
            lane_restarts: registry.family("quadrille.lane_restarts", "Lanes that closed their clients and began again"),
            assigned: registry.family("quadrille.assigned_partitions", "Partitions this replica holds"),
            lag: registry.family("kafka.consumergroup.lag", "Records between the committed and the last stable offset"),
            lag_seconds: registry.registered("quadrille.consumergroup.lag", Some(Unit::Seconds), "How long ago the last handled record was produced, while there are more; else 0", Family::default()),
            queue: registry.family("quadrille.queue_records", "Records fetched that a lane has not taken up yet"),
            restoring: registry.family("quadrille.restoring_partitions", "Partitions whose state is being restored; their records wait"),
            restore_records: registry.family("quadrille.restore_records", "Records of the changelogs of these partitions: done, and remaining"),
            restore: registry.registered("quadrille.restore.duration", Some(Unit::Seconds), "Restoring the state of one partition", Family::new_with_constructor(restores as fn() -> Durations)),
            late: registry.family("quadrille.late_records", "Records committed here later after their Kafka timestamp than the pipeline's latency_objective"),
            batch: registry.registered("quadrille.batch_records", None, "Records in a batch", Family::new_with_constructor(counts)),
            process: registry.durations("messaging.process.duration", "Decoding and handling one batch"),
            operation: registry.durations("messaging.client.operation.duration", "Client operations; commit is a transaction's end, from its first send"),
            age: registry.durations("quadrille.record_age", "From the record's Kafka timestamp, which is the producer's, to its commit here; oldest of a batch"),
        }
    }

    /// The metrics of one pipeline's stage, looked up once.
    pub fn stage(&self, pipeline: &str, group: &str, topic: &str) -> StageMetrics {
        let label = PipelineLabel {
            pipeline: pipeline.to_owned(),
        };
        let messaging = |operation| MessagingLabels {
            pipeline: pipeline.to_owned(),
            messaging_system: "kafka",
            messaging_operation_name: operation,
            messaging_consumer_group_name: group.to_owned(),
            messaging_destination_name: topic.to_owned(),
        };
        let send = SendLabels {
            pipeline: pipeline.to_owned(),
            messaging_system: "kafka",
            messaging_operation_name: "send",
        };
        for reason in LOST_REASONS {
            // Created at 0: Prometheus only sees an increase from a first value.
            let labels = ReasonLabels {
                pipeline: pipeline.to_owned(),
                reason,
            };
            self.lost.get_or_create_owned(&labels);
        }
        let records = |state| RestoreLabels {
            pipeline: pipeline.to_owned(),
            state,
        };
        let restores = RestoreMetrics {
            partitions: self.restoring.get_or_create_owned(&label),
            done: self.restore_records.get_or_create_owned(&records("done")),
            remaining: self
                .restore_records
                .get_or_create_owned(&records("remaining")),
            duration: self.restore.get_or_create_owned(&label),
        };
        StageMetrics {
            restores,
            consumed: self.consumed.get_or_create_owned(&messaging("poll")),
            sent: self.sent.get_or_create_owned(&send),
            bytes: self.bytes.get_or_create_owned(&label),
            letters_truncated: self.letters_truncated.get_or_create_owned(&label),
            retries: self.retries.get_or_create_owned(&label),
            aborts: self.aborts.get_or_create_owned(&label),
            rebalances: self.rebalances.get_or_create_owned(&label),
            lane_restarts: self.lane_restarts.get_or_create_owned(&label),
            assigned: self.assigned.get_or_create_owned(&label),
            batch: self.batch.get_or_create_owned(&label),
            process: self.process.get_or_create_owned(&messaging("process")),
            commit: self.operation.get_or_create_owned(&messaging("commit")),
            age: self.age.get_or_create_owned(&label),
            late: self.late.get_or_create_owned(&label),
            families: self.clone(),
            pipeline: pipeline.to_owned(),
            group: group.to_owned(),
            topic: topic.to_owned(),
        }
    }
}

/// Of the restores of one pipeline's state; lanes add up.
#[derive(Clone)]
pub struct RestoreMetrics {
    partitions: Gauge,
    done: Gauge,
    remaining: Gauge,
    duration: Durations,
}

/// How many records of a partition's changelog are restored, and how many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    pub done: u64,
    pub total: u64,
}

impl RestoreProgress {
    fn remaining(self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

impl RestoreMetrics {
    pub fn begun(&self) {
        self.partitions.inc();
    }

    /// A partition has come so far, from where it was.
    pub fn moved(&self, before: RestoreProgress, now: RestoreProgress) {
        let by = |now: u64, before: u64| now as i64 - before as i64;
        self.done.inc_by(by(now.done, before.done));
        self.remaining
            .inc_by(by(now.remaining(), before.remaining()));
    }

    /// It is restored (after this time), or given up.
    pub fn ended(&self, before: RestoreProgress, after: Option<Duration>) {
        self.moved(before, RestoreProgress::default());
        self.partitions.dec();
        if let Some(after) = after {
            observe(&self.duration, after, None);
        }
    }
}

/// One stage's metrics of one pipeline. Cheap to clone.
#[derive(Clone)]
pub struct StageMetrics {
    pub restores: RestoreMetrics,
    consumed: Counter,
    sent: Counter,
    bytes: Counter,
    pub letters_truncated: Counter,
    pub retries: Counter,
    pub aborts: Counter,
    pub rebalances: Counter,
    pub lane_restarts: Counter,
    pub assigned: Gauge,
    batch: Histogram,
    process: Durations,
    commit: Durations,
    age: Durations,
    late: Counter,
    families: LoopMetrics,
    pipeline: String,
    group: String,
    topic: String,
}

/// The outcome of one committed batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Committed {
    pub records: usize,
    pub bytes: usize,
    pub sent: usize,
    pub process: Duration,
    pub commit: Duration,
    /// Since the Kafka timestamp of the oldest record.
    pub age: Option<Duration>,
    /// Records later than the pipeline's objective.
    pub late: usize,
    /// The trace of one of the batch's records, if one is traced.
    pub trace: Option<TraceId>,
}

impl StageMetrics {
    /// Counts a batch once it is committed.
    pub fn committed(&self, batch: &Committed) {
        self.consumed.inc_by(batch.records as u64);
        self.bytes.inc_by(batch.bytes as u64);
        self.sent.inc_by(batch.sent as u64);
        self.batch.observe(batch.records as f64);
        self.late.inc_by(batch.late as u64);
        observe(&self.process, batch.process, batch.trace);
        observe(&self.commit, batch.commit, batch.trace);
        if let Some(age) = batch.age {
            observe(&self.age, age, batch.trace);
        }
    }

    /// Offsets that a log lost before they were read (`expired`) or after (`truncated`).
    pub fn lost(&self, reason: &'static str, count: u64) {
        let labels = ReasonLabels {
            pipeline: self.pipeline.clone(),
            reason,
        };
        let counter = self.families.lost.get_or_create_owned(&labels);
        counter.inc_by(count);
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

    /// Output records beside an outcome that were not sent.
    pub fn extras_dropped(&self, reason: &'static str, count: u64) {
        let labels = ReasonLabels {
            pipeline: self.pipeline.clone(),
            reason,
        };
        let dropped = &self.families.extras_dropped;
        dropped.get_or_create(&labels).inc_by(count);
    }

    /// A partition's lag: in records, and in time behind the present.
    pub fn lag(&self, partition: i32, records: i64, behind: Duration) {
        let labels = self.lag_labels(partition);
        self.families.lag.get_or_create(&labels).set(records);
        self.behind(partition, behind);
    }

    /// A partition's lag in time, if the lag in records is unknown.
    pub fn behind(&self, partition: i32, behind: Duration) {
        let labels = self.lag_labels(partition);
        let gauge = self.families.lag_seconds.get_or_create(&labels);
        gauge.set(behind.as_secs_f64());
    }

    /// Removes the lag of a partition that this replica no longer owns.
    pub fn lag_gone(&self, partition: i32) {
        let labels = self.lag_labels(partition);
        self.families.lag.remove(&labels);
        self.families.lag_seconds.remove(&labels);
    }

    /// Records that a lane has fetched but not yet taken into a batch.
    pub fn queue(&self, lane: usize, records: usize) {
        let labels = LaneLabels {
            pipeline: self.pipeline.clone(),
            lane,
        };
        let gauge = self.families.queue.get_or_create(&labels);
        gauge.set(i64::try_from(records).unwrap_or(i64::MAX));
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
            r#"messaging_client_consumed_messages_total{pipeline="p",messaging_system="kafka",messaging_operation_name="poll",messaging_consumer_group_name="quadrille.feature.p",messaging_destination_name="p.records"} 3"#,
            r#"messaging_process_duration_seconds_count{pipeline="p",messaging_system="kafka",messaging_operation_name="process","#,
            r#"messaging_client_operation_duration_seconds_count{pipeline="p",messaging_system="kafka",messaging_operation_name="commit","#,
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
