//! How a lane's spans are written, one function for each kind.

use std::time::Instant;

use opentelemetry::trace::{SpanContext, SpanKind};
use quadrille_telemetry::traces::{Attributes, LINKS_MAX, SpanRecord, Value};

use super::{
    Spans, Step, Traced,
    attributes::{key, place},
};
use crate::Incoming;

impl Spans {
    /// The batch's own span, linked to the records it brought.
    pub(super) fn record_poll(&mut self, records: usize, first_at: Instant, polled_at: Instant) {
        let context = self.tracing.context(None);
        let parents = self.records.iter().filter_map(|r| r.parent.clone());
        let links: Vec<SpanContext> = parents.take(LINKS_MAX).collect();
        self.scratch.clear();
        let count = Value::Number(records as i64);
        self.scratch.push("messaging.batch.message_count", count);
        let span = SpanRecord {
            context: &context,
            parent: None,
            name: &self.poll.name,
            kind: &self.poll.kind,
            start_ns: self.time(first_at),
            end_ns: self.time(polled_at),
            attributes: [self.poll.attributes.as_bytes(), self.scratch.as_bytes()],
            links: [None, None],
            error: None,
        };
        self.recorder.record_linked(&span, &links);
        self.batch = Some(context);
    }

    pub(super) fn record_steps(&mut self, traced: &Traced, steps: &[Step]) {
        for step in steps {
            let context = self.tracing.context(Some(&traced.context));
            self.recorder.record(&SpanRecord {
                context: &context,
                parent: Some(&traced.context),
                name: step.name,
                kind: &SpanKind::Internal,
                start_ns: self.time(step.start),
                end_ns: self.time(step.end),
                attributes: [&[], &[]],
                links: [None, None],
                error: None,
            });
        }
    }

    pub(super) fn record_sent(&mut self, now_ns: u64, failure: Option<(&str, &str)>) {
        for sent in &self.sent {
            let kind = &self.outputs[sent.output].1;
            self.recorder.record(&SpanRecord {
                context: &sent.context,
                parent: Some(&sent.parent),
                name: &kind.name,
                kind: &kind.kind,
                start_ns: sent.start_ns,
                end_ns: self.delivered_ns.unwrap_or(now_ns),
                attributes: [
                    kind.attributes.as_bytes(),
                    &self.sent_attributes[sent.attributes.clone()],
                ],
                links: [None, None],
                // What Kafka has confirmed was sent, whatever became of the batch.
                error: failure.filter(|_| self.delivered_ns.is_none()),
            });
        }
        self.sent.clear();
    }

    pub(super) fn record_store(
        &mut self,
        traced: &Traced,
        store: &(&str, Attributes),
        settled: (u64, u64),
    ) {
        let context = self.tracing.context(Some(&traced.context));
        self.recorder.record(&SpanRecord {
            context: &context,
            parent: Some(&traced.context),
            name: store.0,
            kind: &SpanKind::Client,
            start_ns: settled.0,
            end_ns: settled.1,
            attributes: [store.1.as_bytes(), &[]],
            links: [None, None],
            error: None,
        });
    }

    pub(super) fn record_commit(
        &mut self,
        traced: &Traced,
        record: &Incoming<'_>,
        settled: (u64, u64),
    ) {
        let context = self.tracing.context(Some(&traced.context));
        place(&mut self.scratch, record);
        self.recorder.record(&SpanRecord {
            context: &context,
            parent: Some(&traced.context),
            name: &self.commit.name,
            kind: &self.commit.kind,
            start_ns: settled.0,
            end_ns: settled.1,
            attributes: [self.commit.attributes.as_bytes(), self.scratch.as_bytes()],
            links: [None, None],
            error: None,
        });
    }

    pub(super) fn record_process(
        &mut self,
        traced: &Traced,
        record: &Incoming<'_>,
        end_ns: u64,
        error: Option<(&str, &str)>,
    ) {
        place(&mut self.scratch, record);
        key(&mut self.scratch, record.key);
        if record.payload.is_none() {
            self.scratch
                .push("messaging.kafka.message.tombstone", Value::Flag(true));
        }
        self.recorder.record(&SpanRecord {
            context: &traced.context,
            parent: traced.parent.as_ref(),
            name: &self.process.name,
            kind: &self.process.kind,
            start_ns: traced.start_ns,
            end_ns,
            attributes: [self.process.attributes.as_bytes(), self.scratch.as_bytes()],
            links: [traced.parent.as_ref(), self.batch.as_ref()],
            error,
        });
    }
}
