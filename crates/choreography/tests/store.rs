//! A stage whose handler keeps its offsets itself, on the embedded broker: where its partitions go on, and what an
//! outage of its store does to them.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Admin, Cancelled, ClaimedOffsets, CommitMode, EmbeddedBroker, Handler, Incoming, Item, Limits,
    OffsetRange, OffsetStore, Output, Publication, Retention, RunningStage, Stage, StageConfig,
    TopicSpec, handler, list_dead_letters,
};
use quadrille_telemetry::{Registry, metrics::LoopMetrics};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of a topic.
const PARTITIONS: i32 = 2;

/// What the database holds, and how it is.
#[derive(Default)]
struct Database {
    next: BTreeMap<i32, i64>,
    rows: BTreeSet<(i32, i64)>,
    /// Rows that were stored again.
    doubled: Vec<(i32, i64)>,
    /// Partitions that were told to be cut off, and where they go on.
    cut: Vec<(i32, i64)>,
    reach: Reach,
    /// Questions it did not answer.
    unanswered: u32,
}

/// What becomes of who asks.
#[derive(Default, Clone, Copy, PartialEq)]
enum Reach {
    #[default]
    Answers,
    /// An error at once.
    Refuses,
    /// Nothing, for as long as the asker waits.
    IsSilent,
}

#[derive(Default, Clone)]
struct Shared(Arc<Mutex<Database>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Database> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, reach: Reach) {
        self.lock().reach = reach;
    }
}

struct Keeper {
    database: Shared,
    claimed: BTreeMap<i32, i64>,
    rows: Vec<(i32, i64)>,
}

impl Handler for Keeper {
    type Record = ();

    fn begin(&mut self) {
        self.rows.clear();
    }

    fn decode(&mut self, incoming: &Incoming<'_>, (): &mut ()) -> Result<(), handler::Error> {
        match incoming.payload {
            Some(b"poison") => Err(handler::Error::dead_letter("told", "no")),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, items: &[Item<'_, ()>], output: &mut Output) {
        for item in items {
            let incoming = item.incoming;
            self.rows.push((incoming.partition, incoming.offset));
            output.absorb("stored");
        }
    }

    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        Some(self)
    }
}

fn away() -> handler::Error {
    handler::Error::retry("database", "it is away")
}

impl OffsetStore for Keeper {
    fn claim(&mut self, partitions: &[i32]) -> Option<Result<ClaimedOffsets, handler::Error>> {
        let mut database = self.database.lock();
        match database.reach {
            Reach::Answers => {}
            Reach::Refuses => {
                database.unanswered += 1;
                return Some(Err(away()));
            }
            Reach::IsSilent => {
                database.unanswered += 1;
                return None;
            }
        }
        let next = |partition: &i32| (*partition, database.next.get(partition).copied());
        let claimed: ClaimedOffsets = partitions.iter().map(next).collect();
        for (partition, next) in &claimed {
            self.claimed.insert(*partition, next.unwrap_or(0));
        }
        Some(Ok(claimed))
    }

    fn next(&self, partition: i32) -> Option<i64> {
        self.claimed.get(&partition).copied()
    }

    fn commit(
        &mut self,
        ranges: &[OffsetRange],
        cancelled: Cancelled<'_>,
    ) -> Result<(), handler::Error> {
        loop {
            let mut database = self.database.lock();
            match database.reach {
                Reach::Answers => break,
                Reach::Refuses => {
                    database.unanswered += 1;
                    return Err(away());
                }
                Reach::IsSilent => database.unanswered += 1,
            }
            drop(database);
            if cancelled() {
                return Err(away());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let mut database = self.database.lock();
        for range in ranges {
            let stored = database.next.get(&range.partition).copied().unwrap_or(0);
            let claimed = self.claimed.get(&range.partition).copied();
            assert_eq!(claimed, Some(stored), "nobody else holds {range:?}");
            assert!(range.first >= stored, "{range:?} begins before {stored}");
            database.next.insert(range.partition, range.next);
            self.claimed.insert(range.partition, range.next);
        }
        for row in &self.rows {
            if !database.rows.insert(*row) {
                database.doubled.push(*row);
            }
        }
        Ok(())
    }

    fn truncated(
        &mut self,
        partition: i32,
        next: i64,
        _: Cancelled<'_>,
    ) -> Result<(), handler::Error> {
        let mut database = self.database.lock();
        database.cut.push((partition, next));
        database.next.insert(partition, next);
        self.claimed.insert(partition, next);
        Ok(())
    }
}

struct World {
    broker: EmbeddedBroker,
    registry: Registry,
    database: Shared,
}

impl World {
    fn new() -> Self {
        let broker = EmbeddedBroker::start().expect("the embedded broker");
        let spec = |name: &str| TopicSpec {
            name: name.to_owned(),
            partitions: PARTITIONS,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        let names = ["in", "in.dlq", "quadrille.schemas"];
        broker.create(&names.map(spec)).expect("topics");
        World {
            broker,
            registry: Registry::default(),
            database: Shared::default(),
        }
    }

    /// A member of the group, with one lane.
    fn start(&self, instance: &str) -> RunningStage {
        let config = StageConfig {
            cluster: self.broker.cluster().expect("a cluster"),
            service: "results",
            pipeline: "p".to_owned(),
            group: "quadrille.results.p".to_owned(),
            input: "in".to_owned(),
            outputs: Vec::new(),
            instance: instance.to_owned(),
            lanes: 1,
            commit: CommitMode::Store,
            limits: Limits::default(),
            latency_objective: None,
        };
        let topics = Admin::connect(&config.cluster)
            .and_then(|admin| admin.prepare(&config))
            .expect("topics");
        let metrics = LoopMetrics::register(&self.registry);
        let tracing = quadrille_telemetry::Tracing::off();
        let stage = Stage::new(config, topics, &metrics, tracing);
        let stage = stage.run(|_| Keeper {
            database: self.database.clone(),
            claimed: BTreeMap::new(),
            rows: Vec::new(),
        });
        stage.expect("a stage")
    }

    fn send(&self, partition: i32, texts: &[&str]) {
        let cluster = self.broker.cluster().expect("a cluster");
        common::publish(
            &cluster,
            texts.iter().map(|text| Publication {
                topic: "in",
                partition,
                key: b"k",
                payload: Some(text.as_bytes()),
                timestamp_ms: None,
                headers: &[],
            }),
        );
    }

    /// A batch of three records. With zstd the client takes no more than it may receive: 100 MB.
    fn send_unreadable(&self, partition: i32) {
        let cluster = self.broker.cluster().expect("a cluster");
        let mut settings = rdkafka::ClientConfig::new();
        settings
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("compression.type", "zstd")
            .set("message.max.bytes", "1000000000")
            .set("queue.buffering.max.kbytes", "2000000")
            .set("batch.size", "1000000000")
            .set("linger.ms", "60000");
        let sender: BaseProducer = settings.create().expect("a producer");
        let part = vec![b'x'; 40 << 20];
        for _ in 0..3 {
            let record = BaseRecord::<'_, [u8], [u8]>::to("in").partition(partition);
            let sent = sender.send(record.payload(&part));
            sent.map_err(|(error, _)| error).expect("it is taken");
        }
        sender.flush(PATIENCE).expect("confirmed");
    }

    /// Waits until exactly these rows are there.
    #[track_caller]
    fn stored(&self, rows: impl IntoIterator<Item = (i32, i64)>) {
        let rows: BTreeSet<_> = rows.into_iter().collect();
        until("the rows are stored", || {
            self.database.lock().rows.len() >= rows.len()
        });
        let database = self.database.lock();
        assert_eq!(database.rows, rows);
        assert_eq!(database.doubled, []);
    }

    fn unanswered(&self) -> u32 {
        self.database.lock().unanswered
    }

    /// Waits until the database was asked so many times in vain.
    #[track_caller]
    fn asked_in_vain(&self, times: u32) {
        let before = self.unanswered();
        until("it is asked in vain", || {
            self.unanswered() >= before + times
        });
    }

    fn letters(&self) -> Vec<(i32, Vec<u8>)> {
        let mut letters = Vec::new();
        let cluster = self.broker.cluster().expect("a cluster");
        list_dead_letters(&cluster, "in.dlq", |letter| {
            letters.push((letter.partition, letter.payload.unwrap_or_default()));
            std::ops::ControlFlow::Continue(())
        })
        .expect("listed");
        letters
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

fn held(stage: &RunningStage) -> usize {
    stage.health().assigned_partitions()
}

/// Asks it to end, and is sure that it does.
fn end(stage: RunningStage) -> Duration {
    let began = Instant::now();
    stage.stop();
    until("it ends", || stage.has_ended());
    stage.join().expect("drained");
    began.elapsed()
}

#[test]
fn a_partition_goes_on_where_the_store_says() {
    let world = World::new();
    world.send(0, &["0", "1", "2", "3"]);
    world.send(1, &["0", "1"]);
    world.database.lock().next.insert(0, 3);
    let stage = world.start("a");
    world.stored([(0, 3), (1, 0), (1, 1)]);
    end(stage);
    // Kafka's group stands at the ends now; the store at its beginnings.
    world.database.lock().next.clear();
    world.database.lock().rows.clear();
    let stage = world.start("a");
    world.stored([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]);
    end(stage);
}

/// Members come, go and share while nobody knows where to go on.
fn the_group_lives_on(without_an_answer: Reach) {
    let world = World::new();
    world.send(0, &["0", "1"]);
    world.database.set(without_an_answer);
    let first = world.start("first");
    until("both are the first's", || held(&first) == 2);
    world.asked_in_vain(2);
    let second = world.start("second");
    until("they share", || held(&first) == 1 && held(&second) == 1);
    world.asked_in_vain(2);
    let took = end(second);
    assert!(took < Duration::from_secs(10), "{took:?}");
    until("both are the first's again", || held(&first) == 2);
    world.database.set(Reach::Answers);
    world.send(1, &["0"]);
    world.stored([(0, 0), (0, 1), (1, 0)]);
    end(first);
}

#[test]
fn a_store_that_refuses_costs_neither_the_group_nor_the_end() {
    the_group_lives_on(Reach::Refuses);
}

#[test]
fn a_store_that_is_silent_costs_neither_the_group_nor_the_end() {
    the_group_lives_on(Reach::IsSilent);
}

#[test]
fn a_partition_that_is_open_goes_on_while_another_waits() {
    let world = World::new();
    let first = world.start("first");
    until("both are the first's", || held(&first) == 2);
    world.send(0, &["0"]);
    world.send(1, &["0"]);
    world.stored([(0, 0), (1, 0)]);
    let second = world.start("second");
    until("they share", || held(&first) == 1 && held(&second) == 1);
    world.send(0, &["1"]);
    world.send(1, &["1"]);
    world.stored([(0, 0), (0, 1), (1, 0), (1, 1)]);
    end(first);
    until("all is the second's", || held(&second) == 2);
    world.send(0, &["2"]);
    world.send(1, &["2"]);
    world.stored([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    end(second);
}

#[test]
fn an_outage_of_the_store_makes_one_dead_letter_of_a_record_however_long_it_is() {
    let world = World::new();
    world.database.set(Reach::Refuses);
    world.send(0, &["0", "poison", "2"]);
    world.send(1, &["poison"]);
    let stage = world.start("a");
    until("all are held", || held(&stage) == 2);
    world.database.set(Reach::Answers);
    until("some are stored", || !world.database.lock().rows.is_empty());
    world.stored([(0, 0), (0, 2)]);
    world.database.set(Reach::Refuses);
    world.send(0, &["poison", "4", "poison"]);
    world.asked_in_vain(6);
    world.send(1, &["poison"]);
    world.asked_in_vain(3);
    world.database.set(Reach::Answers);
    world.stored([(0, 0), (0, 2), (0, 4)]);
    until("all is counted", || {
        let dead = "quadrille_dead_letters_total{pipeline=\"p\",reason=\"told\"} 5";
        world.registry.encode().contains(dead)
    });
    let letters = world.letters();
    assert_eq!(letters.len(), 5, "{letters:?}");
    assert!(letters.iter().all(|(_, payload)| payload == b"poison"));
    end(stage);
}

#[test]
fn an_outage_of_the_store_makes_one_letter_of_a_batch_that_cannot_be_read() {
    let world = World::new();
    let stage = world.start("a");
    until("all are held", || held(&stage) == 2);
    world.send(0, &["0"]);
    world.stored([(0, 0)]);
    world.database.set(Reach::Refuses);
    world.send_unreadable(0);
    world.asked_in_vain(4);
    world.database.set(Reach::Answers);
    world.send(0, &["4"]);
    world.stored([(0, 0), (0, 4)]);
    assert_eq!(world.letters(), [(0, Vec::new())]);
    end(stage);
}

#[test]
fn a_stage_ends_while_its_store_is_silent_in_the_middle_of_a_commit() {
    let world = World::new();
    let stage = world.start("a");
    until("all are held", || held(&stage) == 2);
    world.send(0, &["0"]);
    world.stored([(0, 0)]);
    world.database.set(Reach::IsSilent);
    world.send(0, &["1"]);
    world.asked_in_vain(1);
    let took = end(stage);
    assert!(took < Duration::from_secs(10), "{took:?}");
    world.database.set(Reach::Answers);
    let stage = world.start("a");
    world.stored([(0, 0), (0, 1)]);
    end(stage);
}

#[test]
fn a_log_that_ends_before_what_is_stored_is_read_from_its_beginning_in_a_new_generation() {
    let world = World::new();
    world.send(0, &["0", "1"]);
    world.send(1, &["0"]);
    world.database.lock().next.insert(0, 100);
    let stage = world.start("a");
    world.stored([(0, 0), (0, 1), (1, 0)]);
    assert_eq!(world.database.lock().cut, [(0, 0)]);
    world.send(0, &["2"]);
    world.stored([(0, 0), (0, 1), (0, 2), (1, 0)]);
    end(stage);
}
