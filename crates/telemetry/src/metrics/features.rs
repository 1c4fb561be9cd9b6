//! Features on request, and the state that they are of.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::{PipelineLabel, Registry};

/// Who asks for features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedBy {
    Client,
    /// Another replica, for a client of its own.
    Replica,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    pipeline: String,
    asked_by: &'static str,
    outcome: &'static str,
}

impl RequestLabels {
    fn of(pipeline: &str, asked_by: AskedBy, outcome: &'static str) -> Self {
        RequestLabels {
            pipeline: pipeline.to_owned(),
            asked_by: match asked_by {
                AskedBy::Client => "client",
                AskedBy::Replica => "replica",
            },
            outcome,
        }
    }
}

/// Of the feature service. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FeatureMetrics {
    requests: Family<RequestLabels, Counter>,
    begun_anew: Family<PipelineLabel, Counter>,
}

impl FeatureMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        FeatureMetrics {
            requests: registry.family("quadrille.features.requests", "Calls of GetFeatures, by who asked (client, replica) and outcome: where the answer is from (owner, standby, forwarded, computed, stored), or why there is none (unavailable, not_found, …)"),
            begun_anew: registry.family("quadrille.state.begun_anew", "Partitions taken over whose histories began empty, because their state was of another definition"),
        }
    }

    /// Creates the counters of a pipeline that an alert looks at, at 0: Prometheus only sees an increase from a first value.
    pub fn begin(&self, pipeline: &str) {
        let labels = RequestLabels::of(pipeline, AskedBy::Client, "unavailable");
        self.requests.get_or_create_owned(&labels);
        let pipeline = pipeline.to_owned();
        self.begun_anew
            .get_or_create_owned(&PipelineLabel { pipeline });
    }

    pub fn request(&self, pipeline: &str, asked_by: AskedBy, outcome: &'static str) {
        let labels = RequestLabels::of(pipeline, asked_by, outcome);
        self.requests.get_or_create(&labels).inc();
    }

    /// The state of a partition was of another definition.
    pub fn begun_anew(&self, pipeline: &str) {
        let pipeline = pipeline.to_owned();
        self.begun_anew
            .get_or_create(&PipelineLabel { pipeline })
            .inc();
    }
}
