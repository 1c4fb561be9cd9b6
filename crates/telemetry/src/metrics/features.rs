//! Features on request.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::Registry;

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
}

impl FeatureMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        FeatureMetrics {
            requests: registry.family("quadrille.features.requests", "Calls of GetFeatures, by who asked (client, replica) and outcome: where the answer is from (owner, standby, forwarded, computed, stored), or why there is none (unavailable, not_found, …)"),
        }
    }

    /// Creates the counter of a pipeline that an alert looks at, at 0: Prometheus only sees an increase from a first value.
    pub fn begin(&self, pipeline: &str) {
        let labels = RequestLabels::of(pipeline, AskedBy::Client, "unavailable");
        self.requests.get_or_create_owned(&labels);
    }

    pub fn request(&self, pipeline: &str, asked_by: AskedBy, outcome: &'static str) {
        let labels = RequestLabels::of(pipeline, asked_by, outcome);
        self.requests.get_or_create(&labels).inc();
    }
}
