//! The stream's handler: a record in, its feature vector out. State kept by key will live here.

use std::{sync::Arc, time::Instant};

use prost::Message;
use quadrille_choreography::{Handler, Incoming, Item, Output, Schemas, handler};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{
    seal,
    v1::{FeatureVector, Record},
};
use quadrille_service::sealed::{Opener, malformed};

/// Computes the features of a pipeline's records.
pub struct FeatureHandler {
    pipeline: Arc<Pipeline>,
    opener: Opener,
    /// Reused for every record.
    vector: FeatureVector,
}

impl FeatureHandler {
    pub fn new(pipeline: Arc<Pipeline>, schemas: Schemas) -> Self {
        let opener = Opener::new(schemas, pipeline.record_schema());
        FeatureHandler {
            pipeline,
            opener,
            vector: FeatureVector::default(),
        }
    }
}

impl Handler for FeatureHandler {
    type Record = Record;

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut Record,
    ) -> Result<(), handler::Error> {
        let (schema, message) = self.opener.open(incoming)?;
        record.clear();
        record.merge(message).map_err(malformed)?;
        if record.id.is_empty() || record.key.is_empty() {
            return Err(malformed("id or key is empty"));
        }
        self.opener.project(schema, &mut record.values)
    }

    fn handle(&mut self, items: &[Item<'_, Record>], output: &mut Output) {
        let schema = self.pipeline.feature_schema_id();
        let vector = &mut self.vector;
        let start = Instant::now();
        for item in items {
            vector.id.clone_from(&item.record.id);
            vector.key.clone_from(&item.record.key);
            vector.event_time_ms = item.record.event_time_ms;
            self.pipeline
                .features(&item.record.values, &mut vector.values);
            output.emit(|payload| seal(schema, vector, payload));
        }
        output.step("features", start);
    }
}
