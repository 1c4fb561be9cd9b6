//! A stage with a handler of the test's own, on the embedded broker: what becomes of each kind of failure.
//! Exactly-once is not a claim of these tests; the broker is a mock.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Admin, Cancelled, ClaimedOffsets, CommitMode, Destination, EmbeddedBroker, Handler, Incoming,
    Item, Limits, OffsetRange, OffsetStore, Output, OutputKey, OutputTopic, Publication, Retention,
    RunningStage, Stage, StageConfig, TopicSpec, handler, list_dead_letters, stage,
};
use quadrille_telemetry::{Registry, metrics::LoopMetrics};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const PATIENCE: Duration = Duration::from_secs(60);

/// Does what each record's text says.
struct Obedient {
    retries: Arc<AtomicU32>,
    ready: Arc<AtomicBool>,
}

impl Handler for Obedient {
    type Record = String;

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut String,
    ) -> Result<(), handler::Error> {
        let payload = incoming
            .payload
            .ok_or_else(|| handler::Error::dead_letter("tombstone", "no value"))?;
        let text = std::str::from_utf8(payload)
            .map_err(|e| handler::Error::dead_letter("not_utf8", e.to_string()))?;
        text.clone_into(record);
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, String>], output: &mut Output) {
        for item in items {
            match item.record.as_str() {
                "panic" => panic!("as told"),
                "fatal" => output.fail(handler::Error::fatal("told", "stop")),
                "retry twice" if self.retries.fetch_add(1, Ordering::Relaxed) < 2 => {
                    output.fail(handler::Error::retry("busy", "later"));
                }
                "retry once" if self.retries.fetch_add(1, Ordering::Relaxed) < 1 => {
                    output.fail(handler::Error::retry("busy", "later"));
                }
                "retry for ever" => {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    output.fail(handler::Error::retry("busy", "never"));
                }
                "huge" => output.emit(|bytes| bytes.resize(4 << 20, b'x')),
                "absorb" => output.absorb("told"),
                "with two" => {
                    output.emit(|bytes| bytes.extend_from_slice(b"one"));
                    output.also(|bytes| bytes.extend_from_slice(b"two"));
                    output.also(|bytes| bytes.resize(4 << 20, b'x'));
                    output.also(|bytes| bytes.extend_from_slice(b"three"));
                }
                "with a change" => {
                    output.emit(|bytes| bytes.extend_from_slice(b"changed"));
                    output.with(change(), |bytes| bytes.extend_from_slice(b"1"));
                }
                "with a huge change" => {
                    output.emit(|bytes| bytes.extend_from_slice(b"never"));
                    output.with(change(), |bytes| bytes.resize(4 << 20, b'x'));
                }
                "forget" => {
                    output.absorb("forgotten");
                    output.with_tombstone(change());
                }
                "elsewhere" => output.emit_to(change(), |bytes| bytes.extend_from_slice(b"2")),
                "dead with one" => {
                    output.fail(handler::Error::dead_letter("told", "no"));
                    output.also(|bytes| bytes.extend_from_slice(b"never"));
                }
                text => output.emit(|bytes| bytes.extend_from_slice(text.as_bytes())),
            }
        }
    }
}

/// A record of the state's changelog.
fn change() -> Destination<'static> {
    Destination {
        output: Some("changes"),
        key: OutputKey::OnInputPartition(b"state"),
        headers: &[("why", b"told")],
    }
}

struct World {
    broker: EmbeddedBroker,
    registry: Registry,
    retries: Arc<AtomicU32>,
    ready: Arc<AtomicBool>,
    stage: Option<RunningStage>,
}

impl World {
    fn start(commit: CommitMode) -> Self {
        let world = Self::start_unready(commit);
        world.ready.store(true, Ordering::Release);
        world
    }

    fn start_unready(commit: CommitMode) -> Self {
        let mut world = Self::new(2);
        let registry = world.registry.clone();
        world.stage = Some(world.add(
            "test",
            2,
            commit,
            limits(Duration::from_millis(5)),
            &registry,
        ));
        world
    }

    /// Without a stage.
    fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::start().expect("the embedded broker");
        let spec = |name: &str| TopicSpec {
            name: name.to_owned(),
            partitions,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        let names = ["in", "in.dlq", "out", "p.changes", "quadrille.schemas"];
        broker.create(&names.map(spec)).expect("topics");
        World {
            broker,
            registry: Registry::default(),
            retries: Arc::default(),
            ready: Arc::default(),
            stage: None,
        }
    }

    fn obedient(&self) -> Obedient {
        Obedient {
            retries: Arc::clone(&self.retries),
            ready: Arc::clone(&self.ready),
        }
    }

    /// A member of the group.
    fn add(
        &self,
        instance: &str,
        lanes: usize,
        commit: CommitMode,
        limits: Limits,
        registry: &Registry,
    ) -> RunningStage {
        let stage = self.describe(instance, lanes, commit, limits, registry);
        stage.run(|_| self.obedient()).expect("a stage")
    }

    fn describe(
        &self,
        instance: &str,
        lanes: usize,
        commit: CommitMode,
        limits: Limits,
        registry: &Registry,
    ) -> Stage {
        let config = StageConfig {
            cluster: self.broker.cluster().expect("a cluster"),
            service: "feature",
            pipeline: "p".to_owned(),
            group: "quadrille.feature.p".to_owned(),
            input: "in".to_owned(),
            outputs: [("out", "out"), ("changes", "p.changes")]
                .map(|(name, topic)| OutputTopic {
                    name,
                    topic: topic.to_owned(),
                })
                .into(),
            instance: instance.to_owned(),
            lanes,
            commit,
            limits,
            latency_objective: None,
        };
        let topics = Admin::connect(&config.cluster)
            .and_then(|a| a.prepare(&config))
            .expect("topics");
        let metrics = LoopMetrics::register(registry);
        Stage::new(
            config,
            topics,
            &metrics,
            quadrille_telemetry::Tracing::off(),
        )
    }

    /// Publishes to partition 0, in order.
    fn send(&self, texts: &[&str]) {
        self.send_to(0, texts);
    }

    fn send_to(&self, partition: i32, texts: &[&str]) {
        let cluster = self.broker.cluster().expect("a cluster");
        let headers = [("ward".to_owned(), b"7".to_vec())];
        common::publish(
            &cluster,
            texts.iter().map(|text| Publication {
                topic: "in",
                partition,
                key: b"k",
                payload: Some(text.as_bytes()),
                timestamp_ms: None,
                headers: &headers,
            }),
        );
    }

    /// Waits until so many records are consumed and committed.
    fn consumed(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while handled(&self.registry) != count {
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {count} consumed\n{}",
                self.registry.encode()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Class, attempts and payload of each dead letter.
    fn dead(&self) -> Vec<(String, String, String)> {
        let mut letters = Vec::new();
        let cluster = self.broker.cluster().expect("a cluster");
        list_dead_letters(&cluster, "in.dlq", |letter| {
            let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
            let payload = String::from_utf8_lossy(letter.payload.as_deref().unwrap_or_default());
            assert_eq!(
                letter.header("ward"),
                Some("7"),
                "the record's own headers stay"
            );
            letters.push((
                text(letter.class()),
                text(letter.attempts()),
                payload.into_owned(),
            ));
            std::ops::ControlFlow::Continue(())
        })
        .expect("listed");
        letters
    }

    /// Payloads on the output topic, each with the input's partition, key and headers.
    fn out(&self) -> Vec<String> {
        let mut payloads = Vec::new();
        let cluster = self.broker.cluster().expect("a cluster");
        list_dead_letters(&cluster, "out", |record| {
            assert_eq!((record.partition, record.header("ward")), (0, Some("7")));
            assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
            let payload = record.payload.unwrap_or_default();
            payloads.push(String::from_utf8_lossy(&payload).into_owned());
            std::ops::ControlFlow::Continue(())
        })
        .expect("listed");
        payloads
    }

    /// What lies on the changelog, each with the input's partition and a header of its own alone; None is a tombstone.
    fn changes(&self) -> Vec<Option<String>> {
        let mut changes = Vec::new();
        let cluster = self.broker.cluster().expect("a cluster");
        list_dead_letters(&cluster, "p.changes", |record| {
            assert_eq!((record.partition, record.header("ward")), (0, None));
            assert_eq!(record.header("why"), Some("told"));
            assert_eq!(record.key.as_deref(), Some(&b"state"[..]));
            let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
            changes.push(record.payload.map(|payload| text(payload.to_vec())));
            std::ops::ControlFlow::Continue(())
        })
        .expect("listed");
        changes
    }

    fn stop(&mut self) -> Result<(), stage::Error> {
        let stage = self.stage.take().expect("it runs");
        stage.stop();
        stage.join()
    }
}

fn limits(retry_first: Duration) -> Limits {
    Limits {
        attempts_max: 3,
        retry_first,
        retry_max: retry_first.max(Limits::default().retry_max),
        ..Limits::default()
    }
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn letter(class: &str, attempts: &str, payload: &str) -> (String, String, String) {
    (
        format!("quadrille.{class}"),
        attempts.to_owned(),
        payload.to_owned(),
    )
}

#[test]
fn a_retriable_failure_that_passes_costs_nothing() {
    let mut world = World::start(CommitMode::Kafka);
    world.send(&["a", "retry twice", "b"]);
    world.consumed(3);
    assert_eq!(world.dead(), []);
    assert!(world.retries.load(Ordering::Relaxed) >= 3);
    world.stop().expect("drained");
}

#[test]
fn a_retriable_failure_that_stays_is_dead_lettered_with_its_attempts() {
    let mut world = World::start(CommitMode::Kafka);
    world.send(&["retry for ever", "a"]);
    world.consumed(2);
    assert_eq!(world.dead(), [letter("busy", "3", "retry for ever")]);
    world.stop().expect("drained");
}

#[test]
fn poison_of_every_kind_is_dead_lettered_between_good_records() {
    for commit in [CommitMode::Kafka, CommitMode::AtLeastOnce] {
        let mut world = World::start(commit);
        world.send(&["a", "panic", "b", "huge", "c", "absorb", "d"]);
        world.consumed(7);
        assert_eq!(
            world.dead(),
            [
                letter("panic", "1", "panic"),
                letter("too_large", "1", "huge")
            ]
        );
        let absorbed = "quadrille_absorbed_total{pipeline=\"p\",reason=\"told\"} 1";
        assert!(world.registry.encode().contains(absorbed));
        world.stop().expect("drained");
    }
}

#[test]
fn what_is_beside_an_outcome_follows_it_and_is_dropped_alone_where_it_is_too_large() {
    for commit in [CommitMode::Kafka, CommitMode::AtLeastOnce] {
        let mut world = World::start(commit);
        world.send(&["a", "with two", "dead with one", "b"]);
        world.consumed(4);
        assert_eq!(world.out(), ["a", "one", "two", "three", "b"]);
        assert_eq!(world.dead(), [letter("told", "1", "dead with one")]);
        let text = world.registry.encode();
        for line in [
            "quadrille_extras_dropped_total{pipeline=\"p\",reason=\"too_large\"} 1",
            // Five outputs and a dead letter.
            "messaging_client_sent_messages_total{pipeline=\"p\",messaging_system=\"kafka\",messaging_operation_name=\"send\"} 6",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        world.stop().expect("drained");
    }
}

#[test]
fn a_fatal_failure_ends_the_stage_with_its_cause() {
    let mut world = World::start(CommitMode::Kafka);
    world.send(&["fatal"]);
    let deadline = Instant::now() + PATIENCE;
    while !world.stage.as_ref().is_some_and(RunningStage::has_ended) {
        assert!(Instant::now() < deadline, "the stage ends");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let error = world.stop().expect_err("it failed");
    assert!(error.to_string().contains("told: stop"), "{error}");
}

#[test]
fn a_stage_is_live_and_becomes_ready_when_its_handler_is_and_partitions_are_assigned() {
    let mut world = World::start_unready(CommitMode::Kafka);
    let health = world.stage.as_ref().expect("it runs").health();
    health.live().expect("alive from the start");
    // The broker answers, so nothing but the handler keeps the stage from its partitions.
    world.send(&["a"]);
    assert!(health.ready().is_err() && health.assigned_partitions() == 0);
    world.ready.store(true, Ordering::Release);
    let deadline = Instant::now() + PATIENCE;
    while health.ready().is_err() || health.assigned_partitions() < 2 {
        assert!(Instant::now() < deadline, "ready");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    world.stop().expect("drained");
    assert!(health.ready().is_err(), "no longer ready");
}

#[test]
fn a_stage_that_is_never_ready_ends_when_it_is_asked_to() {
    let mut world = World::start_unready(CommitMode::Kafka);
    world.stop().expect("nothing to drain");
}

fn held(stage: &RunningStage) -> usize {
    stage.health().assigned_partitions()
}

#[test]
fn a_partition_that_leaves_while_its_lane_waits_is_read_when_it_comes_back() {
    let world = World::new(2);
    world.ready.store(true, Ordering::Release);
    // Long enough for another member to come and go.
    let waits = limits(Duration::from_secs(40));
    let registry = Registry::default();
    let first = world.add("first", 1, CommitMode::Kafka, waits.clone(), &registry);
    until("both are the first's", || held(&first) == 2);
    world.send(&["retry once"]);
    until("it waits", || world.retries.load(Ordering::Relaxed) > 0);
    let other = Registry::default();
    let second = world.add("second", 1, CommitMode::Kafka, waits, &other);
    until("they share", || held(&first) == 1 && held(&second) == 1);
    second.stop();
    second.join().expect("drained");
    until("both are the first's again", || held(&first) == 2);
    world.send_to(0, &["a"]);
    world.send_to(1, &["b"]);
    until("all is handled", || {
        handled(&registry) + handled(&other) == 3
    });
    first.stop();
    first.join().expect("drained");
}

/// Records a stage has committed.
fn handled(registry: &Registry) -> u64 {
    let text = registry.encode();
    let name = "messaging_client_consumed_messages_total{pipeline=\"p\",";
    let mut lines = text.lines().filter(|line| line.starts_with(name));
    let found = lines.find_map(|line| Some(line.rsplit_once(' ')?.1));
    found.map_or(0, |count| count.parse().expect("a number"))
}

/// With zstd the client takes no more than it may receive: 100 MB. Between two such batches nothing lies.
fn step_past(commit: CommitMode) {
    // One lane: the broker forgets what a lane has committed when another takes its partition.
    let mut world = World::new(1);
    world.ready.store(true, Ordering::Release);
    let (registry, waits) = (world.registry.clone(), limits(Duration::from_millis(5)));
    world.stage = Some(world.add("test", 1, commit, waits, &registry));
    let mut settings = rdkafka::ClientConfig::new();
    let cluster = world.broker.cluster().expect("a cluster");
    settings
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("compression.type", "zstd")
        .set("message.max.bytes", "1000000000")
        .set("queue.buffering.max.kbytes", "2000000")
        .set("batch.size", "1000000000")
        .set("linger.ms", "60000");
    let sender: BaseProducer = settings.create().expect("a producer");
    let part = vec![b'x'; 40 << 20];
    world.send(&["a"]);
    for _ in 0..2 {
        for _ in 0..3 {
            let record = BaseRecord::<'_, [u8], [u8]>::to("in").partition(0);
            let sent = sender.send(record.payload(&part));
            sent.map_err(|(error, _)| error).expect("it is taken");
        }
        sender.flush(PATIENCE).expect("confirmed");
    }
    world.send(&["b"]);
    world.consumed(2);
    assert_eq!(world.out(), ["a", "b"]);
    let mut places = Vec::new();
    list_dead_letters(&cluster, "in.dlq", |letter| {
        let text = |name| letter.header(name).unwrap_or_default().to_owned();
        assert_eq!(letter.class(), Some("quadrille.unreadable"));
        assert_eq!(text("quadrille.errors.truncated"), "unreadable");
        assert_eq!(letter.payload, None);
        let names = ["__connect.errors.offset", "quadrille.errors.offset.last"];
        places.push(names.map(text));
        std::ops::ControlFlow::Continue(())
    })
    .expect("listed");
    let expected = [["1", "3"], ["4", "6"]].map(|it| it.map(str::to_owned));
    assert_eq!(places, expected);
    let count = "quadrille_dead_letters_truncated_total{pipeline=\"p\"} 2";
    assert!(world.registry.encode().lines().any(|line| line == count));
}

#[test]
fn batches_that_cannot_be_read_are_stepped_past() {
    step_past(CommitMode::Kafka);
}

#[test]
fn batches_that_cannot_be_read_are_stepped_past_at_least_once() {
    step_past(CommitMode::AtLeastOnce);
}

/// A time that the client would take for none, and put the present in its place.
#[test]
fn a_record_of_the_first_moment_of_1970_keeps_its_time() {
    let world = World::new(1);
    let cluster = world.broker.cluster().expect("a cluster");
    let old = Publication {
        topic: "out",
        partition: 0,
        key: b"k",
        payload: Some(b"old"),
        timestamp_ms: Some(0),
        headers: &[],
    };
    common::publish(&cluster, [old]);
    let mut times = Vec::new();
    list_dead_letters(&cluster, "out", |record| {
        times.push(record.timestamp_ms);
        std::ops::ControlFlow::Continue(())
    })
    .expect("listed");
    assert_eq!(times, [Some(1)]);
}

/// Keeps what it is given in a store that forgets it.
struct Keeper;

impl Handler for Keeper {
    type Record = ();

    fn decode(&mut self, _: &Incoming<'_>, (): &mut ()) -> Result<(), handler::Error> {
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, ()>], output: &mut Output) {
        items.iter().for_each(|_| output.absorb("kept"));
    }

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        Some(self)
    }
}

impl OffsetStore for Keeper {
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

#[test]
fn a_handler_that_does_not_fit_how_its_stage_commits_is_refused_before_it_runs() {
    let world = World::new(1);
    let registry = world.registry.clone();
    for commit in [CommitMode::Kafka, CommitMode::AtLeastOnce] {
        let stage = world.describe("test", 1, commit, limits(Duration::ZERO), &registry);
        let refused = stage.run(|_| Keeper).err().expect("nobody would commit it");
        assert!(
            matches!(
                refused,
                stage::Error::Store {
                    has_store: true,
                    ..
                }
            ),
            "{refused}"
        );
    }
    let limits = limits(Duration::ZERO);
    let stage = world.describe("test", 1, CommitMode::Store, limits, &registry);
    let refused = stage
        .run(|_| world.obedient())
        .err()
        .expect("it has no store");
    assert!(refused.to_string().contains("has no store"), "{refused}");
}

#[test]
fn a_record_goes_to_the_output_it_names_and_not_without_what_it_needs_beside_it() {
    for commit in [CommitMode::Kafka, CommitMode::AtLeastOnce] {
        let mut world = World::start(commit);
        world.send(&[
            "a",
            "with a change",
            "with a huge change",
            "forget",
            "elsewhere",
            "b",
        ]);
        world.consumed(6);
        assert_eq!(world.out(), ["a", "changed", "b"]);
        let (one, two) = (Some("1".to_owned()), Some("2".to_owned()));
        assert_eq!(world.changes(), [one, None, two]);
        let too_large = letter("too_large", "1", "with a huge change");
        assert_eq!(world.dead(), [too_large]);
        world.stop().expect("drained");
    }
}
