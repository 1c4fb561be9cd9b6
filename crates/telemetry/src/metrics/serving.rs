//! Durations of requests and of models.

use std::time::Duration;

use opentelemetry::TraceId;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::{DurationFamily, Durations, Registry, observe};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RpcLabels {
    rpc_system_name: &'static str,
    rpc_method: String,
    rpc_response_status_code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HttpLabels {
    http_request_method: String,
    url_scheme: &'static str,
    http_route: String,
    http_response_status_code: u16,
}

/// How long requests take, by OpenTelemetry's conventions. Cheap to clone.
#[derive(Clone)]
pub struct RequestMetrics {
    rpc: DurationFamily<RpcLabels>,
    http: DurationFamily<HttpLabels>,
}

impl RequestMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        RequestMetrics {
            rpc: registry.durations(
                "rpc.server.call.duration",
                "gRPC calls, until the head of the answer",
            ),
            http: registry.durations(
                "http.server.request.duration",
                "HTTP requests, until the head of the answer",
            ),
        }
    }

    /// Of one method and status: `method` is `package.Service/Method`, `status` the code's name.
    pub fn rpc(&self, method: &str, status: &str) -> RpcDurations {
        let labels = RpcLabels {
            rpc_system_name: "grpc",
            rpc_method: method.to_owned(),
            rpc_response_status_code: status.to_owned(),
        };
        RpcDurations(self.rpc.get_or_create_owned(&labels))
    }

    /// `route` is the route's pattern, never the raw path.
    pub fn http(
        &self,
        method: &str,
        route: &str,
        status: u16,
        took: Duration,
        trace: Option<TraceId>,
    ) {
        let labels = HttpLabels {
            http_request_method: method.to_owned(),
            // The services' ports speak no TLS: it ends at a proxy before them.
            url_scheme: "http",
            http_route: route.to_owned(),
            http_response_status_code: status,
        };
        observe(&self.http.get_or_create(&labels), took, trace);
    }
}

/// How long the calls of one method take that end with one status.
#[derive(Debug)]
pub struct RpcDurations(Durations);

impl RpcDurations {
    pub fn observe(&self, took: Duration, trace: Option<TraceId>) {
        observe(&self.0, took, trace);
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabel {
    reason: &'static str,
}

/// Connections of the port, and the requests that it refuses. Cheap to clone.
#[derive(Clone)]
pub struct PortMetrics {
    connections: Gauge,
    refused: Family<RefusedLabel, Counter>,
}

impl PortMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        PortMetrics {
            connections: registry.registered("quadrille.connections", None, "Connections of clients that are open", Gauge::default()),
            refused: registry.family("quadrille.requests.refused", "Requests that were not taken, by reason: connections, requests, body_memory, body_timeout, host, origin, media_type"),
        }
    }

    pub fn connections(&self, open: usize) {
        self.connections
            .set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    pipeline: String,
    model: String,
    version: String,
    model_stage: &'static str,
}

const STAGES: [&str; 3] = ["queue", "compute", "output"];

impl ModelLabels {
    fn of(pipeline: &str, model: &str, version: &str, model_stage: &'static str) -> Self {
        ModelLabels {
            pipeline: pipeline.to_owned(),
            model: model.to_owned(),
            version: version.to_owned(),
            model_stage,
        }
    }
}

/// How models spend their time. Cheap to clone.
#[derive(Clone)]
pub struct ModelMetrics(DurationFamily<ModelLabels>);

impl ModelMetrics {
    /// Registers them; once per service.
    pub fn register(registry: &Registry) -> Self {
        ModelMetrics(registry.durations(
            "quadrille.model.stage.duration",
            "A batch or a request in a model: queue (waiting for it), compute, output",
        ))
    }

    /// The times of one version of a model, looked up once.
    pub fn of(&self, pipeline: &str, model: &str, version: &str) -> ModelTimes {
        let stage = |stage| {
            let labels = ModelLabels::of(pipeline, model, version, stage);
            self.0.get_or_create_owned(&labels)
        };
        let [queue, compute, output] = STAGES.map(stage);
        ModelTimes {
            queue,
            compute,
            output,
        }
    }

    /// Removes the series of a version that no longer serves a pipeline.
    pub fn forget(&self, pipeline: &str, model: &str, version: &str) {
        for stage in STAGES {
            let labels = ModelLabels::of(pipeline, model, version, stage);
            self.0.remove(&labels);
        }
    }
}

/// One model's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelTimes {
    queue: Durations,
    compute: Durations,
    output: Durations,
}

impl ModelTimes {
    pub fn queue(&self, took: Duration) {
        observe(&self.queue, took, None);
    }

    pub fn compute(&self, took: Duration) {
        observe(&self.compute, took, None);
    }

    pub fn output(&self, took: Duration) {
        observe(&self.output, took, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_duration_has_the_attributes_that_are_required() {
        let registry = Registry::default();
        let requests = RequestMetrics::register(&registry);
        requests.http("GET", "/livez", 200, Duration::from_millis(3), None);
        let line = r#"http_server_request_duration_seconds_count{http_request_method="GET",url_scheme="http",http_route="/livez",http_response_status_code="200"} 1"#;
        assert!(registry.encode().contains(line), "{}", registry.encode());
    }

    #[test]
    fn a_traced_request_is_the_example_of_its_bucket() {
        let registry = Registry::default();
        let requests = RequestMetrics::register(&registry);
        let trace = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap();
        let well = requests.rpc("quadrille.v1.PredictService/Predict", "OK");
        well.observe(Duration::from_millis(3), Some(trace));
        let text = registry.encode();
        let bucket = text
            .lines()
            .find(|line| line.contains(r#"le="0.005""#))
            .unwrap();
        assert!(
            bucket.starts_with("rpc_server_call_duration_seconds_bucket{")
                && bucket.contains(r#"# {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.003"#),
            "{bucket}"
        );
    }
}
