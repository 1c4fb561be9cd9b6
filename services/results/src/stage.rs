//! The stream's handler: predictions in, rows and the partitions' next offsets out, in one database
//! transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message;
use quadrille_choreography::{
    Failure, Handler, Incoming, Item, OffsetStore, Output, Schemas, Span, StoreSpan,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::v1;
use quadrille_service::sealed::{Opener, malformed};
use tokio::runtime::Handle;

use crate::{
    domain::{Kind, Prediction},
    store::{Advance, AnyStore, Error, Store, TopicIdentity, WriteBatch},
};

/// The offsets of one stage, shared by its lanes: a partition may go from one to another.
pub(crate) struct Offsets {
    store: AnyStore,
    runtime: Handle,
    topic: TopicIdentity,
    /// As the database has them, for the partitions claimed here.
    next: Mutex<HashMap<i32, Option<i64>>>,
}

impl Offsets {
    /// Called inside the runtime whose thread pool serves the database.
    pub fn new(store: AnyStore, topic: TopicIdentity) -> Self {
        Offsets {
            store,
            runtime: Handle::current(),
            topic,
            next: Mutex::default(),
        }
    }

    fn next(&self) -> MutexGuard<'_, HashMap<i32, Option<i64>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads where the database says to go on. Blocks; not to be called on a runtime's thread.
    pub fn claim(&self, partitions: &[i32]) -> Result<Vec<(i32, Option<i64>)>, Error> {
        let claimed = self
            .runtime
            .block_on(self.store.claim(&self.topic, partitions))?;
        self.next().extend(claimed.iter().copied());
        Ok(claimed)
    }
}

/// Stores a pipeline's predictions.
pub struct ResultsHandler {
    pipeline: Pipeline,
    opener: Opener,
    offsets: Arc<Offsets>,
    rows: Vec<Prediction>,
    shadows: Vec<Prediction>,
    /// After a write whose outcome is not known.
    uncertain: bool,
}

impl ResultsHandler {
    pub(crate) fn new(pipeline: &Pipeline, schemas: Schemas, offsets: Arc<Offsets>) -> Self {
        ResultsHandler {
            pipeline: pipeline.clone(),
            opener: Opener::new(schemas, pipeline.prediction_schema()),
            offsets,
            rows: Vec::new(),
            shadows: Vec::new(),
            uncertain: false,
        }
    }

    /// Whether the write before, whose outcome was unknown, did happen.
    fn happened(&mut self, spans: &[Span]) -> Result<bool, Failure> {
        if !std::mem::take(&mut self.uncertain) {
            return Ok(false);
        }
        let before = self.offsets.next().clone();
        let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
        let stored = self.offsets.claim(&partitions).map_err(|error| {
            self.uncertain = true;
            failure(&error)
        })?;
        let all = |test: &dyn Fn(&Span, Option<i64>) -> bool| {
            spans
                .iter()
                .zip(&stored)
                .all(|(span, (_, next))| test(span, *next))
        };
        if all(&|span, next| next == Some(span.next)) {
            return Ok(true);
        }
        if all(&|span, next| before.get(&span.partition).is_some_and(|old| *old == next)) {
            return Ok(false);
        }
        Err(Failure::dead_letter(
            "fenced",
            "another replica holds a partition of this batch",
        ))
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Fenced { .. } => Failure::dead_letter("fenced", error.to_string()),
        error if error.is_retriable() => Failure::retry("database", error.to_string()),
        error => Failure::fatal("database", error.to_string()),
    }
}

impl Handler for ResultsHandler {
    type Record = Option<(Kind, Prediction)>;

    fn begin(&mut self) {
        self.rows.clear();
        self.shadows.clear();
    }

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut Option<(Kind, Prediction)>,
    ) -> Result<(), Failure> {
        *record = None;
        let (schema, message) = self.opener.open(incoming)?;
        let mut prediction = v1::Prediction::decode(message).map_err(malformed)?;
        self.opener.project(schema, &mut prediction.outputs)?;
        let kind = match prediction.shadow {
            true => Kind::Shadow,
            false => Kind::Live,
        };
        let headline = |outputs: &[f64]| self.pipeline.headline(outputs);
        let prediction = Prediction::of(prediction, headline).map_err(malformed)?;
        *record = Some((kind, prediction));
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, Self::Record>], output: &mut Output) {
        for item in items {
            match item.record {
                Some((Kind::Shadow, prediction)) => {
                    self.shadows.push(prediction.clone());
                    output.absorb("shadow");
                }
                other => {
                    let live = other.as_ref().map(|(_, prediction)| prediction);
                    self.rows.extend(live.cloned());
                    output.absorb("stored");
                }
            }
        }
    }

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        Some(self)
    }
}

impl OffsetStore for ResultsHandler {
    fn commit(&mut self, spans: &[Span]) -> Result<(), Failure> {
        let uncertain = self.uncertain;
        if !self.happened(spans)? {
            let advances = {
                let next = self.offsets.next();
                let advance = |span: &Span| Advance {
                    partition: span.partition,
                    old: next.get(&span.partition).copied().flatten(),
                    new: span.next,
                };
                spans.iter().map(advance).collect()
            };
            let batch = WriteBatch {
                pipeline: self.pipeline.name().to_owned(),
                topic: self.offsets.topic.clone(),
                advances,
                predictions: std::mem::take(&mut self.rows),
                shadows: std::mem::take(&mut self.shadows),
            };
            let written = self
                .offsets
                .runtime
                .block_on(self.offsets.store.write(&batch));
            self.rows = batch.predictions;
            self.shadows = batch.shadows;
            match written {
                Ok(written) if written.duplicates > 0 => {
                    tracing::debug!(
                        pipeline = self.pipeline.name(),
                        duplicates = written.duplicates,
                        "ids stored before"
                    );
                }
                Ok(_) => {}
                // The write before this one may have happened after the claim that looked for it.
                Err(error @ Error::Fenced { .. }) if uncertain => {
                    self.uncertain = true;
                    return Err(Failure::retry("database", error.to_string()));
                }
                Err(error) => {
                    self.uncertain = error.is_retriable();
                    return Err(failure(&error));
                }
            }
        }
        let advanced = spans.iter().map(|span| (span.partition, Some(span.next)));
        self.offsets.next().extend(advanced);
        Ok(())
    }

    fn describe(&self) -> Option<StoreSpan> {
        Some(StoreSpan {
            name: "INSERT predictions",
            attributes: vec![
                ("db.system.name", self.offsets.store.system()),
                ("db.operation.name", "INSERT"),
                ("db.collection.name", "predictions"),
            ],
        })
    }
}
