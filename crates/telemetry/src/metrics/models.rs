//! The model versions of a replica, and how they are used. Series of versions that are unloaded are removed.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Unit,
};

use super::{
    DurationFamily, Durations, ModelMetrics, ModelTimes, PipelineLabel, Registry, counts,
    durations, observe,
};

/// The steps of a version into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    Wanted,
    Loading,
    Ready,
    Failed,
}

impl ModelState {
    const ALL: [Self; 4] = [Self::Wanted, Self::Loading, Self::Ready, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    model: String,
    version: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VariantLabels {
    pipeline: String,
    variant: String,
    model: String,
    version: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MissedLabels {
    pipeline: String,
    variant: String,
    model: String,
    version: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabels {
    model: String,
    version: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WhyLabels {
    model: String,
    version: String,
    reason: &'static str,
}

/// Why a batch of a queue was closed.
const CLOSED: [&str; 3] = ["size", "deadline", "dry"];
/// Why a queued request was not answered by the model.
const UNANSWERED: [&str; 4] = ["overloaded", "expired", "given_up", "panicked"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// What a replica serves. Cheap to clone.
#[derive(Clone)]
pub struct ServingMetrics {
    states: Family<StateLabels, Gauge>,
    swaps: Family<PipelineLabel, Counter>,
    revision: Family<PipelineLabel, Gauge<u64, AtomicU64>>,
    view_age: Gauge<f64, AtomicU64>,
    load: Durations,
    failures: Family<StepLabel, Counter>,
    records: Family<VariantLabels, Counter>,
    missed: Family<MissedLabels, Counter>,
    times: ModelMetrics,
    batches: Family<WhyLabels, Counter>,
    batch_rows: Family<VersionLabels, Histogram, fn() -> Histogram>,
    queue_wait: DurationFamily<VersionLabels>,
    unanswered: Family<WhyLabels, Counter>,
}

impl ServingMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        let times = ModelMetrics::register(registry);
        ServingMetrics {
            states: registry.family("quadrille.model.state", "1 for the state a model version is in on this replica: wanted, loading, ready, failed"),
            swaps: registry.family("quadrille.model.swaps", "Deployments that took effect on this replica"),
            revision: registry.family("quadrille.deployment.revision", "Revision of the deployment in effect on this replica; 0 is the local model"),
            view_age: registry.registered("quadrille.view.age", Some(Unit::Seconds), "How long ago this replica last knew all models and deployments there are; what serves may be older than what is deployed", Gauge::default()),
            load: registry.registered("quadrille.model.load.duration", Some(Unit::Seconds), "Bringing one model version into service: fetch, verify, load, check, warm up", durations()),
            failures: registry.family("quadrille.model.load_failures", "Model versions that did not come into service, by the step that failed"),
            records: registry.family("quadrille.variant.records", "Records of the stream and rows of requests scored, by the route that answered; one that is tried again counts again"),
            missed: registry.family("quadrille.shadow.missed", "Records without a prediction of a shadow, by reason: budget (its time was up), failed (it panicked, or answered no number)"),
            batches: registry.family("quadrille.model.batches", "Batches of an expensive model's queue, by what closed them: size, deadline, dry (nobody came)"),
            batch_rows: registry.registered("quadrille.model.batch_rows", None, "Rows in a batch of an expensive model's queue", Family::new_with_constructor(counts)),
            queue_wait: registry.durations("quadrille.model.queue_wait", "How long the first request of a batch waited in an expensive model's queue"),
            unanswered: registry.family("quadrille.model.unanswered", "Requests to an expensive model's queue that were not answered, by reason"),
            times,
        }
    }

    /// None: the log was never read to its end.
    pub fn view_age(&self, age: Option<Duration>) {
        let seconds = age.map_or(f64::NAN, |age| age.as_secs_f64());
        self.view_age.set(seconds);
    }

    /// None: the version is no longer wanted here.
    pub fn state(&self, model: &str, version: &str, state: Option<ModelState>) {
        for one in ModelState::ALL {
            let labels = StateLabels {
                model: model.to_owned(),
                version: version.to_owned(),
                state: one.name(),
            };
            if state == Some(one) {
                self.states.get_or_create(&labels).set(1);
            } else {
                self.states.remove(&labels);
            }
        }
        if state.is_none() {
            self.times.forget("", model, version);
            self.forget_queue(&VersionLabels {
                model: model.to_owned(),
                version: version.to_owned(),
            });
        }
    }

    fn forget_queue(&self, labels: &VersionLabels) {
        self.batch_rows.remove(labels);
        self.queue_wait.remove(labels);
        for reason in CLOSED {
            self.batches.remove(&labels.why(reason));
        }
        for reason in UNANSWERED {
            self.unanswered.remove(&labels.why(reason));
        }
    }

    /// The times of a version that is called by its own name, not by a pipeline's.
    pub fn times(&self, model: &str, version: &str) -> ModelTimes {
        self.times.of("", model, version)
    }

    /// The metrics of one version's queue.
    pub fn queue(&self, model: &str, version: &str) -> QueueMetrics {
        let labels = VersionLabels {
            model: model.to_owned(),
            version: version.to_owned(),
        };
        QueueMetrics {
            rows: self.batch_rows.get_or_create_owned(&labels),
            wait: self.queue_wait.get_or_create_owned(&labels),
            closed: CLOSED.map(|reason| self.batches.get_or_create_owned(&labels.why(reason))),
            unanswered: UNANSWERED
                .map(|reason| self.unanswered.get_or_create_owned(&labels.why(reason))),
        }
    }

    pub fn loaded(&self, took: Duration) {
        observe(&self.load, took, None);
    }

    pub fn load_failed(&self, step: &'static str) {
        self.failures.get_or_create(&StepLabel { step }).inc();
    }

    pub fn swapped(&self, pipeline: &str, revision: u64) {
        let label = PipelineLabel {
            pipeline: pipeline.to_owned(),
        };
        self.swaps.get_or_create(&label).inc();
        self.revision.get_or_create(&label).set(revision);
    }

    /// The metrics of one route of a pipeline; look them up once.
    pub fn variant(
        &self,
        pipeline: &str,
        variant: &str,
        model: &str,
        version: &str,
    ) -> VariantMetrics {
        let labels = VariantLabels {
            pipeline: pipeline.to_owned(),
            variant: variant.to_owned(),
            model: model.to_owned(),
            version: version.to_owned(),
        };
        VariantMetrics {
            records: self.records.get_or_create_owned(&labels),
            missed: self.missed.clone(),
            times: self.times.of(pipeline, model, version),
            labels,
        }
    }

    /// Removes the series of a removed route; its model's too, unless another route of the pipeline has it.
    pub fn forget(&self, variant: &VariantMetrics, model_too: bool) {
        let labels = &variant.labels;
        self.records.remove(labels);
        for missed in Missed::ALL {
            self.missed.remove(&variant.labels.missed(missed));
        }
        if model_too {
            self.times
                .forget(&labels.pipeline, &labels.model, &labels.version);
        }
    }
}

/// Why a record has no prediction of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    Budget,
    Failed,
}

impl Missed {
    const ALL: [Self; 2] = [Self::Budget, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Failed => "failed",
        }
    }
}

impl VariantLabels {
    fn missed(&self, missed: Missed) -> MissedLabels {
        MissedLabels {
            pipeline: self.pipeline.clone(),
            variant: self.variant.clone(),
            model: self.model.clone(),
            version: self.version.clone(),
            reason: missed.name(),
        }
    }
}

impl VersionLabels {
    fn why(&self, reason: &'static str) -> WhyLabels {
        WhyLabels {
            model: self.model.clone(),
            version: self.version.clone(),
            reason,
        }
    }
}

/// One version's queue. Looked up once: what is recorded after the version is gone creates no series again.
pub struct QueueMetrics {
    rows: Histogram,
    wait: Durations,
    /// As [`CLOSED`].
    closed: [Counter; 3],
    /// As [`UNANSWERED`].
    unanswered: [Counter; 4],
}

impl QueueMetrics {
    /// A batch is on its way; `waited`: its first request.
    pub fn closed(&self, reason: &'static str, rows: usize, waited: Duration) {
        count(&CLOSED, &self.closed, reason);
        self.rows.observe(rows as f64);
        observe(&self.wait, waited, None);
    }

    pub fn unanswered(&self, reason: &'static str) {
        count(&UNANSWERED, &self.unanswered, reason);
    }
}

fn count(names: &[&str], counters: &[Counter], name: &str) {
    let mut named = names.iter().zip(counters);
    let counter = named.find(|(known, _)| **known == name);
    debug_assert!(counter.is_some(), "{name} is not counted");
    if let Some((_, counter)) = counter {
        counter.inc();
    }
}

/// One route's metrics. Cheap to clone.
#[derive(Clone)]
pub struct VariantMetrics {
    labels: VariantLabels,
    records: Counter,
    missed: Family<MissedLabels, Counter>,
    pub times: ModelTimes,
}

impl VariantMetrics {
    pub fn scored(&self, records: u64) {
        self.records.inc_by(records);
    }

    /// Records of a batch that a shadow has no prediction for.
    pub fn missed(&self, missed: Missed, records: u64) {
        if records > 0 {
            let counter = self.missed.get_or_create_owned(&self.labels.missed(missed));
            counter.inc_by(records);
        }
    }

    /// For a request, which is counted once it is answered.
    pub fn records(&self) -> VariantRecords {
        VariantRecords(self.records.clone())
    }
}

/// The records that one route answered. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VariantRecords(Counter);

impl VariantRecords {
    pub fn scored(&self, records: usize) {
        self.0.inc_by(records as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_state_and_none_once_it_is_gone() {
        let registry = Registry::default();
        let metrics = ServingMetrics::register(&registry);
        metrics.state("m", "1", Some(ModelState::Loading));
        metrics.state("m", "1", Some(ModelState::Ready));
        let text = registry.encode();
        let line = r#"quadrille_model_state{model="m",version="1",state="ready"} 1"#;
        assert!(
            text.contains(line) && !text.contains("loading\"}"),
            "{text}"
        );
        metrics.state("m", "1", None);
        assert!(!registry.encode().contains("version=\"1\""));
    }

    #[test]
    fn a_route_that_is_gone_leaves_no_series() {
        let registry = Registry::default();
        let metrics = ServingMetrics::register(&registry);
        let variant = metrics.variant("p", "canary", "m", "2");
        variant.scored(3);
        variant.times.compute(Duration::from_millis(1));
        let line = r#"quadrille_variant_records_total{pipeline="p",variant="canary",model="m",version="2"} 3"#;
        assert!(registry.encode().contains(line));
        metrics.forget(&variant, true);
        let text = registry.encode();
        assert!(!text.contains("version=\"2\""), "{text}");
    }
}
