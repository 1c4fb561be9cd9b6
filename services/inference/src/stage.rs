//! The stream's handler: feature vectors in, scored together by variant, predictions out.

use std::{ffi::CStr, sync::Arc, time::Instant};

use prost::Message;
use quadrille_choreography::{Handler, Incoming, Item, Output, Schemas, handler};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{
    SchemaId, seal,
    v1::{FeatureVector, Prediction},
};
use quadrille_service::{
    fields::now_ms,
    sealed::{Opener, malformed},
};

use crate::{
    serving::{Routes, Serving, Variant},
    shadows::Shadows,
};

/// The header by which a record chooses its variant, as the loop takes names.
const VARIANT_HEADER: &CStr = c"quadrille-variant";

/// The route of a record that asks for a variant which does not answer; no index of a route, so that routes stay plain numbers.
const UNROUTED: usize = usize::MAX;

/// Scores a pipeline's feature vectors.
pub struct InferenceHandler {
    serving: Serving,
    /// The pipeline's among those that are served.
    place: usize,
    pipeline: Arc<Pipeline>,
    opener: Opener,
    /// The model's inputs of the batch, in order.
    rows: Vec<f64>,
    batch: RoutedBatch,
    shadows: Shadows,
    writer: Writer,
}

impl InferenceHandler {
    /// `place` is the pipeline's in [`Serving::pipelines`].
    pub fn new(serving: Serving, place: usize, schemas: Schemas) -> Self {
        let pipeline = Arc::clone(&serving.pipelines()[place]);
        InferenceHandler {
            opener: Opener::new(schemas, pipeline.feature_schema()),
            writer: Writer {
                schema: pipeline.prediction_schema_id(),
                routes_made: None,
                predictions: Vec::new(),
            },
            serving,
            place,
            pipeline,
            rows: Vec::new(),
            batch: RoutedBatch::default(),
            shadows: Shadows::default(),
        }
    }
}

impl Handler for InferenceHandler {
    type Record = FeatureVector;

    fn is_ready(&self) -> bool {
        self.serving.routes(self.place).is_some()
    }

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        vector: &mut FeatureVector,
    ) -> Result<(), handler::Error> {
        let (schema, message) = self.opener.open(incoming)?;
        vector.clear();
        vector.merge(message).map_err(malformed)?;
        if vector.id.is_empty() || vector.key.is_empty() {
            return Err(malformed("id or key is empty"));
        }
        self.opener.project(schema, &mut vector.values)
    }

    fn handle(&mut self, items: &[Item<'_, FeatureVector>], output: &mut Output) {
        // One deployment for the whole batch; what it holds stays until the batch is decided.
        let Some(routes) = self.serving.routes(self.place) else {
            let wait = || handler::Error::retry("no_model", "no model serves this pipeline");
            items.iter().for_each(|_| output.fail(wait()));
            return;
        };
        let start = Instant::now();
        if let Some(first) = items.first() {
            output.step("batch wait", first.incoming.polled_at);
        }
        self.rows.clear();
        for item in items {
            self.pipeline
                .model_inputs(&item.record.values, &mut self.rows);
        }
        self.batch.route(&routes, items);
        let inputs = self.pipeline.inputs().len();
        self.batch.score(&routes, &self.rows, inputs, output);
        self.shadows.score(&routes, &self.rows, inputs);
        output.step("model", start);
        let scored_at = Instant::now();
        self.writer.start_batch(&routes);
        for (index, item) in items.iter().enumerate() {
            let Some((route, outputs)) = self.batch.outputs(index, &routes) else {
                output.fail(unknown_variant(&routes, item));
                continue;
            };
            let row = &self.rows[index * inputs..(index + 1) * inputs];
            if let Err(no) = routes.variants[route].loaded.check(row, outputs) {
                output.fail(handler::Error::dead_letter("no_prediction", no.to_string()));
                continue;
            }
            let decision = self.pipeline.decide(outputs);
            let payload = self.writer.prediction(route, item, outputs, decision);
            output.emit(|bytes| payload.write(bytes));
            for (shadow, outputs) in self.shadows.beside(&routes, index, row) {
                let decision = self.pipeline.decide(outputs);
                let payload = self.writer.prediction(shadow, item, outputs, decision);
                output.also(|bytes| payload.write(bytes));
            }
        }
        self.shadows.done(&routes);
        self.batch.record_metrics(&routes, items, start, scored_at);
    }
}

/// The variant that a record asks for.
fn chosen<'a>(item: &Item<'a, FeatureVector>) -> Option<&'a [u8]> {
    item.incoming.headers.last_under(VARIANT_HEADER)
}

fn unknown_variant(routes: &Routes, item: &Item<'_, FeatureVector>) -> handler::Error {
    let variant = String::from_utf8_lossy(chosen(item).unwrap_or_default());
    let names: Vec<&str> = routes.split.names().collect();
    let message = format!(
        "no variant {variant:?} answers; available: {}",
        names.join(", ")
    );
    handler::Error::dead_letter("unknown_variant", message)
}

/// A batch's routes and outputs. Buffers are used again.
#[derive(Default)]
struct RoutedBatch {
    /// Each record's, or [`UNROUTED`]; empty where one route has them all.
    routes: Vec<usize>,
    /// The one that has them all, then.
    only: usize,
    /// Where each record's outputs begin, where there are several routes.
    starts: Vec<usize>,
    outputs: Vec<f64>,
    /// One route's inputs.
    rows: Vec<f64>,
}

impl RoutedBatch {
    /// Chooses each record's route.
    fn route(&mut self, routes: &Routes, items: &[Item<'_, FeatureVector>]) {
        self.routes.clear();
        let only = routes.split.only();
        if let Some(only) = only
            && items.iter().all(|item| chosen(item).is_none())
        {
            self.only = only.route;
            return;
        }
        self.routes.extend(items.iter().map(|item| {
            let pick = match chosen(item) {
                None => Some(routes.split.pick(&item.record.key)),
                Some(name) => std::str::from_utf8(name)
                    .ok()
                    .and_then(|name| routes.split.named(name)),
            };
            pick.map_or(UNROUTED, |pick| pick.route)
        }));
    }

    /// Scores each route's records together.
    fn score(&mut self, routes: &Routes, rows: &[f64], inputs: usize, output: &Output) {
        self.outputs.clear();
        if self.routes.is_empty() {
            if !rows.is_empty() {
                compute(&routes.variants[self.only], rows, &mut self.outputs, output);
            }
            return;
        }
        self.starts.clear();
        self.starts.resize(self.routes.len(), 0);
        for (route, variant) in routes.variants.iter().enumerate() {
            let mut end = self.outputs.len();
            self.rows.clear();
            for (index, _) in self.routes.iter().enumerate().filter(|it| *it.1 == route) {
                self.rows
                    .extend_from_slice(&rows[index * inputs..(index + 1) * inputs]);
                self.starts[index] = end;
                end += variant.width;
            }
            if !self.rows.is_empty() {
                compute(variant, &self.rows, &mut self.outputs, output);
            }
        }
    }

    /// A record's route and outputs; None where it asked for a variant that does not answer.
    fn outputs(&self, index: usize, routes: &Routes) -> Option<(usize, &[f64])> {
        if self.routes.is_empty() {
            let width = routes.variants[self.only].width;
            return Some((self.only, &self.outputs[index * width..(index + 1) * width]));
        }
        let route = self.routes[index];
        let width = routes.variants.get(route)?.width;
        let start = self.starts[index];
        Some((route, &self.outputs[start..start + width]))
    }

    /// Counts what each route answered, and how long it took.
    fn record_metrics(
        &self,
        routes: &Routes,
        items: &[Item<'_, FeatureVector>],
        start: Instant,
        scored_at: Instant,
    ) {
        let polled_at = items.first().map_or(start, |item| item.incoming.polled_at);
        for (route, variant) in routes.variants.iter().enumerate() {
            let records = match self.routes.is_empty() {
                true if route == self.only => items.len(),
                true => 0,
                false => self.routes.iter().filter(|it| **it == route).count(),
            };
            if records > 0 {
                variant.metrics.scored(records as u64);
                let times = &variant.metrics.times;
                times.queue(start.saturating_duration_since(polled_at));
                times.output(scored_at.elapsed());
            }
        }
    }
}

fn compute(variant: &Variant, rows: &[f64], outputs: &mut Vec<f64>, output: &Output) {
    let start = Instant::now();
    let mut alive = || output.report_progress();
    variant.loaded.score_alive(rows, outputs, &mut alive);
    variant.metrics.times.compute(start.elapsed());
}

/// Writes predictions: one message for each route, in which model, version, variant and hash stay.
struct Writer {
    schema: SchemaId,
    /// [`Routes::made`] of the routes that they are of; the routes are not held: old models must go.
    routes_made: Option<u64>,
    predictions: Vec<Prediction>,
}

struct Payload<'a> {
    schema: SchemaId,
    prediction: &'a Prediction,
}

impl Payload<'_> {
    fn write(&self, bytes: &mut Vec<u8>) {
        seal(self.schema, self.prediction, bytes);
    }
}

impl Writer {
    fn start_batch(&mut self, routes: &Routes) {
        let now = now_ms();
        if self.routes_made != Some(routes.made) {
            self.routes_made = Some(routes.made);
            let shadows = routes.split.shadows();
            let places = routes.variants.iter().enumerate();
            let templates =
                places.map(|(route, variant)| template(variant, shadows.contains(&route)));
            self.predictions = templates.collect();
        }
        for prediction in &mut self.predictions {
            prediction.predicted_at_ms = now;
        }
    }

    fn prediction(
        &mut self,
        route: usize,
        item: &Item<'_, FeatureVector>,
        outputs: &[f64],
        decision: &str,
    ) -> Payload<'_> {
        let prediction = &mut self.predictions[route];
        prediction.id.clone_from(&item.record.id);
        prediction.key.clone_from(&item.record.key);
        prediction.event_time_ms = item.record.event_time_ms;
        prediction.outputs.clear();
        prediction.outputs.extend_from_slice(outputs);
        if prediction.decision != decision {
            decision.clone_into(&mut prediction.decision);
        }
        if prediction.input_topic.is_empty() {
            item.incoming.topic.clone_into(&mut prediction.input_topic);
        }
        prediction.input_partition = item.incoming.partition;
        prediction.input_offset = item.incoming.offset;
        Payload {
            schema: self.schema,
            prediction,
        }
    }
}

fn template(variant: &Variant, shadow: bool) -> Prediction {
    let id = variant.loaded.id();
    Prediction {
        model: id.name.clone(),
        version: id.version.clone(),
        variant: variant.name.clone(),
        config_hash: variant.config_hash.to_vec(),
        shadow,
        ..Prediction::default()
    }
}
