//! The address of the collector, and the resource that we are to it: shared by traces, metrics and logs.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint},
};

/// The default of `OTEL_EXPORTER_OTLP_TIMEOUT`: how long one export may take, in milliseconds.
const TAKEN_WITHIN_MS: u64 = 10_000;

/// A signal, as the `OTEL_*` variables name it.
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

/// The collector for this signal; None: it is not exported.
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

/// A signal's own variable, or else the one for all signals; with the name of the one that is set.
fn of_signal(signal: Signal, what: &str) -> (String, String) {
    let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name());
    let value = variable(&own);
    match value.is_empty() {
        false => (own, value),
        true => {
            let shared = format!("OTEL_EXPORTER_OTLP_{what}");
            let value = variable(&shared);
            (shared, value)
        }
    }
}

/// A connection to the collector, opened on first use. Call it within a tokio runtime.
///
/// # Errors
/// Names the variable and what it may be.
pub(crate) fn channel(endpoint: &str, signal: Signal) -> Result<Channel, String> {
    let within = match of_signal(signal, "TIMEOUT") {
        (_, text) if text.is_empty() => TAKEN_WITHIN_MS,
        (name, text) => match text.parse() {
            Ok(ms) if ms > 0 => ms,
            _ => {
                return Err(format!(
                    "{name} is {text:?}; it must be milliseconds, 1 or more"
                ));
            }
        },
    };
    let endpoint = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| wrong_endpoint(endpoint, error))?;
    let endpoint = endpoint.timeout(Duration::from_millis(within));
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// What `OTEL_EXPORTER_OTLP_HEADERS` sends along: `key=value`, separated by commas, values percent-encoded.
///
/// # Errors
/// Names the variable and what it may be.
pub(crate) fn headers(signal: Signal) -> Result<MetadataMap, String> {
    let (name, text) = of_signal(signal, "HEADERS");
    parse_headers(&text).ok_or_else(|| {
        // Without the value, which may hold a password.
        format!("{name} must be key=value, several separated by commas, values percent-encoded")
    })
}

fn parse_headers(text: &str) -> Option<MetadataMap> {
    let mut headers = MetadataMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim().to_ascii_lowercase();
        let key = AsciiMetadataKey::from_bytes(key.as_bytes()).ok()?;
        let value = AsciiMetadataValue::try_from(percent_decoded(value.trim())?).ok()?;
        headers.insert(key, value);
    }
    Some(headers)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(decoded)
}

/// The message for an endpoint that is no URL.
pub(crate) fn wrong_endpoint(endpoint: &str, error: impl std::fmt::Display) -> String {
    format!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}: {error}; give http://host:4317")
}

/// The resource: one instance of a service.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_writes_them() {
        let headers = parse_headers("api-key=a%20b, X-Tenant = t1 ,").unwrap();
        assert_eq!(headers.get("api-key").unwrap(), "a b");
        assert_eq!(headers.get("x-tenant").unwrap(), "t1");
        assert!(parse_headers("").unwrap().is_empty());
        for wrong in ["key", "=value", "a b=c", "key=%2"] {
            assert!(parse_headers(wrong).is_none(), "{wrong}");
        }
    }
}
