//! The stream's handler: predictions in, rows and the partitions' next offsets out, in one database
//! transaction.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use quadrille_choreography::{
    Claimed, Failure, GiveUp, Handler, Incoming, Item, OffsetStore, Output, Schemas, Span,
    StoreSpan,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::v1;
use quadrille_service::sealed::{Opener, malformed};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    domain::{Kind, Prediction},
    store::{Advance, AnyStore, Error, Place, Places, Store, TopicIdentity, WriteBatch},
};

/// How often a lane that waits for the database looks whether it is to wait no longer.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A lane's way to the offsets of its stage.
#[derive(Clone)]
pub(crate) struct Offsets {
    store: AnyStore,
    runtime: Handle,
    topic: TopicIdentity,
}

impl Offsets {
    /// Called inside the runtime whose thread pool serves the database.
    pub fn new(store: AnyStore, topic: TopicIdentity) -> Self {
        Offsets {
            store,
            runtime: Handle::current(),
            topic,
        }
    }

    /// Waits for the database, until it is to be given up. Not to be called on a runtime's thread.
    fn wait<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
        give_up: GiveUp<'_>,
    ) -> Result<T, Error> {
        let given_up = async {
            while !give_up() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                result = work => result,
                () = given_up => Err(Error::Stopping),
            }
        })
    }
}

/// Where the database was asked to go on, and is about to say.
struct Claim {
    partitions: Vec<i32>,
    answer: JoinHandle<Result<Places, Error>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// Stores a pipeline's predictions.
pub struct ResultsHandler {
    pipeline: Pipeline,
    opener: Opener,
    offsets: Offsets,
    /// As this lane claimed or wrote them itself. Not shared: a lane that stood still while its partition moved must not
    /// go on from what its successor has claimed.
    places: HashMap<i32, Option<Place>>,
    claim: Option<Claim>,
    rows: Vec<Prediction>,
    shadows: Vec<Prediction>,
    /// After a write whose outcome is not known.
    uncertain: bool,
}

impl ResultsHandler {
    pub(crate) fn new(pipeline: &Pipeline, schemas: Schemas, offsets: Offsets) -> Self {
        ResultsHandler {
            pipeline: pipeline.clone(),
            opener: Opener::new(schemas, pipeline.prediction_schema()),
            offsets,
            places: HashMap::new(),
            claim: None,
            rows: Vec::new(),
            shadows: Vec::new(),
            uncertain: false,
        }
    }

    fn place(&self, partition: i32) -> Option<Place> {
        self.places.get(&partition).copied().flatten()
    }

    /// How this batch moves the partitions.
    fn advances(&self, spans: &[Span]) -> Result<Vec<Advance>, Failure> {
        let advance = |span: &Span| {
            let old = self.place(span.partition);
            match old {
                Some(old) if span.first < old.next => Err(fenced(format!(
                    "partition {}: the batch begins at {}, before {}, where this lane went on",
                    span.partition, span.first, old.next
                ))),
                _ => Ok(Advance {
                    partition: span.partition,
                    old,
                    new: span.next,
                }),
            }
        };
        spans.iter().map(advance).collect()
    }

    /// Whether the write before, whose outcome was unknown, did happen.
    fn happened(&mut self, spans: &[Span], give_up: GiveUp<'_>) -> Result<bool, Failure> {
        if !std::mem::take(&mut self.uncertain) {
            return Ok(false);
        }
        let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
        let Offsets { store, topic, .. } = &self.offsets;
        let claimed = self.offsets.wait(store.claim(topic, &partitions), give_up);
        let stored = claimed.map_err(|error| {
            self.uncertain = true;
            failure(&error)
        })?;
        let all = |test: &dyn Fn(&Span, Option<Place>) -> bool| {
            spans
                .iter()
                .zip(&stored)
                .all(|(span, (_, place))| test(span, *place))
        };
        if all(&|span, place| place == Some(moved(self.place(span.partition), span.next))) {
            return Ok(true);
        }
        if all(&|span, place| place == self.place(span.partition)) {
            return Ok(false);
        }
        Err(fenced("another replica holds a partition of this batch"))
    }
}

/// A place further on in its generation.
fn moved(old: Option<Place>, next: i64) -> Place {
    Place {
        next,
        ..old.unwrap_or(Place::at(0))
    }
}

fn fenced(message: impl Into<String>) -> Failure {
    Failure::dead_letter("fenced", message)
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Fenced { .. } => fenced(error.to_string()),
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
        let prediction = v1::Prediction::decode(message).map_err(malformed)?;
        // As the model gave them, whose pipeline the prediction's hash names: while classes are added, a writer may have other outputs than this
        // service, and without the one that was decided for they would say something else.
        self.opener.check(schema, &prediction.outputs)?;
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
    fn claim(&mut self, partitions: &[i32]) -> Option<Result<Claimed, Failure>> {
        let asked = self.claim.take();
        let Some(mut claim) = asked.filter(|claim| claim.partitions == partitions) else {
            let (offsets, partitions) = (self.offsets.clone(), partitions.to_vec());
            let answer = self.offsets.runtime.spawn({
                let partitions = partitions.clone();
                async move { offsets.store.claim(&offsets.topic, &partitions).await }
            });
            self.claim = Some(Claim { partitions, answer });
            return None;
        };
        if !claim.answer.is_finished() {
            self.claim = Some(claim);
            return None;
        }
        let claimed = match self.offsets.runtime.block_on(&mut claim.answer) {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => return Some(Err(failure(&error))),
            // It panicked, or the runtime ends.
            Err(error) => return Some(Err(Failure::retry("database", error.to_string()))),
        };
        self.places.extend(claimed.iter().copied());
        let next =
            |(partition, place): &(i32, Option<Place>)| (*partition, place.map(|it| it.next));
        Some(Ok(claimed.iter().map(next).collect()))
    }

    fn next(&self, partition: i32) -> Option<i64> {
        Some(self.place(partition)?.next)
    }

    fn commit(&mut self, spans: &[Span], give_up: GiveUp<'_>) -> Result<(), Failure> {
        let uncertain = self.uncertain;
        if !self.happened(spans, give_up)? {
            let batch = WriteBatch {
                pipeline: self.pipeline.name().to_owned(),
                topic: self.offsets.topic.clone(),
                advances: self.advances(spans)?,
                predictions: std::mem::take(&mut self.rows),
                shadows: std::mem::take(&mut self.shadows),
            };
            let written = self.offsets.wait(self.offsets.store.write(&batch), give_up);
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
        for span in spans {
            let place = moved(self.place(span.partition), span.next);
            self.places.insert(span.partition, Some(place));
        }
        Ok(())
    }

    fn truncated(&mut self, partition: i32, next: i64, give_up: GiveUp<'_>) -> Result<(), Failure> {
        let Some(old) = self.place(partition) else {
            return Ok(());
        };
        let Offsets { store, topic, .. } = &self.offsets;
        let place = self
            .offsets
            .wait(store.truncated(topic, partition, old, next), give_up);
        let place = place.map_err(|error| failure(&error))?;
        self.places.insert(partition, Some(place));
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

#[cfg(test)]
mod tests {
    use quadrille_choreography::{Cluster, EmbeddedBroker, Headers, Retention, TopicSpec};
    use quadrille_proto::seal;

    use super::*;

    const PIPELINE: &str = include_str!("../../../pipelines/diabetes.toml");

    /// What the lanes of one process share: a database, a runtime, a topic.
    struct World {
        runtime: tokio::runtime::Runtime,
        offsets: Offsets,
        _folder: tempfile::TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let url = format!("sqlite:{}/results.db", folder.path().display());
        let offsets = runtime.block_on(async {
            let topic = TopicIdentity {
                cluster_id: "c".to_owned(),
                topic: "diabetes.predictions".to_owned(),
                topic_id: None,
            };
            Offsets::new(AnyStore::open(&url).await.expect("a store"), topic)
        });
        World {
            runtime,
            offsets,
            _folder: folder,
        }
    }

    impl World {
        fn lane(&self) -> ResultsHandler {
            let pipeline = Pipeline::parse("diabetes.toml", PIPELINE).expect("a pipeline");
            // Nobody asks it.
            let cluster = Cluster::new("127.0.0.1:1", "").expect("a cluster");
            ResultsHandler::new(&pipeline, Schemas::new(&cluster), self.offsets.clone())
        }

        fn stored(&self) -> Option<i64> {
            let Offsets { store, topic, .. } = &self.offsets;
            let places = self.runtime.block_on(store.claim(topic, &[0]));
            places.expect("a claim")[0].1.map(|place| place.next)
        }
    }

    fn claim(lane: &mut ResultsHandler) -> Option<i64> {
        loop {
            if let Some(claimed) = lane.claim(&[0]) {
                return claimed.expect("claimed")[0].1;
            }
            std::thread::yield_now();
        }
    }

    fn commit(lane: &mut ResultsHandler, first: i64, next: i64) -> Result<(), Failure> {
        let span = Span {
            partition: 0,
            first,
            next,
        };
        lane.commit(&[span], &|| false)
    }

    fn is_fenced(result: &Result<(), Failure>) -> bool {
        matches!(result, Err(Failure::DeadLetter(cause)) if cause.class == "fenced")
    }

    const SPECIES: &str = r#"
        name = "iris"
        record = { key = "flower", fields = [{ name = "width", type = "number" }] }
        features = [{ name = "width", kind = "pass", field = "width" }]
        model = { inputs = ["width"] }
        decision = { kind = "argmax", classes = ["setosa", "versicolor", "virginica"] }
    "#;

    #[test]
    fn a_prediction_of_more_or_fewer_classes_keeps_what_was_decided_and_all_outputs() {
        let world = world();
        let broker = EmbeddedBroker::start().expect("the embedded broker");
        let topic = TopicSpec {
            name: "quadrille.schemas".to_owned(),
            partitions: 1,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        broker.create(&[topic]).expect("a topic");
        let cluster = broker.cluster().expect("a cluster");
        let few = Pipeline::parse("iris.toml", SPECIES).expect("a pipeline");
        let more = SPECIES.replacen("\"versicolor\"", "\"pumila\", \"versicolor\"", 1);
        let more = Pipeline::parse("iris.toml", &more).expect("a pipeline");
        for (writer, reader, outputs, decision) in [
            (&more, &few, vec![0.1, 0.7, 0.05, 0.15], "pumila"),
            (&few, &more, vec![0.1, 0.2, 0.7], "virginica"),
        ] {
            let schemas = Schemas::new(&cluster);
            schemas
                .publish(writer.prediction_schema())
                .expect("published");
            let mut lane = ResultsHandler::new(reader, schemas, world.offsets.clone());
            let mut read = |outputs: &[f64]| {
                let prediction = v1::Prediction {
                    id: "r-1".to_owned(),
                    outputs: outputs.to_vec(),
                    decision: writer.decide(outputs).to_owned(),
                    ..v1::Prediction::default()
                };
                let mut payload = Vec::new();
                seal(writer.prediction_schema_id(), &prediction, &mut payload);
                let incoming = Incoming {
                    topic: "iris.predictions",
                    partition: 0,
                    offset: 0,
                    key: None,
                    payload: Some(&payload),
                    timestamp_ms: None,
                    headers: Headers::default(),
                    polled_at: std::time::Instant::now(),
                };
                let mut record = None;
                let decoded = lane.decode(&incoming, &mut record);
                decoded.map(|()| record.expect("a prediction").1)
            };
            let stored = read(&outputs).expect("stored");
            assert_eq!((stored.probability, &*stored.decision), (0.7, decision));
            assert_eq!(stored.outputs, outputs);
            let cut = read(&outputs[1..]);
            assert!(
                matches!(&cut, Err(Failure::DeadLetter(cause)) if cause.class == "malformed"),
                "{cut:?}"
            );
        }
    }

    #[test]
    fn a_lane_that_stood_still_cannot_commit_with_what_its_successor_claimed() {
        let world = world();
        let (mut frozen, mut successor) = (world.lane(), world.lane());
        assert_eq!(claim(&mut frozen), None);
        commit(&mut frozen, 0, 3).expect("committed");
        // It has polled 3 to 5 when it stops, and its partition goes to another lane of this process.
        assert_eq!(claim(&mut successor), Some(3));
        commit(&mut successor, 3, 5).expect("committed");
        commit(&mut successor, 5, 9).expect("committed");
        let late = commit(&mut frozen, 3, 5);
        assert!(is_fenced(&late), "{late:?}");
        assert_eq!(world.stored(), Some(9));
        commit(&mut successor, 9, 10).expect("its own place is untouched");
    }

    #[test]
    fn a_batch_that_begins_before_what_a_lane_claimed_is_not_written() {
        let world = world();
        let (mut first, mut second) = (world.lane(), world.lane());
        claim(&mut first);
        commit(&mut first, 0, 5).expect("committed");
        assert_eq!(claim(&mut second), Some(5));
        for next in [3, 5, 7] {
            let early = commit(&mut second, 2, next);
            assert!(is_fenced(&early), "{early:?}");
        }
        assert_eq!(world.stored(), Some(5));
        // Markers of transactions may lie between.
        commit(&mut second, 6, 7).expect("committed");
        assert_eq!((second.next(0), world.stored()), (Some(7), Some(7)));
    }

    #[test]
    fn a_log_that_was_cut_off_goes_on_in_its_next_generation() {
        let world = world();
        let (mut lane, mut other) = (world.lane(), world.lane());
        claim(&mut lane);
        commit(&mut lane, 0, 5).expect("committed");
        claim(&mut other);
        lane.truncated(0, 2, &|| false).expect("stored");
        assert_eq!((lane.next(0), world.stored()), (Some(2), Some(2)));
        let late = commit(&mut other, 5, 6);
        assert!(is_fenced(&late), "{late:?}");
        commit(&mut lane, 2, 5).expect("committed");
        // At the same offset, but of the log as it was.
        let late = commit(&mut other, 5, 6);
        assert!(is_fenced(&late), "{late:?}");
        assert_eq!(claim(&mut other), Some(5));
        commit(&mut other, 5, 6).expect("committed");
    }

    #[test]
    fn a_lane_waits_for_a_database_no_longer_than_it_is_to() {
        let world = world();
        let never = std::future::pending::<Result<(), Error>>();
        let result = world.offsets.wait(never, &|| true);
        assert!(matches!(result, Err(Error::Stopping)), "{result:?}");
        // What is there is taken all the same.
        let there = std::future::ready(Ok(1));
        assert_eq!(world.offsets.wait(there, &|| true).expect("an answer"), 1);
    }
}
