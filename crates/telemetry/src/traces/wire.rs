//! Spans as OTLP's protobuf, written field by field: no intermediate message, no allocation per span.
//!
//! Field numbers are those of opentelemetry-proto, `trace/v1/trace.proto` and `common/v1/common.proto`.

use opentelemetry::{
    SpanId,
    trace::{SpanContext, SpanKind},
};

/// In `Span.flags`: whether the parent is another process's is known, and that it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// `Status.code` of an error.
const ERROR: u64 = 2;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// An attribute's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Float(f64),
    Flag(bool),
}

/// Attributes, encoded once and used for many spans.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn push(&mut self, key: &str, value: Value<'_>) {
        attribute(&mut self.0, key, value);
    }

    /// As [`Attributes::push`], for chains.
    pub fn with(mut self, key: &str, value: Value<'_>) -> Self {
        self.push(key, value);
        self
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn attribute(out: &mut Vec<u8>, key: &str, value: Value<'_>) {
    let any = 1 + match value {
        Value::Text(text) => varint_len(text.len() as u64) + text.len(),
        Value::Number(number) => varint_len(number as u64),
        Value::Float(_) => 8,
        Value::Flag(_) => 1,
    };
    let key_len = 1 + varint_len(key.len() as u64) + key.len();
    tag(out, 9, LENGTH);
    varint(out, (key_len + 1 + varint_len(any as u64) + any) as u64);
    bytes(out, 1, key.as_bytes());
    tag(out, 2, LENGTH);
    varint(out, any as u64);
    match value {
        Value::Text(text) => bytes(out, 1, text.as_bytes()),
        Value::Flag(flag) => number(out, 2, u64::from(flag)),
        Value::Number(value) => number(out, 3, value as u64),
        Value::Float(value) => fixed64(out, 4, value.to_bits()),
    }
}

/// A span that has ended.
#[derive(Debug, Clone, Copy)]
pub struct SpanRecord<'a> {
    pub context: &'a SpanContext,
    pub parent: Option<&'a SpanContext>,
    pub name: &'a str,
    pub kind: &'a SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub start_ns: u64,
    pub end_ns: u64,
    /// Encoded by [`Attributes`].
    pub attributes: [&'a [u8]; 2],
    pub links: [Option<&'a SpanContext>; 2],
    /// `error.type` and the message.
    pub error: Option<(&'a str, &'a str)>,
}

/// Appends a span as an element of `ScopeSpans.spans`; `scratch` is overwritten.
pub(super) fn append(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    span: &SpanRecord<'_>,
    more_links: &[SpanContext],
) {
    scratch.clear();
    bytes(scratch, 1, &span.context.trace_id().to_bytes());
    bytes(scratch, 2, &span.context.span_id().to_bytes());
    state(scratch, span.context);
    let mut flags = u32::from(span.context.trace_flags().to_u8()) | HAS_IS_REMOTE;
    if let Some(parent) = span.parent
        && parent.span_id() != SpanId::INVALID
    {
        bytes(scratch, 4, &parent.span_id().to_bytes());
        if parent.is_remote() {
            flags |= IS_REMOTE;
        }
    }
    bytes(scratch, 5, span.name.as_bytes());
    number(scratch, 6, kind(span.kind));
    fixed64(scratch, 7, span.start_ns);
    fixed64(scratch, 8, span.end_ns);
    for attributes in span.attributes {
        scratch.extend_from_slice(attributes);
    }
    if let Some((class, message)) = span.error {
        error(scratch, class, message);
    }
    let links = span.links.into_iter().flatten().chain(more_links);
    for context in links {
        link(scratch, context);
    }
    fixed32(scratch, 16, flags);
    tag(out, 2, LENGTH);
    varint(out, scratch.len() as u64);
    out.extend_from_slice(scratch);
}

fn error(out: &mut Vec<u8>, class: &str, message: &str) {
    if !class.is_empty() {
        attribute(out, "error.type", Value::Text(class));
    }
    let len = 1 + varint_len(message.len() as u64) + message.len() + 2;
    tag(out, 15, LENGTH);
    varint(out, len as u64);
    bytes(out, 2, message.as_bytes());
    number(out, 3, ERROR);
}

fn link(out: &mut Vec<u8>, context: &SpanContext) {
    let header = context.trace_state().header();
    let state_len = match header.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    };
    let mut flags = u32::from(context.trace_flags().to_u8()) | HAS_IS_REMOTE;
    if context.is_remote() {
        flags |= IS_REMOTE;
    }
    tag(out, 13, LENGTH);
    varint(out, (18 + 10 + state_len + 5) as u64);
    bytes(out, 1, &context.trace_id().to_bytes());
    bytes(out, 2, &context.span_id().to_bytes());
    if !header.is_empty() {
        bytes(out, 3, header.as_bytes());
    }
    fixed32(out, 6, flags);
}

fn state(out: &mut Vec<u8>, context: &SpanContext) {
    let header = context.trace_state().header();
    if !header.is_empty() {
        bytes(out, 3, header.as_bytes());
    }
}

fn kind(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

/// `ExportTraceServiceRequest` around spans that [`append`] has written: `resource` is an encoded
/// `Resource`, `scope` an encoded `InstrumentationScope`. Calls `put` with the parts, in order.
pub(super) fn request(resource: &[u8], scope: &[u8], spans: &[u8], mut put: impl FnMut(&[u8])) {
    let field = |content: usize| 1 + varint_len(content as u64) + content;
    let scope_spans = field(scope.len()) + spans.len();
    let mut head = Vec::with_capacity(resource.len() + scope.len() + 32);
    tag(&mut head, 1, LENGTH);
    varint(
        &mut head,
        (field(resource.len()) + field(scope_spans)) as u64,
    );
    bytes(&mut head, 1, resource);
    tag(&mut head, 2, LENGTH);
    varint(&mut head, scope_spans as u64);
    bytes(&mut head, 1, scope);
    put(&head);
    put(spans);
}

fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn fixed32(out: &mut Vec<u8>, field: u64, value: u32) {
    tag(out, field, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use opentelemetry::{TraceFlags, TraceId, trace::TraceState};
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Link},
    };
    use prost::Message;

    use super::*;

    fn context(byte: u8, remote: bool, state: &str) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes([byte; 16]),
            SpanId::from_bytes([byte + 1; 8]),
            TraceFlags::SAMPLED,
            remote,
            state.parse().unwrap_or(TraceState::NONE),
        )
    }

    fn key_value(key: &str, value: any_value::Value) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        }
    }

    /// What the generated messages say of the same span is the specification.
    #[test]
    fn a_request_reads_back_as_opentelemetry_writes_it() {
        let (own, parent) = (context(1, false, "a=1"), context(9, true, ""));
        let long = "x".repeat(300);
        let attributes = Attributes::default()
            .with("text", Value::Text(&long))
            .with("number", Value::Number(-7))
            .with("large", Value::Number(1 << 40))
            .with("float", Value::Float(0.5))
            .with("flag", Value::Flag(true));
        let own_attributes = Attributes::default().with("empty", Value::Text(""));
        let record = SpanRecord {
            context: &own,
            parent: Some(&parent),
            name: "process p.inbox",
            kind: &SpanKind::Consumer,
            start_ns: 1_700_000_000_000_000_000,
            end_ns: 1_700_000_000_000_000_001,
            attributes: [attributes.as_bytes(), own_attributes.as_bytes()],
            links: [Some(&parent), None],
            error: Some(("retry", "again")),
        };
        let (mut spans, mut scratch) = (Vec::new(), Vec::new());
        append(&mut spans, &mut scratch, &record, &[]);
        append(
            &mut spans,
            &mut scratch,
            &record,
            std::slice::from_ref(&own),
        );
        let resource = Resource {
            attributes: vec![key_value(
                "service.name",
                any_value::Value::StringValue("feature".to_owned()),
            )],
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: "quadrille".to_owned(),
            ..InstrumentationScope::default()
        };
        let mut wire = Vec::new();
        request(
            &resource.encode_to_vec(),
            &scope.encode_to_vec(),
            &spans,
            |part| wire.extend_from_slice(part),
        );
        let link = |context: &SpanContext, flags| Link {
            trace_id: context.trace_id().to_bytes().to_vec(),
            span_id: context.span_id().to_bytes().to_vec(),
            trace_state: context.trace_state().header(),
            flags,
            ..Link::default()
        };
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            trace_state: "a=1".to_owned(),
            parent_span_id: vec![10; 8],
            flags: 0x301,
            name: "process p.inbox".to_owned(),
            kind: 5,
            start_time_unix_nano: 1_700_000_000_000_000_000,
            end_time_unix_nano: 1_700_000_000_000_000_001,
            attributes: vec![
                key_value("text", any_value::Value::StringValue(long.clone())),
                key_value("number", any_value::Value::IntValue(-7)),
                key_value("large", any_value::Value::IntValue(1 << 40)),
                key_value("float", any_value::Value::DoubleValue(0.5)),
                key_value("flag", any_value::Value::BoolValue(true)),
                key_value("empty", any_value::Value::StringValue(String::new())),
                key_value(
                    "error.type",
                    any_value::Value::StringValue("retry".to_owned()),
                ),
            ],
            links: vec![link(&parent, 0x301)],
            status: Some(Status {
                message: "again".to_owned(),
                code: 2,
            }),
            ..Span::default()
        };
        let mut second = span.clone();
        second.links.push(link(&own, 0x101));
        let expected = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: vec![span, second],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let read = ExportTraceServiceRequest::decode(&wire[..]).unwrap();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_varint_is_as_long_as_is_said() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
        }
    }
}
