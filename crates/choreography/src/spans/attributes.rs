//! Attributes of spans by OpenTelemetry's conventions for messaging, and contexts in records' headers.

use std::ffi::CStr;

use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanKind},
};
use quadrille_telemetry::{
    propagation::{TRACEPARENT, TRACESTATE},
    traces::{Attributes, Traceparent, Value, context_of},
};
use rdkafka::message::{Header, OwnedHeaders};

use crate::{Incoming, StageConfig, native};

/// [`TRACEPARENT`], as librdkafka takes names.
pub(super) const TRACEPARENT_NAME: &CStr = c"traceparent";

/// What the spans of one kind have in common.
pub(super) struct Kind {
    pub name: String,
    pub kind: SpanKind,
    pub attributes: Attributes,
}

impl Kind {
    pub fn new(operation: (&str, &str), kind: SpanKind, topic: &str, common: &Attributes) -> Self {
        let (name, r#type) = operation;
        let mut attributes = common.clone();
        attributes.push("messaging.operation.name", Value::Text(name));
        attributes.push("messaging.operation.type", Value::Text(r#type));
        attributes.push("messaging.destination.name", Value::Text(topic));
        Kind {
            name: format!("{name} {topic}"),
            kind,
            attributes,
        }
    }
}

/// What spans say of a broker and a client.
pub(super) fn clients(config: &StageConfig, lane: usize, group: bool) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.push("messaging.system", Value::Text("kafka"));
    if group {
        attributes.push("messaging.consumer.group.name", Value::Text(&config.group));
    }
    let client = config.lane_name(lane);
    attributes.push("messaging.client.id", Value::Text(&client));
    let (host, port) = server(config.cluster.bootstrap_servers());
    attributes.push("server.address", Value::Text(host));
    if let Some(port) = port {
        attributes.push("server.port", Value::Number(port));
    }
    attributes
}

/// The context a record came with, where it is valid.
pub(super) fn context(record: &Incoming<'_>) -> Option<SpanContext> {
    let traceparent = record.headers.last_under(TRACEPARENT_NAME)?;
    context_of(traceparent, record.headers.last_text(TRACESTATE))
}

/// Where a record lies.
pub(super) fn place(scratch: &mut Attributes, record: &Incoming<'_>) {
    scratch.clear();
    partition(scratch, record.partition);
    scratch.push("messaging.kafka.offset", Value::Number(record.offset));
}

pub(super) fn partition(scratch: &mut Attributes, partition: i32) {
    let text = partition.to_string();
    scratch.push("messaging.destination.partition.id", Value::Text(&text));
}

pub(super) fn key(scratch: &mut Attributes, key: Option<&[u8]>) {
    if let Some(key) = key.and_then(|key| std::str::from_utf8(key).ok()) {
        scratch.push("messaging.kafka.message.key", Value::Text(key));
    }
}

/// The first bootstrap server: host and port.
fn server(bootstrap_servers: &str) -> (&str, Option<i64>) {
    let first = bootstrap_servers
        .split(',')
        .next()
        .unwrap_or_default()
        .trim();
    match first.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (first, None),
    }
}

/// What every `send` span of a producer outside the lanes says.
pub(crate) fn sender(client: &str, bootstrap_servers: &str) -> Vec<KeyValue> {
    let (host, port) = server(bootstrap_servers);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.client.id", client.to_owned()),
        KeyValue::new("messaging.operation.name", "send"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("server.address", host.to_owned()),
    ];
    attributes.extend(port.map(|port| KeyValue::new("server.port", port)));
    attributes
}

/// Puts a context into a record's headers, in place of the one it came with.
pub(crate) fn inject(headers: Option<OwnedHeaders>, context: &SpanContext) -> OwnedHeaders {
    let mut headers = headers.unwrap_or_else(|| OwnedHeaders::new_with_capacity(1));
    native::remove_header(&mut headers, TRACEPARENT_NAME);
    headers.insert(Header {
        key: TRACEPARENT,
        value: Some(Traceparent::of(context).as_bytes()),
    })
}
