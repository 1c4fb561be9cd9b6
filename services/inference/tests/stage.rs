//! The stream's side of deployments, on the embedded broker: variants, shadows, swaps between batches.

#[path = "serving/replica.rs"]
mod replica;

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use inference::InferenceHandler;
use prost::Message;
use quadrille_choreography::{
    Admin, CommitMode, DeadLetter, EmbeddedBroker, Limits, Publication, Publisher, Retention,
    RunningStage, Schemas, Stage, StageConfig, TopicSpec, list_dead_letters,
};
use quadrille_proto::{
    open, seal,
    v1::{FeatureVector, Prediction},
};
use quadrille_registry::Role;
use quadrille_telemetry::{Registry, metrics::LoopMetrics};
use replica::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    replica: Replica,
    registry: Registry,
    stage: Option<RunningStage>,
    sent: usize,
}

impl World {
    fn start(replica: Replica) -> Self {
        let broker = EmbeddedBroker::start().expect("the embedded broker");
        let spec = |name: &str| TopicSpec {
            name: name.to_owned(),
            partitions: 2,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        let names = [
            "ward.features",
            "ward.features.dlq",
            "ward.predictions",
            "quadrille.schemas",
        ];
        broker.create(&names.map(spec)).expect("topics");
        let config = StageConfig {
            cluster: broker.cluster().expect("a cluster"),
            service: "inference",
            pipeline: "ward".to_owned(),
            group: "quadrille.inference.ward".to_owned(),
            input: "ward.features".to_owned(),
            outputs: vec![quadrille_choreography::OutputTopic {
                name: "out",
                topic: "ward.predictions".to_owned(),
            }],
            instance: "test".to_owned(),
            lanes: 2,
            commit: CommitMode::Kafka,
            limits: Limits::default(),
            latency_objective: None,
        };
        let topics = Admin::connect(&config.cluster)
            .and_then(|admin| admin.prepare(&config))
            .expect("topics");
        let registry = Registry::default();
        let metrics = LoopMetrics::register(&registry).stage("ward", &config.group, &config.input);
        let schemas = Schemas::new(&config.cluster);
        let stage = Stage {
            config,
            topics,
            metrics,
            tracing: quadrille_telemetry::Tracing::off(),
        };
        let serving = replica.serving.clone();
        let stage = stage.run(|_| InferenceHandler::new(serving.clone(), 0, schemas.clone()));
        World {
            broker,
            replica,
            registry,
            stage: Some(stage.expect("a stage")),
            sent: 0,
        }
    }

    /// Sends a feature vector for each key, and waits until all are decided; `send_vectors` sends these.
    fn send(&mut self, keys: &[String], variant: Option<&str>) {
        let vectors: Vec<(String, Vec<f64>)> = keys
            .iter()
            .map(|key| (key.clone(), vec![1.0, 2.0]))
            .collect();
        self.send_vectors(&vectors, variant);
    }

    fn send_vectors(&mut self, vectors: &[(String, Vec<f64>)], variant: Option<&str>) {
        let cluster = self.broker.cluster().expect("a cluster");
        let publisher = Publisher::connect(&cluster, "test", 1 << 20).expect("a publisher");
        let headers: Vec<(String, Vec<u8>)> = variant
            .map(|variant| ("quadrille-variant".to_owned(), variant.as_bytes().to_vec()))
            .into_iter()
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            for (key, values) in vectors {
                let vector = FeatureVector {
                    id: format!("{key}#{}", self.sent),
                    key: key.clone(),
                    event_time_ms: 1,
                    values: values.clone(),
                    ..FeatureVector::default()
                };
                let mut payload = Vec::new();
                seal(pipeline().feature_schema_id(), &vector, &mut payload);
                let sent = publisher.publish(&Publication {
                    topic: "ward.features",
                    partition: (self.sent % 2) as i32,
                    key: key.as_bytes(),
                    payload: Some(&payload),
                    timestamp_ms: None,
                    headers: &headers,
                });
                sent.await.expect("confirmed");
                self.sent += 1;
            }
        });
        let name = "messaging_client_consumed_messages_total{pipeline=\"ward\",";
        let value = format!(" {}", self.sent);
        let consumed = |line: &str| line.starts_with(name) && line.ends_with(&value);
        let deadline = Instant::now() + PATIENCE;
        while !self.registry.encode().lines().any(consumed) {
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {} consumed",
                self.sent
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn read(&self, topic: &str) -> Vec<DeadLetter> {
        let mut records = Vec::new();
        let cluster = self.broker.cluster().expect("a cluster");
        list_dead_letters(&cluster, topic, |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .expect("listed");
        records
    }

    /// In the order of their partitions.
    fn predictions(&self) -> Vec<Prediction> {
        let decode = |record: DeadLetter| {
            let payload = record.payload.expect("a value");
            let (schema, message) = open(&payload).expect("sealed");
            assert_eq!(schema, pipeline().prediction_schema_id());
            let prediction = Prediction::decode(message).expect("a prediction");
            assert_eq!(record.key.as_deref(), Some(prediction.key.as_bytes()));
            assert_eq!(record.partition, prediction.input_partition);
            prediction
        };
        self.read("ward.predictions")
            .into_iter()
            .map(decode)
            .collect()
    }

    fn stop(&mut self) {
        let stage = self.stage.take().expect("it runs");
        stage.stop();
        stage.join().expect("drained");
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("bed-{n}")).collect()
}

fn replica(routes: &[(&str, u32, Role)]) -> Replica {
    let mut replica = Replica::new(None);
    for (_, version, _) in routes {
        replica.log.push(*version);
    }
    replica.log.deploy(1, routes);
    replica.turn();
    replica
}

#[test]
fn a_key_meets_the_same_variant_in_the_stream_and_on_request() {
    let mut world = World::start(replica(&[("stable", 1, LIVE), ("new", 2, canary(3_000))]));
    world.send(&keys(400), None);
    let predictions = world.predictions();
    assert_eq!(predictions.len(), 400);
    let serving = &world.replica.serving;
    for prediction in &predictions {
        let choice = serving
            .choose("ward", Some(&prediction.key), None)
            .expect("served");
        assert_eq!(prediction.variant, choice.variant);
        assert_eq!(prediction.version, choice.loaded.id().version);
        assert_eq!(prediction.config_hash, choice.config_hash);
        let version: u32 = prediction.version.parse().expect("a number");
        assert_eq!(prediction.outputs, [answer(version)]);
        assert_eq!(prediction.decision, "alarm");
        assert!(!prediction.shadow);
    }
    let new = predictions.iter().filter(|it| it.variant == "new").count();
    // Five standard deviations: sqrt(400 × 0.3 × 0.7) is 9.2.
    assert!((74..=166).contains(&new), "{new} of 400 for 30 %");
    world.stop();
}

#[test]
fn predictions_name_the_model_of_a_log_that_is_made_anew() {
    let mut world = World::start(replica(&[("stable", 1, LIVE)]));
    world.send(&keys(4), None);
    world.replica.log.made_anew();
    world.replica.log.push(2);
    let routes = [("new", 2, LIVE), ("dark", 1, Role::Shadow)];
    world.replica.log.deploy(1, &routes);
    world.replica.turn();
    world.send(&keys(4), None);
    let predictions = world.predictions();
    let of = |version: &str, variant: &str| {
        let of = |it: &&Prediction| it.version == version && it.variant == variant;
        predictions.iter().filter(of).count()
    };
    assert_eq!((of("1", "stable"), of("2", "new")), (4, 4));
    assert_eq!(of("1", "dark"), 4, "the new deployment's shadow");
    assert_eq!(predictions.len(), 12);
    for prediction in &predictions {
        let version: u32 = prediction.version.parse().expect("a number");
        assert_eq!(prediction.outputs, [answer(version)]);
    }
    world.stop();
}

#[test]
fn shadows_follow_each_prediction_and_are_marked() {
    let routes = [
        ("stable", 1, LIVE),
        ("watch", 2, Role::Shadow),
        ("other", 3, Role::Shadow),
    ];
    let mut world = World::start(replica(&routes));
    world.send(&keys(20), None);
    let predictions = world.predictions();
    assert_eq!(predictions.len(), 60);
    for three in predictions.chunks(3) {
        let told: Vec<(&str, &str, bool, f64)> = three
            .iter()
            .map(|it| {
                (
                    it.variant.as_str(),
                    it.version.as_str(),
                    it.shadow,
                    it.outputs[0],
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("stable", "1", false, answer(1)),
                ("watch", "2", true, answer(2)),
                ("other", "3", true, answer(3))
            ]
        );
        let place = |it: &Prediction| (it.id.clone(), it.input_partition, it.input_offset);
        assert!(three.iter().all(|it| place(it) == place(&three[0])));
    }
    world.stop();
}

#[test]
fn a_record_may_choose_its_variant_and_one_that_does_not_answer_is_a_dead_letter() {
    let routes = [
        ("stable", 1, LIVE),
        ("idle", 2, Role::Live { weight: 0 }),
        ("watch", 3, Role::Shadow),
    ];
    let mut world = World::start(replica(&routes));
    world.send(&keys(5), Some("idle"));
    world.send(&keys(5), None);
    world.send(&keys(1), Some("watch"));
    world.send(&keys(1), Some("no such"));
    let live: Vec<Prediction> = world.predictions();
    let of = |variant: &str| live.iter().filter(|it| it.variant == variant).count();
    assert_eq!((of("stable"), of("idle"), of("watch")), (5, 5, 10));
    let letters = world.read("ward.features.dlq");
    assert_eq!(letters.len(), 2);
    for letter in letters {
        assert_eq!(letter.class(), Some("quadrille.unknown_variant"));
        let message = letter.message().expect("a reason");
        assert!(message.ends_with("available: stable, idle"), "{message}");
    }
    world.stop();
}

#[test]
fn the_stream_goes_on_through_swaps_and_each_batch_has_one_deployment() {
    let mut world = World::start(replica(&[("stable", 1, LIVE)]));
    for revision in 2..8 {
        world.send(&keys(30), None);
        world.replica.log.push(revision);
        let route = [("stable", revision, LIVE)];
        world.replica.log.deploy(u64::from(revision), &route);
        world.replica.turn();
    }
    world.send(&keys(30), None);
    let mut versions = [0; 8];
    for prediction in world.predictions() {
        let version: u32 = prediction.version.parse().expect("a number");
        assert_eq!(prediction.outputs, [answer(version)]);
        versions[version as usize] += 1;
    }
    // What was sent before a swap was decided before it.
    assert_eq!(versions, [0, 30, 30, 30, 30, 30, 30, 30]);
    assert!(world.read("ward.features.dlq").is_empty());
    // An idle lane holds no old model.
    world.replica.turn();
    assert_eq!(world.replica.serving.models().len(), 1);
    assert!(world.replica.again_at > world.replica.now + Duration::from_secs(1));
    world.stop();
}

#[test]
fn a_stage_without_a_model_takes_no_partitions_until_it_has_one() {
    let mut replica = Replica::new(None);
    replica.turn();
    let mut world = World::start(replica);
    let health = world.stage.as_ref().expect("it runs").health();
    assert_eq!(health.assigned_partitions(), 0);
    world.replica.log.push(1);
    world.replica.log.deploy(1, &[("stable", 1, LIVE)]);
    world.replica.turn();
    world.send(&keys(3), None);
    assert_eq!(world.predictions().len(), 3);
    assert!(world.read("ward.features.dlq").is_empty());
    world.stop();
}

#[test]
fn a_row_without_a_prediction_is_a_dead_letter_and_costs_neither_its_batch_nor_the_pipeline_of_its_shadow()
 {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push_files(2, network(2));
    let live = [("stable", 1, LIVE), ("watch", 2, Role::Shadow)];
    replica.log.deploy(1, &live);
    replica.turn();
    let mut world = World::start(replica);
    let vectors: Vec<(String, Vec<f64>)> = (0..20)
        .map(|n| {
            let a = if n % 5 == 0 { f64::NAN } else { 1.0 };
            (format!("bed-{n}"), vec![a, 2.0])
        })
        .collect();
    world.send_vectors(&vectors, None);
    let of = |world: &World, shadow: bool| {
        let predictions = world.predictions().into_iter();
        predictions.filter(|it| it.shadow == shadow).count()
    };
    let text = world.replica.registry.encode();
    let missed = |reason: &str| -> usize {
        let line = format!(
            r#"quadrille_shadow_missed_total{{pipeline="ward",variant="watch",model="m",version="2",reason="{reason}"}} "#
        );
        let value = text.lines().find_map(|it| it.strip_prefix(&line));
        value.map_or(0, |it| it.parse().expect("a count"))
    };
    // On a busy machine the shadow's time may be up before it has seen all.
    let (failed, late) = (missed("failed"), missed("budget"));
    assert!(failed == 4 || late > 0, "{text}");
    // The live model fills what is missing; the shadow does not, and what it cannot say is not said.
    let predicted = (of(&world, false), of(&world, true));
    assert_eq!(predicted, (20, 20 - failed - late));
    assert!(predicted.1 <= 16, "{predicted:?}");
    assert!(world.read("ward.features.dlq").is_empty());

    world.replica.log.deploy(2, &[("stable", 2, LIVE)]);
    world.replica.turn();
    world.send_vectors(&vectors, None);
    assert_eq!(of(&world, false), 20 + 16);
    let letters = world.read("ward.features.dlq");
    assert_eq!(letters.len(), 4);
    for letter in letters {
        assert_eq!(letter.class(), Some("quadrille.no_prediction"));
        let message = letter.message().expect("a reason");
        assert!(
            message.contains("NaN for \"yes\"") && message.contains("a is missing"),
            "{message}"
        );
    }
    world.stop();
}
