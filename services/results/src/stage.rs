//! The stream's handler: predictions in, rows out.

mod commits;

use prost::Message;
use quadrille_choreography::{Handler, Incoming, Item, OffsetStore, Output, Schemas, handler};
use quadrille_pipeline::Pipeline;
use quadrille_proto::v1;
use quadrille_service::sealed::{Opener, malformed};

use self::commits::Commits;
pub(crate) use self::commits::TopicStore;
use crate::prediction::{Kind, Prediction};

/// Stores a pipeline's predictions.
pub struct ResultsHandler {
    pipeline: Pipeline,
    opener: Opener,
    commits: Commits,
}

impl ResultsHandler {
    pub(crate) fn new(pipeline: &Pipeline, schemas: Schemas, store: TopicStore) -> Self {
        ResultsHandler {
            pipeline: pipeline.clone(),
            opener: Opener::new(schemas, pipeline.prediction_schema()),
            commits: Commits::new(pipeline.name(), store),
        }
    }
}

impl Handler for ResultsHandler {
    type Record = Option<(Kind, Prediction)>;

    fn begin(&mut self) {
        self.commits.unit.clear();
    }

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut Option<(Kind, Prediction)>,
    ) -> Result<(), handler::Error> {
        *record = None;
        let (schema, message) = self.opener.open(incoming)?;
        let prediction = v1::Prediction::decode(message).map_err(malformed)?;
        // All outputs, as the model gave them: while classes are added, the writer's pipeline may have others than this
        // service's. Without the class that was decided for, the stored row would say something else.
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
        let unit = &mut self.commits.unit;
        for item in items {
            match item.record {
                Some((Kind::Shadow, prediction)) => {
                    unit.shadows.push(prediction.clone());
                    output.absorb("shadow");
                }
                other => {
                    let live = other.as_ref().map(|(_, prediction)| prediction);
                    unit.predictions.extend(live.cloned());
                    output.absorb("stored");
                }
            }
        }
    }

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        Some(&mut self.commits)
    }
}

#[cfg(test)]
mod tests {
    use quadrille_choreography::{EmbeddedBroker, Headers, Retention, TopicSpec};
    use quadrille_proto::seal;

    use super::*;
    use crate::store::{AnyStore, TopicIdentity};

    const SPECIES: &str = r#"
        name = "iris"
        record = { key = "flower", fields = [{ name = "width", type = "number" }] }
        features = [{ name = "width", kind = "pass", field = "width" }]
        model = { inputs = ["width"] }
        decision = { kind = "argmax", classes = ["setosa", "versicolor", "virginica"] }
    "#;

    #[test]
    fn a_prediction_of_more_or_fewer_classes_keeps_what_was_decided_and_all_outputs() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let store = runtime.block_on(async {
            let topic = TopicIdentity {
                cluster_id: "c".to_owned(),
                topic: "iris.predictions".to_owned(),
                topic_id: None,
            };
            let store = AnyStore::open("sqlite::memory:").await.expect("a store");
            TopicStore::new(store, topic)
        });
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
            let mut lane = ResultsHandler::new(reader, schemas, store.clone());
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
                matches!(&cut, Err(handler::Error::DeadLetter(cause)) if cause.class == "malformed"),
                "{cut:?}"
            );
        }
    }
}
