//! A pipeline that looks back: each vector is what a replay of the records computes, bit for bit, whatever is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use quadrille_pipeline::{Arrival, Pipeline, Replay, Replayed};
use quadrille_proto::{
    Service, dlq_of, open,
    v1::{FeatureVector, Record},
};
use rdkafka::{Message, message::OwnedMessage};

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, header},
    eventually_or_show,
    process::Process,
    world::World,
};

pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const KEYS: usize = 40;
/// The shortest session that a broker allows by default: who is killed is soon missed.
pub(crate) const SHORT: &str = "session.timeout.ms=6000";

pub(crate) const PIPELINE: &str = r#"
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

/// The n-th record as a user sends it: keys in turn, kinds and amounts mixed, some out of order, some far too late, some with
/// the id of the one before of their key.
pub(crate) fn record(n: usize, start_ms: i64) -> (String, String) {
    let key = format!("c{}", n % KEYS);
    let turn = n / KEYS;
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
        0 if turn > 0 => format!("r{}", n - KEYS),
        _ => format!("r{n}"),
    };
    let amount = match mixed % 11 {
        0 => "null".to_owned(),
        _ => format!("{}", (mixed % 100_000) as f64 / 7.0),
    };
    let time = start_ms + n as i64 * 250 - late_ms;
    let json = format!(
        r#"{{"id":"{id}","card":"{key}","time":{time},"amount":{amount},"kind":"{kind}"}}"#
    );
    (key, json)
}

pub(crate) fn start_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as i64 - 20 * 24 * 3_600_000
}

fn start(world: &World, instance: &str) -> Process {
    let launch = world.launch(Service::Feature, instance);
    launch.env("KAFKA_PROPERTIES", SHORT).start()
}

pub(crate) fn decode<M: prost::Message + Default>(message: &OwnedMessage) -> M {
    let (_, body) = open(message.payload().expect("a payload")).expect("sealed");
    M::decode(body).expect("decodes")
}

/// What a replay of the records in a partition's order makes of each.
#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    /// Of each partition the ids and vectors, bit by bit, in order.
    vectors: BTreeMap<i32, Vec<(String, Vec<u64>)>>,
    /// Late records and those too many.
    letters: BTreeSet<(i32, i64)>,
}

pub(crate) fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn expected(world: &World, pipeline: &Pipeline, client: &Client) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut replay = Replay::new(pipeline);
    for message in client.read(&world.topics().records) {
        let record: Record = decode(&message);
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
                let place = (message.partition(), message.offset());
                outcomes.letters.insert(place);
            }
            Replayed::StateOnly | Replayed::Duplicate => {}
        }
    }
    outcomes
}

fn found(world: &World, client: &Client) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for message in client.read(&world.topics().features) {
        let vector: FeatureVector = decode(&message);
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

impl Outcomes {
    fn len(&self) -> usize {
        self.vectors.values().map(Vec::len).sum::<usize>() + self.letters.len()
    }
}

/// Waits until as many outcomes are there as a replay has, and compares each.
pub(crate) fn check(world: &World, pipeline: &Pipeline, client: &Client, records: usize) {
    eventually_or_show("ingest has passed on all", PATIENCE, || {
        let passed = client.read(&world.topics().records).len();
        match passed >= records {
            true => Ok(()),
            false => Err(format!("{passed} of {records}")),
        }
    });
    let expected = expected(world, pipeline, client);
    eventually_or_show("each record has its outcome", PATIENCE * 2, || {
        let found = found(world, client).len();
        match found >= expected.len() {
            true => Ok(()),
            false => Err(format!("{found} of {}", expected.len())),
        }
    });
    let found = found(world, client);
    for (partition, vectors) in &expected.vectors {
        let of = &found.vectors[partition];
        for (at, (expected, found)) in vectors.iter().zip(of).enumerate() {
            assert_eq!(expected, found, "partition {partition}, vector {at}");
        }
    }
    assert!(found == expected, "some came twice, or letters differ");
}

#[test]
fn each_vector_is_what_a_replay_computes_although_its_processes_are_killed() {
    const RECORDS: usize = 2_500;
    /// Records a second.
    const RATE: u32 = 150;
    let world = World::pipeline("cards", PIPELINE, PARTITIONS);
    let pipeline = world.parsed();
    let client = Client::new(&world);
    let mut ingest = world.start(Service::Ingest, "a");
    let mut replicas = ["a", "b"].map(|instance| start(&world, instance));
    ingest.ready();
    replicas.iter_mut().for_each(|it| {
        it.ready();
    });
    let (started, start_ms) = (Instant::now(), start_ms());
    for n in 0..RECORDS {
        let due = started + Duration::from_secs(1) * n as u32 / RATE;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            // The load's pace, not a wait for a condition.
            std::thread::park_timeout(early);
        }
        if n % 250 == 125 {
            let turn = (n / 250) % 2;
            replicas[turn].kill();
            replicas[turn] = start(&world, ["a", "b"][turn]);
        }
        let (key, json) = record(n, start_ms);
        client.send(&world.topics().inbox, &Raw::json(&key, json));
    }
    client.flush();
    check(&world, &pipeline, &client, RECORDS);
    for replica in &mut replicas {
        replica.signal("TERM");
        assert_eq!(replica.wait().code(), Some(0), "it drains");
    }
}
