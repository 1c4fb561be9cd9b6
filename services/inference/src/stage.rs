//! The stream's handler: feature vectors in, scored together, predictions out.

use std::{sync::Arc, time::Instant};

use prost::Message;
use quadrille_choreography::{Failure, Handler, Incoming, Item, Output, Schemas};
use quadrille_proto::{
    seal,
    v1::{FeatureVector, Prediction},
};
use quadrille_service::{
    fields::now_ms,
    sealed::{Opener, malformed},
};
use quadrille_telemetry::metrics::ModelTimes;

use crate::Scorer;

/// Scores a pipeline's feature vectors.
pub struct InferenceHandler {
    scorer: Arc<Scorer>,
    times: ModelTimes,
    opener: Opener,
    rows: Vec<f64>,
    probabilities: Vec<f64>,
    /// Reused for every record; model, version and hash stay.
    prediction: Prediction,
}

impl InferenceHandler {
    pub fn new(scorer: Arc<Scorer>, times: ModelTimes, schemas: Schemas) -> Self {
        let pipeline = scorer.pipeline();
        let prediction = Prediction {
            model: scorer.model().to_owned(),
            version: scorer.version().to_owned(),
            config_hash: scorer.config_hash().to_vec(),
            outputs: vec![0.0],
            ..Prediction::default()
        };
        InferenceHandler {
            opener: Opener::new(schemas, pipeline.feature_schema()),
            scorer,
            times,
            rows: Vec::new(),
            probabilities: Vec::new(),
            prediction,
        }
    }
}

impl Handler for InferenceHandler {
    type Record = FeatureVector;

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        vector: &mut FeatureVector,
    ) -> Result<(), Failure> {
        let (schema, message) = self.opener.open(incoming)?;
        vector.clear();
        vector.merge(message).map_err(malformed)?;
        if vector.id.is_empty() || vector.key.is_empty() {
            return Err(malformed("id or key is empty"));
        }
        self.opener.project(schema, &mut vector.values)
    }

    fn handle(&mut self, items: &[Item<'_, FeatureVector>], output: &mut Output) {
        let pipeline = self.scorer.pipeline();
        if let Some(first) = items.first() {
            output.step("batch wait", first.incoming.polled_at);
            self.times.queue(first.incoming.polled_at.elapsed());
        }
        let start = Instant::now();
        self.rows.clear();
        for item in items {
            pipeline.model_inputs(&item.record.values, &mut self.rows);
        }
        self.probabilities.clear();
        self.scorer.score(&self.rows, &mut self.probabilities);
        output.step("model", start);
        let scored = Instant::now();
        self.times.compute(scored - start);
        let schema = pipeline.prediction_schema_id();
        let prediction = &mut self.prediction;
        prediction.predicted_at_ms = now_ms();
        for (item, probability) in items.iter().zip(&self.probabilities) {
            prediction.id.clone_from(&item.record.id);
            prediction.key.clone_from(&item.record.key);
            prediction.event_time_ms = item.record.event_time_ms;
            prediction.outputs[0] = *probability;
            let decision = pipeline.decide(*probability);
            if prediction.decision != decision {
                decision.clone_into(&mut prediction.decision);
            }
            if prediction.input_topic.is_empty() {
                item.incoming.topic.clone_into(&mut prediction.input_topic);
            }
            prediction.input_partition = item.incoming.partition;
            prediction.input_offset = item.incoming.offset;
            output.emit(|payload| seal(schema, prediction, payload));
        }
        self.times.output(scored.elapsed());
    }
}
