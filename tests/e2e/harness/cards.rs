//! A pipeline that looks back, a load for it, and what must come of it: of each record what a replay of the records computes,
//! bit for bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use quadrille_pipeline::{Arrival, Pipeline, Replay, Replayed};
use quadrille_proto::{
    Service, dlq_of, open,
    v1::{FeatureVector, Record},
};
use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer},
    message::OwnedMessage,
};

use super::{
    PATIENCE,
    client::{Client, Raw, header},
    eventually_or_show,
    process::{Launch, Process},
    world::World,
};

pub const PARTITIONS: i32 = 4;
pub const KEYS: usize = 40;
/// The shortest session that a broker allows by default: who is killed is soon missed.
pub const SHORT: &str = "session.timeout.ms=6000";

pub const PIPELINE: &str = r#"
name = "cards"

[record]
id = "id"
key = "card"
event_time = "time"

[[record.fields]]
name = "amount"
type = "number"
required = false

[[record.fields]]
name = "kind"
type = "category"
categories = ["payment", "refund", "note", "close"]

[state]
lateness = "2m"
forget_after = "1h"
events_max = 200
emit = { field = "kind", is = ["payment", "refund", "close"] }
reset = { field = "kind", is = ["close"] }

[[features]]
name = "payments"
kind = "count"
where = { field = "kind", is = ["payment"] }

[[features]]
name = "spent"
kind = "sum"
field = "amount"
to = "1m"

[[features]]
name = "usual"
kind = "mean"
field = "amount"
from = "10s"
to = "10m"
current = false

[[features]]
name = "middle"
kind = "median"
field = "amount"
newest = 9

[[features]]
name = "spread"
kind = "stddev"
field = "amount"
to = "5m"

[[features]]
name = "smooth"
kind = "ewma"
field = "amount"
half_life = "1m"

[[features]]
name = "before"
kind = "lag"
field = "amount"
n = 2

[[features]]
name = "quiet"
kind = "time_since"

[[features]]
name = "kinds"
kind = "distinct"
field = "kind"
to = "3m"

[[features]]
name = "times"
kind = "ratio"
field = "spent"
over = "usual"

[model]
inputs = ["payments", "spent", "usual", "middle", "spread", "smooth", "before", "quiet", "kinds", "times"]
"#;

/// How much time passes from a key's record to its next one.
const TURN_MS: usize = 10_000;

/// The n-th record as a user sends it: so many keys in turn, kinds and amounts mixed, some out of order, some far too late, some
/// with the id of the one before of their key.
pub fn record(n: usize, keys: usize, start_ms: i64) -> (String, String) {
    let key = format!("c{}", n % keys);
    let turn = n / keys;
    let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let kind = match mixed % 20 {
        0 => "close",
        1..=3 => "note",
        4..=6 => "refund",
        _ => "payment",
    };
    let late_ms = match mixed % 17 {
        0 => 600_000,
        1..=4 => (mixed % 90_000) as i64,
        _ => 0,
    };
    let id = match mixed % 23 {
        0 if turn > 0 => format!("r{}", n - keys),
        _ => format!("r{n}"),
    };
    let amount = match mixed % 11 {
        0 => "null".to_owned(),
        _ => format!("{}", (mixed % 100_000) as f64 / 7.0),
    };
    let time = start_ms + (n * TURN_MS / keys) as i64 - late_ms;
    let json = format!(
        r#"{{"id":"{id}","card":"{key}","time":{time},"amount":{amount},"kind":"{kind}"}}"#
    );
    (key, json)
}

/// The time of the first record: some weeks ago.
pub fn start_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64 - 20 * 24 * 3_600_000
}

/// A world of the pipeline, its ingest, and the load so far.
pub struct Cards {
    pub world: World,
    pub client: Client,
    pub pipeline: Pipeline,
    pub keys: usize,
    _ingest: Process,
    start_ms: i64,
    sent: usize,
}

impl Cards {
    pub fn new() -> Self {
        Self::of(World::pipeline("cards", PIPELINE, PARTITIONS))
    }

    /// Of so many cards.
    pub fn many(keys: usize) -> Self {
        Cards {
            keys,
            ..Self::new()
        }
    }

    pub fn of(world: World) -> Self {
        let mut ingest = world.start(Service::Ingest, "a");
        ingest.ready();
        Cards {
            client: Client::new(&world),
            pipeline: world.parsed(),
            keys: KEYS,
            _ingest: ingest,
            start_ms: start_ms(),
            sent: 0,
            world,
        }
    }

    /// A replica that keeps its state in memory.
    pub fn replica(&self, instance: &str) -> Launch {
        let launch = self.world.launch(Service::Feature, instance);
        launch.env("KAFKA_PROPERTIES", SHORT)
    }

    /// Where [`Cards::replica_on_disk`] keeps it.
    pub fn state(&self, instance: &str) -> PathBuf {
        self.world.folder.path().join(format!("state-{instance}"))
    }

    pub fn replica_on_disk(&self, instance: &str) -> Launch {
        let folder = self.state(instance);
        let folder = folder.to_str().expect("a path of text");
        self.replica(instance).env("QUADRILLE_STATE_DIR", folder)
    }

    /// Sends so many records more at this rate, records a second; calls `at` with the number of each of these before it is sent.
    pub fn send(&mut self, records: usize, rate: u32, mut at: impl FnMut(usize)) {
        let started = Instant::now();
        for n in 0..records {
            let due = started + Duration::from_secs(1) * n as u32 / rate;
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                // The load's pace, not a wait for a condition.
                std::thread::park_timeout(early);
            }
            at(n);
            let (key, json) = record(self.sent, self.keys, self.start_ms);
            let raw = Raw::json(&key, json);
            self.client.send(&self.world.topics().inbox, &raw);
            self.sent += 1;
        }
        self.client.flush();
    }

    /// Puts what is no record of ours on the topic that the replicas read.
    pub fn send_garbage(&mut self, partition: i32) {
        let raw = Raw {
            partition: Some(partition),
            value: Some(b"no record".to_vec()),
            ..Raw::default()
        };
        self.client.send(&self.world.topics().records, &raw);
        self.sent += 1;
    }

    /// All records that were sent, as ingest passed them on.
    #[track_caller]
    pub fn records(&self) -> Vec<OwnedMessage> {
        passed(&self.world, &self.client, self.sent)
    }

    /// Of each partition how long the changelog is, markers included.
    pub fn changelog(&self) -> BTreeMap<i32, u64> {
        let topic = format!("{}.feature-state", self.world.pipeline);
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.world.bootstrap)
            .create()
            .expect("a consumer");
        let length = |partition| {
            let found = consumer.fetch_watermarks(&topic, partition, PATIENCE);
            let (begin, end) = found.expect("Kafka answers");
            (partition, (end - begin).unsigned_abs())
        };
        (0..self.world.partitions).map(length).collect()
    }

    /// As the function [`check`], of all records that were sent.
    #[track_caller]
    pub fn check(&self) {
        check(&self.world, &self.pipeline, &self.client, self.sent);
    }

    /// Vectors and dead letters, once there are at least so many.
    #[track_caller]
    pub fn outcomes(&self, count: usize) -> Outcomes {
        outcomes(&self.world, &self.client, count)
    }
}

/// Waits until as many outcomes are there as a replay has, and compares each.
#[track_caller]
pub fn check(world: &World, pipeline: &Pipeline, client: &Client, records: usize) {
    let expected = expected(pipeline, &passed(world, client, records));
    let found = outcomes(world, client, expected.len());
    expected.check(&found);
}

#[track_caller]
fn passed(world: &World, client: &Client, records: usize) -> Vec<OwnedMessage> {
    eventually_or_show("ingest has passed on all", PATIENCE, || {
        let passed = client.read(&world.topics().records);
        match passed.len() >= records {
            true => Ok(passed),
            false => Err(format!("{} of {records}", passed.len())),
        }
    })
}

#[track_caller]
fn outcomes(world: &World, client: &Client, count: usize) -> Outcomes {
    eventually_or_show("each record has its outcome", PATIENCE * 2, || {
        let found = found(world, client);
        match found.len() >= count {
            true => Ok(found),
            false => Err(format!("{} of {count}", found.len())),
        }
    })
}

/// None of what was never ours.
pub fn decode<M: prost::Message + Default>(message: &OwnedMessage) -> Option<M> {
    let (_, body) = open(message.payload()?).ok()?;
    M::decode(body).ok()
}

/// A vector's id and its values, bit by bit.
pub type Vector = (String, Vec<u64>);

/// What became of the records.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Of each partition, in order.
    pub vectors: BTreeMap<i32, Vec<Vector>>,
    /// Dead letters, by the records' partitions and offsets: late, too many, or no records.
    pub letters: BTreeSet<(i32, i64)>,
    /// Records without an outcome of their own, as a replay says: no topic shows them.
    pub absorbed: usize,
}

impl Outcomes {
    pub fn len(&self) -> usize {
        self.vectors.values().map(Vec::len).sum::<usize>() + self.letters.len()
    }

    /// The ids of all vectors, by partition and in order.
    pub fn ids(&self) -> Vec<(i32, &str)> {
        let vectors = self.vectors.iter();
        vectors
            .flat_map(|(partition, all)| all.iter().map(|(id, _)| (*partition, &**id)))
            .collect()
    }

    /// Fails where `found` is not the same.
    #[track_caller]
    pub fn check(&self, found: &Outcomes) {
        for (partition, vectors) in &self.vectors {
            let of = &found.vectors[partition];
            for (at, (expected, found)) in vectors.iter().zip(of).enumerate() {
                assert_eq!(expected, found, "partition {partition}, vector {at}");
            }
        }
        assert_eq!(self.ids(), found.ids(), "no more than these");
        assert_eq!(self.letters, found.letters, "dead letters");
    }
}

pub fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What a replay makes of records in the order of their partitions.
pub fn expected<'a>(
    pipeline: &Pipeline,
    records: impl IntoIterator<Item = &'a OwnedMessage>,
) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut replay = Replay::new(pipeline);
    for message in records {
        let place = (message.partition(), message.offset());
        let Some(record) = decode::<Record>(message) else {
            outcomes.letters.insert(place);
            continue;
        };
        let arrival = Arrival {
            id: &record.id,
            key: &record.key,
            time_ms: record.event_time_ms,
            values: &record.values,
        };
        match replay.push(&arrival) {
            Replayed::Vector(values) => {
                let vectors = outcomes.vectors.entry(message.partition()).or_default();
                vectors.push((record.id.clone(), bits(values)));
            }
            Replayed::Late { .. } | Replayed::TooMany => {
                outcomes.letters.insert(place);
            }
            Replayed::StateOnly | Replayed::Duplicate => outcomes.absorbed += 1,
        }
    }
    outcomes
}

fn found(world: &World, client: &Client) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for message in client.read(&world.topics().features) {
        let vector: FeatureVector = decode(&message).expect("a vector");
        let vectors = outcomes.vectors.entry(message.partition()).or_default();
        vectors.push((vector.id, bits(&vector.values)));
    }
    for letter in client.read(&dlq_of(&world.topics().records)) {
        let of = |name: &str| header(&letter, name).expect("a header");
        let partition = of("__connect.errors.partition").parse();
        let offset = of("__connect.errors.offset").parse();
        let place = (partition.expect("a number"), offset.expect("a number"));
        assert!(outcomes.letters.insert(place), "{place:?} comes twice");
    }
    outcomes
}
