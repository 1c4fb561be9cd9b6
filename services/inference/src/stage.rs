//! The stream's handler: feature vectors in, scored together by variant, predictions out.

use std::{
    ffi::CStr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use quadrille_choreography::{Failure, Handler, Incoming, Item, Output, Schemas};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{
    SchemaId, seal,
    v1::{FeatureVector, Prediction},
};
use quadrille_service::{
    fields::now_ms,
    sealed::{Opener, malformed},
};
use quadrille_telemetry::metrics::Missed;

use crate::serving::{Routes, Serving, Variant};

/// The header by which a record chooses its variant, as the loop takes names.
const VARIANT_HEADER: &CStr = c"quadrille-variant";

/// All shadows' time of one batch of a lane. Live outputs go out after it, so it is what shadows may add to a record's latency and take of a
/// lane. Much more than a shadow as fast as its pipeline needs, so that a busy machine costs it nothing.
const SHADOW_BUDGET: Duration = Duration::from_millis(100);

/// What a record's route is where the variant that it asks for does not answer.
const NOWHERE: usize = usize::MAX;

/// Scores a pipeline's feature vectors.
pub struct InferenceHandler {
    serving: Serving,
    /// The pipeline's among those that are served.
    place: usize,
    pipeline: Arc<Pipeline>,
    opener: Opener,
    /// The model's inputs of the batch, in order.
    rows: Vec<f64>,
    scored: Scored,
    shadows: Vec<Vec<f64>>,
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
                made_of: None,
                predictions: Vec::new(),
            },
            serving,
            place,
            pipeline,
            rows: Vec::new(),
            scored: Scored::default(),
            shadows: Vec::new(),
        }
    }

    /// Scores the batch by every shadow, as far as its time goes. What a shadow does wrong costs its own predictions and nothing else.
    fn score_shadows(&mut self, routes: &Routes, output: &Output) {
        let shadows = routes.split.shadows();
        self.shadows.resize_with(shadows.len(), Vec::new);
        let inputs = self.pipeline.inputs().len().max(1);
        let budget = SHADOW_BUDGET / shadows.len().max(1) as u32;
        for (outputs, route) in self.shadows.iter_mut().zip(shadows) {
            outputs.clear();
            let variant = &routes.variants[*route];
            let start = Instant::now();
            let mut alive = || output.alive();
            let score = || {
                within(budget, &self.rows, inputs, |rows| {
                    variant.loaded.score_alive(rows, outputs, &mut alive);
                });
            };
            if catch_unwind(AssertUnwindSafe(score)).is_err() {
                outputs.clear();
                let records = self.rows.len() / inputs;
                variant.metrics.missed(Missed::Failed, records as u64);
                tracing::warn!(
                    pipeline = self.pipeline.name(),
                    variant = variant.name,
                    "a shadow panicked; the batch has no predictions of it"
                );
                continue;
            }
            variant.metrics.times.compute(start.elapsed());
            let scored = outputs.len() / variant.width.max(1);
            variant.metrics.scored(scored as u64);
            let missed = (self.rows.len() / inputs).saturating_sub(scored);
            variant.metrics.missed(Missed::Budget, missed as u64);
        }
    }
}

/// Hands over the first rows of a batch, as many as the budget is enough for: pieces grow for as long as what they took so far says that the
/// next one will fit, so that a slow model takes little more than its budget, or one row.
fn within(budget: Duration, rows: &[f64], inputs: usize, mut score: impl FnMut(&[f64])) {
    let start = Instant::now();
    let (mut rest, mut done) = (rows, 0_usize);
    while !rest.is_empty() {
        let took = start.elapsed();
        let Some(left) = budget.checked_sub(took).filter(|left| !left.is_zero()) else {
            return;
        };
        let fit = (left.as_nanos() * done as u128).checked_div(took.as_nanos());
        let fit = fit.and_then(|fit| usize::try_from(fit).ok());
        let count = fit.unwrap_or(usize::MAX).clamp(1, done.max(1) * 4);
        let (now, later) = rest.split_at(rest.len().min(count.saturating_mul(inputs)));
        score(now);
        done += now.len() / inputs;
        rest = later;
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
        // One deployment for the whole batch; what it holds stays until the batch is decided.
        let Some(routes) = self.serving.routes(self.place) else {
            let wait = || Failure::retry("no_model", "no model serves this pipeline");
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
        self.scored.route(&routes, items);
        let inputs = self.pipeline.inputs().len();
        self.scored.score(&routes, &self.rows, inputs, output);
        self.score_shadows(&routes, output);
        output.step("model", start);
        let scored = Instant::now();
        self.writer.remake(&routes);
        for (index, item) in items.iter().enumerate() {
            let Some((route, outputs)) = self.scored.outputs(index, &routes) else {
                output.fail(unknown_variant(&routes, item));
                continue;
            };
            let row = &self.rows[index * inputs..(index + 1) * inputs];
            if let Err(no) = routes.variants[route].loaded.check(row, outputs) {
                output.fail(Failure::dead_letter("no_prediction", no.to_string()));
                continue;
            }
            let decision = self.pipeline.decide(outputs);
            let payload = self.writer.prediction(route, item, outputs, decision);
            output.emit(|bytes| payload.write(bytes));
            for (shadow, outputs) in routes.split.shadows().iter().zip(&self.shadows) {
                let width = routes.variants[*shadow].width;
                let Some(outputs) = outputs.get(index * width..(index + 1) * width) else {
                    continue;
                };
                let variant = &routes.variants[*shadow];
                if variant.loaded.check(row, outputs).is_err() {
                    variant.metrics.missed(Missed::Failed, 1);
                    continue;
                }
                let decision = self.pipeline.decide(outputs);
                let payload = self.writer.prediction(*shadow, item, outputs, decision);
                output.also(|bytes| payload.write(bytes));
            }
        }
        self.scored.tell(&routes, items, start, scored);
    }
}

/// The variant that a record asks for.
fn chosen<'a>(item: &Item<'a, FeatureVector>) -> Option<&'a [u8]> {
    item.incoming.headers.last_under(VARIANT_HEADER)
}

fn unknown_variant(routes: &Routes, item: &Item<'_, FeatureVector>) -> Failure {
    let variant = String::from_utf8_lossy(chosen(item).unwrap_or_default());
    let names: Vec<&str> = routes.split.names().collect();
    let message = format!(
        "no variant {variant:?} answers; there is {}",
        names.join(", ")
    );
    Failure::dead_letter("unknown_variant", message)
}

/// A batch's routes and outputs. Buffers are used again.
#[derive(Default)]
struct Scored {
    /// Each record's, or [`NOWHERE`]; empty where one route has them all.
    routes: Vec<usize>,
    /// The one that has them all, then.
    only: usize,
    /// Where each record's outputs begin, where there are several routes.
    starts: Vec<usize>,
    outputs: Vec<f64>,
    /// One route's inputs.
    rows: Vec<f64>,
}

impl Scored {
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
            pick.map_or(NOWHERE, |pick| pick.route)
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

    /// Tells the metrics of the routes that had records.
    fn tell(
        &self,
        routes: &Routes,
        items: &[Item<'_, FeatureVector>],
        start: Instant,
        scored: Instant,
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
                times.output(scored.elapsed());
            }
        }
    }
}

fn compute(variant: &Variant, rows: &[f64], outputs: &mut Vec<f64>, output: &Output) {
    let start = Instant::now();
    let mut alive = || output.alive();
    variant.loaded.score_alive(rows, outputs, &mut alive);
    variant.metrics.times.compute(start.elapsed());
}

/// Writes predictions: one message a route, of which model, version, variant and hash stay.
struct Writer {
    schema: SchemaId,
    /// The deployment they are made of, which is not held: old models must go.
    made_of: Option<u64>,
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
    fn remake(&mut self, routes: &Routes) {
        let now = now_ms();
        if self.made_of != Some(routes.revision) {
            self.made_of = Some(routes.revision);
            let shadows = routes.split.shadows();
            let places = routes.variants.iter().enumerate();
            let made = places.map(|(route, variant)| made(variant, shadows.contains(&route)));
            self.predictions = made.collect();
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

fn made(variant: &Variant, shadow: bool) -> Prediction {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A row takes this long, whoever is slow.
    fn work(row: Duration, rows: usize) {
        let start = Instant::now();
        while start.elapsed() < row * rows as u32 {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_slow_shadow_takes_its_time_and_no_more_and_a_fast_one_sees_every_row_in_order() {
        let rows: Vec<f64> = (0..4_000).map(f64::from).collect();
        let budget = Duration::from_millis(50);
        let (start, mut seen) = (Instant::now(), Vec::new());
        within(budget, &rows, 2, |piece| {
            work(Duration::from_millis(2), piece.len() / 2);
            seen.extend_from_slice(piece);
        });
        // All 2,000 rows would take 4 s. What it saw is the batch's beginning.
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!((2..=100).contains(&seen.len()), "{} numbers", seen.len());
        assert_eq!(seen, rows[..seen.len()]);

        let mut seen = Vec::new();
        within(Duration::from_secs(3_600), &rows, 2, |piece| {
            seen.extend_from_slice(piece)
        });
        assert_eq!(seen, rows);
    }

    #[test]
    fn a_shadow_that_takes_more_than_its_time_for_a_row_sees_one() {
        let mut pieces = Vec::new();
        within(Duration::from_millis(5), &[1.0; 100], 1, |piece| {
            work(Duration::from_millis(10), 1);
            pieces.push(piece.len());
        });
        assert_eq!(pieces, [1]);
    }
}
