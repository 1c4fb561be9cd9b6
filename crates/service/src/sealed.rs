//! Opening what another service sealed: schema id, protobuf, and the writer's order of values.

use std::{collections::HashMap, sync::Arc};

use quadrille_choreography::{Incoming, Lookup, Schemas, handler};
use quadrille_pipeline::Projection;
use quadrille_proto::{Schema, SchemaId, open};

/// Opens payloads for one reader's schema. One per lane; it asks Kafka only for schema ids it has not seen.
pub struct Opener {
    schemas: Schemas,
    reader: Arc<Schema>,
    reader_id: SchemaId,
    /// Schemas seen so far and how to read them: bounded by the schemas ever published.
    known: HashMap<SchemaId, Result<Projection, String>>,
    scratch: Vec<f64>,
}

impl Opener {
    /// `reader` is the schema whose order of values the service wants.
    pub fn new(schemas: Schemas, reader: &Schema) -> Self {
        Opener {
            schemas,
            reader: Arc::new(reader.clone()),
            reader_id: reader.id(),
            known: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// The schema id and the encoded message of a record.
    ///
    /// # Errors
    /// It is a tombstone, too short, or its schema is unknown (dead letters) or cannot be looked up (retried).
    pub fn open<'a>(
        &mut self,
        incoming: &Incoming<'a>,
    ) -> Result<(SchemaId, &'a [u8]), handler::Error> {
        let payload = incoming.payload.ok_or_else(|| {
            handler::Error::dead_letter(
                "tombstone",
                "the record has no value; only Quadrille's services write this topic",
            )
        })?;
        let (id, message) = open(payload)
            .map_err(|error| handler::Error::dead_letter("unknown_schema", error.to_string()))?;
        if id != self.reader_id && !self.known.contains_key(&id) {
            self.learn(id, incoming)?;
        }
        if let Some(Err(reason)) = self.known.get(&id) {
            return Err(handler::Error::dead_letter("wrong_schema", reason.clone()));
        }
        Ok((id, message))
    }

    fn learn(&mut self, id: SchemaId, incoming: &Incoming<'_>) -> Result<(), handler::Error> {
        match self.schemas.lookup(id, incoming.polled_at) {
            Lookup::Known(schema) => {
                let projection =
                    Projection::new(&schema, &self.reader).map_err(|error| error.to_string());
                self.known.insert(id, projection);
                Ok(())
            }
            Lookup::Unknown => Err(handler::Error::dead_letter(
                "unknown_schema",
                format!(
                    "schema id {id} was never published; only Quadrille's services write this topic"
                ),
            )),
            Lookup::Unreadable(reason) => Err(handler::Error::retry("schemas_unreadable", reason)),
        }
    }

    /// Brings a writer's values into the reader's order; values that the writer did not have are NaN, missing.
    ///
    /// # Errors
    /// Their number differs from the schema's: the payload does not match its schema id.
    pub fn project(&mut self, id: SchemaId, values: &mut Vec<f64>) -> Result<(), handler::Error> {
        let width = self.reader.fields.len();
        if id != self.reader_id
            && let Some(Ok(projection)) = self.known.get(&id)
            && !projection.is_identity()
        {
            projection.apply(values, &mut self.scratch);
            std::mem::swap(values, &mut self.scratch);
        }
        has_width(values, width)
    }

    /// Checks values that are taken as they were written.
    ///
    /// # Errors
    /// As [`Opener::project`].
    pub fn check(&self, id: SchemaId, values: &[f64]) -> Result<(), handler::Error> {
        let width = match self.known.get(&id) {
            Some(Ok(projection)) if id != self.reader_id => projection.writer_width(),
            _ => self.reader.fields.len(),
        };
        has_width(values, width)
    }
}

fn has_width(values: &[f64], width: usize) -> Result<(), handler::Error> {
    if values.len() != width {
        let message = format!("{} values, the schema has {width}", values.len());
        return Err(handler::Error::dead_letter("malformed", message));
    }
    Ok(())
}

/// The failure of a payload that is no message of its kind.
pub fn malformed(error: impl std::fmt::Display) -> handler::Error {
    handler::Error::dead_letter("malformed", format!("the payload does not decode: {error}"))
}
