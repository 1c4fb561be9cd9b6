//! A span of a request: started, given attributes while it runs, exported when it ends.

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use opentelemetry::{
    KeyValue, StringValue,
    trace::{self, SpanContext, SpanKind, Status},
};

use super::{
    export::Queue,
    nanoseconds,
    wire::{Attributes, SpanRecord, Value},
};

/// A span to be begun.
pub struct NewSpan {
    name: Cow<'static, str>,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
}

impl NewSpan {
    pub fn new(name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        NewSpan {
            name: name.into(),
            kind,
            attributes: Vec::new(),
        }
    }

    pub fn with(mut self, attributes: Vec<KeyValue>) -> Self {
        self.attributes = attributes;
        self
    }
}

/// A running span; ends when it is dropped. One that is not recorded only carries its context.
pub struct Span {
    context: SpanContext,
    recorded: Option<Box<Recorded>>,
}

struct Recorded {
    queue: Arc<Queue>,
    parent: Option<SpanContext>,
    span: NewSpan,
    start: SystemTime,
    links: Vec<SpanContext>,
    status: Status,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.context).finish()
    }
}

impl Span {
    pub(super) fn begin(
        queue: &Arc<Queue>,
        context: SpanContext,
        parent: Option<SpanContext>,
        span: NewSpan,
    ) -> Self {
        let recorded = Recorded {
            queue: Arc::clone(queue),
            parent,
            span,
            start: SystemTime::now(),
            links: Vec::new(),
            status: Status::Unset,
        };
        Span {
            context,
            recorded: Some(Box::new(recorded)),
        }
    }

    pub(super) fn unrecorded(context: SpanContext) -> Self {
        Span {
            context,
            recorded: None,
        }
    }

    pub fn span_context(&self) -> &SpanContext {
        &self.context
    }

    /// Marks the span as failed: `class` is short and stable (`error.type`), `message` is for people.
    pub fn fail(&mut self, class: &'static str, reason: &str) {
        trace::Span::set_attribute(self, KeyValue::new("error.type", class));
        trace::Span::set_status(self, Status::error(reason.to_owned()));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        trace::Span::end(self);
    }
}

impl trace::Span for Span {
    /// Ignored: events are logs, which are exported on their own.
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(
        &mut self,
        _: T,
        _: SystemTime,
        _: Vec<KeyValue>,
    ) {
    }

    fn span_context(&self) -> &SpanContext {
        &self.context
    }

    fn is_recording(&self) -> bool {
        self.recorded.is_some()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.attributes.push(attribute);
        }
    }

    fn set_status(&mut self, status: Status) {
        if let Some(recorded) = &mut self.recorded {
            recorded.status = status;
        }
    }

    fn update_name<T: Into<Cow<'static, str>>>(&mut self, name: T) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.name = name.into();
        }
    }

    fn add_link(&mut self, context: SpanContext, _: Vec<KeyValue>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.links.push(context);
        }
    }

    fn end_with_timestamp(&mut self, end: SystemTime) {
        let Some(recorded) = self.recorded.take() else {
            return;
        };
        let mut attributes = Attributes::default();
        for attribute in &recorded.span.attributes {
            push(&mut attributes, attribute);
        }
        let error = match &recorded.status {
            Status::Error { description } => Some(("", &**description)),
            Status::Unset | Status::Ok => None,
        };
        let record = SpanRecord {
            context: &self.context,
            parent: recorded.parent.as_ref(),
            name: &recorded.span.name,
            kind: &recorded.span.kind,
            start_ns: nanoseconds(recorded.start),
            end_ns: nanoseconds(end),
            attributes: [attributes.as_bytes(), &[]],
            links: [None, None],
            error,
        };
        recorded.queue.put_one(&record, &recorded.links);
    }
}

fn push(attributes: &mut Attributes, attribute: &KeyValue) {
    let key = attribute.key.as_str();
    match &attribute.value {
        opentelemetry::Value::Bool(flag) => attributes.push(key, Value::Flag(*flag)),
        opentelemetry::Value::I64(number) => attributes.push(key, Value::Number(*number)),
        opentelemetry::Value::F64(number) => attributes.push(key, Value::Float(*number)),
        opentelemetry::Value::String(text) => {
            attributes.push(key, Value::Text(StringValue::as_str(text)));
        }
        // We use no lists; their text is better than nothing.
        other => attributes.push(key, Value::Text(&other.as_str())),
    }
}
