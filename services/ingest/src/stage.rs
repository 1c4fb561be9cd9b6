//! The inbox's handler: JSON as users produce it in, a `Record` out, on the partition of its key.

use std::sync::Arc;

use quadrille_choreography::{
    Handler, Incoming, Item, ORIGIN_HEADER, Output, StageIdentity, handler, position_id,
};
use quadrille_pipeline::{Pipeline, Reading};
use quadrille_proto::{seal, v1::Record};
use quadrille_service::fields::now_ms;

use crate::Bounds;

/// Reads a pipeline's inbox.
pub struct InboxHandler {
    pipeline: Arc<Pipeline>,
    bounds: Bounds,
    /// None on the embedded broker, which forgets everything.
    identity: Option<Arc<StageIdentity>>,
    /// Reused for every record.
    record: Record,
}

impl InboxHandler {
    pub fn new(
        pipeline: Arc<Pipeline>,
        bounds: Bounds,
        identity: Option<Arc<StageIdentity>>,
    ) -> Self {
        InboxHandler {
            pipeline,
            bounds,
            identity,
            record: Record::default(),
        }
    }
}

impl Handler for InboxHandler {
    type Record = Reading;

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        reading: &mut Reading,
    ) -> Result<(), handler::Error> {
        let payload = incoming.payload.ok_or_else(|| {
            handler::Error::dead_letter("tombstone", "the record has no value; send a JSON object")
        })?;
        self.bounds
            .check_record(payload.len())
            .map_err(|m| handler::Error::dead_letter("too_large", m))?;
        self.pipeline
            .read_json_into(payload, now_ms(), reading)
            .map_err(|invalid| handler::Error::dead_letter(invalid.class(), invalid.to_string()))
    }

    fn handle(&mut self, items: &[Item<'_, Reading>], output: &mut Output) {
        let schema = self.pipeline.record_schema_id();
        let generation = self.identity.as_ref().map_or(0, |it| it.generation());
        let record = &mut self.record;
        for Item {
            record: reading,
            incoming,
        } in items
        {
            match &reading.id {
                Some(id) => record.id.clone_from(id),
                None => record.id = place_of(incoming, generation),
            }
            record.key.clone_from(&reading.key);
            record.event_time_ms = match (reading.event_time_ms, incoming.timestamp_ms) {
                (Some(time_ms), _) => time_ms,
                (None, None) => now_ms(),
                (None, Some(timestamp_ms)) => {
                    match self.pipeline.check_timestamp(timestamp_ms, now_ms()) {
                        Ok(time_ms) => time_ms,
                        Err(invalid) => {
                            let (class, why) = (invalid.class(), invalid.to_string());
                            output.fail(handler::Error::dead_letter(class, why));
                            continue;
                        }
                    }
                }
            };
            record.values.clone_from(&reading.values);
            record.extra.clone_from(&reading.extra);
            output.emit_keyed(reading.key.as_bytes(), |payload| {
                seal(schema, record, payload)
            });
        }
    }
}

/// The id of a record that has none: where it lies, or first lay before it was redriven.
fn place_of(incoming: &Incoming<'_>, generation: u64) -> String {
    match incoming.headers.last_text(ORIGIN_HEADER) {
        Some(origin) => origin.to_owned(),
        None => position_id(
            incoming.topic,
            incoming.partition,
            incoming.offset,
            generation,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use quadrille_choreography::Headers;

    use super::*;

    fn incoming(payload: Option<&'static [u8]>) -> Incoming<'static> {
        Incoming {
            topic: "diabetes.inbox",
            partition: 3,
            offset: 42,
            key: None,
            payload,
            timestamp_ms: Some(1_700_000_000_000),
            headers: Headers::default(),
            polled_at: Instant::now(),
        }
    }

    fn handler() -> InboxHandler {
        let text = include_str!("../../../pipelines/diabetes.toml");
        let pipeline = Pipeline::parse("diabetes.toml", text).unwrap();
        InboxHandler::new(Arc::new(pipeline), Bounds::default(), None)
    }

    #[test]
    fn a_record_without_an_id_is_named_after_its_place() {
        use prost::Message;
        let mut handler = handler();
        let json = br#"{"patient_id":"p-1","pregnant":6,"glucose":148,"pressure":72,"triceps":35,"insulin":0,"mass":33.6,"pedigree":0.627,"age":50}"#;
        let incoming = incoming(Some(json));
        let mut reading = Reading::default();
        handler.decode(&incoming, &mut reading).unwrap();
        let mut output = Output::default();
        handler.handle(
            &[Item {
                record: &reading,
                incoming: &incoming,
            }],
            &mut output,
        );
        let (_, message) = quadrille_proto::open(output.payload(0).unwrap()).unwrap();
        let record = Record::decode(message).unwrap();
        assert_eq!(record.id, "diabetes.inbox-3-42");
        assert_eq!(record.key, "p-1");
        assert_eq!(record.event_time_ms, 1_700_000_000_000);
        assert!(
            record.values[4].is_nan(),
            "an insulin of 0 was not measured"
        );
    }

    #[test]
    fn a_tombstone_and_an_oversized_value_are_dead_letters() {
        let mut handler = handler();
        handler.bounds.record_bytes_max = 10;
        let class = |failure| match failure {
            Err(handler::Error::DeadLetter(cause)) => cause.class,
            other => panic!("{other:?}"),
        };
        let mut reading = Reading::default();
        assert_eq!(
            class(handler.decode(&incoming(None), &mut reading)),
            "tombstone"
        );
        assert_eq!(
            class(handler.decode(&incoming(Some(b"{\"a\": \"bcd\"}")), &mut reading)),
            "too_large"
        );
    }
}
