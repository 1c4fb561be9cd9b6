//! Tests: a producer that has failed for good is replaced. On the mock cluster, which can be told what to answer.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use quadrille_telemetry::{Registry, Tracing, metrics::LoopMetrics};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{
        RDKafkaApiKey,
        RDKafkaRespErr::{self, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER},
    },
};

use crate::{
    Acknowledged, Admin, Cancelled, ClaimedOffsets, Cluster, CommitMode, Handler, Incoming, Item,
    Limits, OffsetRange, OffsetStore, Output, Publication, Publisher, RunningStage, Stage,
    StageConfig, handler, list_dead_letters, publisher,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// To the first request in flight this is a fatal error of an idempotent producer.
const FATAL: [RDKafkaRespErr; 1] = [RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER];

struct Broker {
    mock: MockCluster<'static, DefaultProducerContext>,
    cluster: Cluster,
}

impl Broker {
    fn start() -> Self {
        let mock = MockCluster::new(1).expect("a mock cluster");
        for topic in ["in", "in.dlq", "quadrille.schemas"] {
            mock.create_topic(topic, 1, 1).expect("a topic");
        }
        let mut cluster = Cluster::new(&mock.bootstrap_servers(), "").expect("a cluster");
        cluster.embedded = true;
        Broker { mock, cluster }
    }

    fn fail_next(&self) {
        self.mock.request_errors(RDKafkaApiKey::Produce, &FATAL);
    }
}

fn publish(publisher: &Publisher) -> Result<Acknowledged, publisher::Error> {
    let answer = publisher.publish(&Publication {
        topic: "in",
        partition: 0,
        key: b"k",
        payload: Some(b"v"),
        timestamp_ms: None,
        headers: &[],
    });
    futures_executor::block_on(answer)
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn pushes_go_on_after_a_fatal_error_and_readiness_tells_of_it_meanwhile() {
    let broker = Broker::start();
    let publisher = Publisher::connect(&broker.cluster, "test", 1 << 20).expect("a publisher");
    publish(&publisher).expect("confirmed");
    assert_eq!(publisher.ready(), Ok(()));

    broker.fail_next();
    let refused = publish(&publisher).expect_err("not confirmed");
    assert!(
        matches!(refused, publisher::Error::Unconfirmed(_)),
        "{refused}"
    );
    until("readiness says so", || publisher.ready().is_err());
    until("it is ready again", || publisher.ready().is_ok());
    publish(&publisher).expect("confirmed");
}

/// Keeps nothing, and finds fault with everything.
struct Picky;

impl Handler for Picky {
    type Record = ();

    fn decode(&mut self, _: &Incoming<'_>, (): &mut ()) -> Result<(), handler::Error> {
        Err(handler::Error::dead_letter("picky", "no"))
    }

    fn handle(&mut self, _: &[Item<'_, ()>], _: &mut Output) {}

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        Some(self)
    }
}

impl OffsetStore for Picky {
    fn claim(&mut self, partitions: &[i32]) -> Option<Result<ClaimedOffsets, handler::Error>> {
        Some(Ok(partitions.iter().map(|it| (*it, None)).collect()))
    }

    fn next(&self, _: i32) -> Option<i64> {
        None
    }

    fn commit(&mut self, _: &[OffsetRange], _: Cancelled<'_>) -> Result<(), handler::Error> {
        Ok(())
    }

    fn truncated(&mut self, _: i32, _: i64, _: Cancelled<'_>) -> Result<(), handler::Error> {
        Ok(())
    }
}

fn start(cluster: &Cluster) -> RunningStage {
    let config = StageConfig {
        cluster: cluster.clone(),
        service: "results",
        pipeline: "p".to_owned(),
        group: "quadrille.results.p".to_owned(),
        input: "in".to_owned(),
        outputs: Vec::new(),
        instance: "test".to_owned(),
        lanes: 1,
        commit: CommitMode::Store,
        limits: Limits::default(),
        latency_objective: None,
    };
    let topics = Admin::connect(&config.cluster)
        .and_then(|admin| admin.prepare(&config))
        .expect("topics");
    let metrics = LoopMetrics::register(&Registry::default());
    let stage = Stage::new(config, topics, &metrics, Tracing::off());
    stage.run(|_| Picky).expect("a stage")
}

fn letters(cluster: &Cluster) -> usize {
    let mut count = 0;
    list_dead_letters(cluster, "in.dlq", |_| {
        count += 1;
        ControlFlow::Continue(())
    })
    .expect("listed");
    count
}

#[test]
fn a_lane_with_a_store_of_its_own_goes_on_after_a_fatal_error() {
    let broker = Broker::start();
    let publisher = Publisher::connect(&broker.cluster, "test", 1 << 20).expect("a publisher");
    publish(&publisher).expect("confirmed");
    broker.fail_next();
    let stage = start(&broker.cluster);
    until("its dead letter is sent", || letters(&broker.cluster) == 1);
    publish(&publisher).expect("confirmed");
    until("and the next one's", || letters(&broker.cluster) == 2);
    stage.stop();
    stage.join().expect("it drains");
}
