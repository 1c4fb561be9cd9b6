//! Where the collector is, and who we are to it: what traces, metrics and logs have in common.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// What is exported, as the `OTEL_*` variables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
            Signal::Logs => "LOGS",
        }
    }
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default().trim().to_owned()
}

/// The collector this signal goes to; None: it is not exported.
///
/// # Errors
/// Names the variable and what it may be.
pub(crate) fn collector(signal: Signal) -> Result<Option<String>, String> {
    let exporter = format!("OTEL_{}_EXPORTER", signal.name());
    let exports = match variable(&exporter).as_str() {
        "" | "otlp" => true,
        "none" => false,
        other => return Err(format!("{exporter} is {other:?}; it must be otlp or none")),
    };
    let protocol = variable("OTEL_EXPORTER_OTLP_PROTOCOL");
    if !["", "grpc"].contains(&protocol.as_str()) {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}; only grpc is built in"
        ));
    }
    let endpoint = match variable(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name())) {
        own if own.is_empty() => variable("OTEL_EXPORTER_OTLP_ENDPOINT"),
        own => own,
    };
    let off = variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true");
    Ok((exports && !off && !endpoint.is_empty()).then_some(endpoint))
}

/// The message for an endpoint that is no URL.
pub(crate) fn wrong_endpoint(endpoint: &str, error: impl std::fmt::Display) -> String {
    format!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}: {error}; give http://host:4317")
}

/// Who sends: one service, one instance of it.
pub(crate) fn resource(service: &str, instance: &str) -> Resource {
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attributes([
            KeyValue::new("service.namespace", "quadrille"),
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}
