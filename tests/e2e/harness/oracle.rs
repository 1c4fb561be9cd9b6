//! What must hold after every fault: each record sent ends exactly once, in order within its key, and each poisoned one
//! as exactly one dead letter with its own bytes.

mod hops;
pub mod quiescence;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use prost::Message as _;
use quadrille_proto::{dlq_of, v1::Prediction};
use rdkafka::Message;

use super::{
    PATIENCE,
    client::{Client, Raw, record},
    eventually, http,
    world::World,
};

/// What a run sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// Ids of which each must be predicted and stored.
    pub good: BTreeSet<String>,
    /// By topic the payloads that must end as dead letters of that topic.
    pub poison: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

/// What is promised of a run's outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// One prediction or one dead letter each.
    ExactlyOnce,
    /// The same, but results crashed: dead letters of its topic may be repeated.
    ResultsCrashed,
    /// Whatever travels between the services may be repeated, but no id is overtaken and none is stored twice.
    AtLeastOnce,
    /// Pushes were sent again under the same ids until they were acknowledged: records may be repeated from there on.
    PushedAgain,
}

impl Promise {
    fn allows_repeats(self) -> bool {
        matches!(self, Promise::AtLeastOnce | Promise::PushedAgain)
    }
}

/// The records of a run: `keys` patients, each numbered on its own.
pub struct Load {
    pub records: u32,
    pub keys: u32,
    /// Records a second.
    pub rate: u32,
}

impl Load {
    pub fn id(&self, n: u32) -> String {
        format!("p{}#{:06}", n % self.keys, n / self.keys)
    }

    /// Sends record after record at the load's rate; calls `at` with each number before it is sent.
    pub fn send(&self, world: &World, mut at: impl FnMut(u32)) -> BTreeSet<String> {
        self.send_while(world, |n| {
            at(n);
            true
        })
    }

    /// As [`Load::send`], for as long as `at` says so.
    pub fn send_while(&self, world: &World, at: impl FnMut(u32) -> bool) -> BTreeSet<String> {
        self.send_from(world, 0, at)
    }

    /// As [`Load::send`]; every `every`th record is followed by one that cannot be handled, on each topic of the figure in turn.
    pub fn send_poisoned(&self, world: &World, every: u32, mut at: impl FnMut(u32)) -> Sent {
        let client = Client::new(world);
        let topics = world.topics();
        let mut poison: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let good = self.send(world, |n| {
            at(n);
            if n % every == 0 {
                let topic = topics.flow()[(n / every) as usize % topics.flow().len()];
                let bytes = format!("poison of number {n:08}").into_bytes();
                let raw = Raw {
                    value: Some(bytes.clone()),
                    ..Raw::default()
                };
                client.send(topic, &raw);
                poison.entry(topic.to_owned()).or_default().insert(bytes);
            }
        });
        client.flush();
        Sent { good, poison }
    }

    /// As [`Load::send_while`], from the record of number `first` on: a second load's ids are its own.
    pub fn send_from(
        &self,
        world: &World,
        first: u32,
        mut at: impl FnMut(u32) -> bool,
    ) -> BTreeSet<String> {
        let client = Client::new(world);
        let topic = world.topics().inbox;
        let started = Instant::now();
        let mut sent = BTreeSet::new();
        for n in first..self.records {
            let due = started + Duration::from_secs(1) * (n - first) / self.rate;
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                // The load's pace, not a wait for a condition.
                std::thread::park_timeout(early);
            }
            if !at(n) {
                break;
            }
            let key = format!("p{}", n % self.keys);
            let id = self.id(n);
            client.send(&topic, &Raw::json(&key, record(&id, &key, 80 + n % 100)));
            sent.insert(id);
        }
        client.flush();
        sent
    }
}

/// A prediction as it lies on its topic.
pub fn predictions(world: &World) -> Vec<(i32, Prediction)> {
    let client = Client::new(world);
    client
        .read(&world.topics().predictions)
        .iter()
        .map(|message| {
            let (_, bytes) =
                quadrille_proto::open(message.payload().expect("a payload")).expect("sealed");
            (
                message.partition(),
                Prediction::decode(bytes).expect("a prediction"),
            )
        })
        .collect()
}

/// Waits until results has stored `count` rows.
#[track_caller]
pub fn stored(world: &World, results: SocketAddr, count: usize) {
    let path = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    let mut last = String::new();
    let expected = format!("\"count\":{count},");
    let wait = Duration::from_secs(60) + PATIENCE;
    let deadline = Instant::now() + wait;
    eventually(&format!("{count} rows are stored"), wait + PATIENCE, || {
        if let Some((200, body)) = http::try_request(results, "GET", &path, &[], b"") {
            last = body;
        }
        assert!(
            Instant::now() < deadline,
            "{count} rows were expected, there are {last}"
        );
        last.contains(&expected).then_some(())
    });
}

/// Checks that every id of `sent` has exactly one outcome and that each key's records are in order on every topic.
#[track_caller]
pub fn check(world: &World, results: SocketAddr, sent: &BTreeSet<String>) {
    let sent = Sent {
        good: sent.clone(),
        poison: BTreeMap::new(),
    };
    check_sent(world, results, &sent, Promise::ExactlyOnce);
}

/// As [`check`], of a run that may have sent poison and was promised something else.
#[track_caller]
pub fn check_sent(world: &World, results: SocketAddr, sent: &Sent, promise: Promise) {
    stored(world, results, sent.good.len());
    // What was doubled or is late shows only once nothing is on its way any more.
    quiescence::wait(world);
    let repeats = hops::repeats(world, &sent.good);
    hops::check(world, &sent.good, &repeats, promise);
    check_letters(world, sent, promise);
    let count = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    let (_, body) = http::get(results, &count);
    if !promise.allows_repeats() {
        let repeated: usize = repeats.values().map(|times| times - 1).sum();
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["duplicates"], repeated, "{body}");
    }
    assert_eq!(
        &rows(world, results),
        &sent.good,
        "the rows are what was sent"
    );
}

/// Each poisoned record is one dead letter of its topic, byte for byte, and there is no other.
#[track_caller]
fn check_letters(world: &World, sent: &Sent, promise: Promise) {
    let client = Client::new(world);
    let topics = world.topics();
    for topic in topics.flow() {
        let none = BTreeSet::new();
        let expected = sent.poison.get(topic).unwrap_or(&none);
        let letters = client.read(&dlq_of(topic));
        let found: BTreeSet<Vec<u8>> = letters
            .iter()
            .map(|letter| letter.payload().unwrap_or_default().to_vec())
            .collect();
        let show = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let missing: Vec<_> = expected.difference(&found).map(show).collect();
        assert!(
            missing.is_empty(),
            "no dead letter on {topic} of {missing:?}"
        );
        let unasked: Vec<_> = found.difference(expected).map(show).collect();
        assert!(unasked.is_empty(), "dead letters on {topic} of {unasked:?}");
        let crashed = promise == Promise::ResultsCrashed && topic == topics.predictions;
        if !promise.allows_repeats() && !crashed {
            assert_eq!(
                letters.len(),
                expected.len(),
                "{topic}: repeated dead letters"
            );
        }
    }
}

/// The ids of all stored rows, page by page.
#[track_caller]
pub fn rows(world: &World, results: SocketAddr) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut token = String::new();
    loop {
        let path = format!(
            "/v1/pipelines/{}/predictions?limit=1000&page_token={token}",
            world.pipeline
        );
        let (status, body) = http::get(results, &path);
        assert_eq!(status, 200, "{body}");
        let page: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        for row in page["predictions"].as_array().expect("a list") {
            let id = row["id"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{id} is on two pages");
        }
        token = page["next_page_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if token.is_empty() {
            return ids;
        }
    }
}
