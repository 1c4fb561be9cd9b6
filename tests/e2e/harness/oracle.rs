//! What must hold after every fault: each record sent ends exactly once, in order within its key.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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

/// Checks that every id of `sent` has exactly one outcome and that each key's predictions are in order.
#[track_caller]
pub fn check(world: &World, results: SocketAddr, sent: &BTreeSet<String>) {
    stored(world, results, sent.len());
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    // Shadows' predictions are nobody's outcome.
    let live = predictions(world).into_iter().filter(|(_, it)| !it.shadow);
    for (partition, prediction) in live {
        let times = seen.entry(prediction.id.clone()).or_default();
        *times += 1;
        let before = last.insert(prediction.key.clone(), prediction.id.clone());
        assert!(
            before.as_ref() < Some(&prediction.id),
            "{} came after {before:?}, for time {times}, from {}-{} to partition {partition}",
            prediction.id,
            prediction.input_topic,
            format_args!("{}@{}", prediction.input_partition, prediction.input_offset),
        );
    }
    let doubled: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "predicted more than once: {doubled:?}");
    let missing: Vec<_> = sent.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert!(missing.is_empty(), "never predicted: {missing:?}");
    assert_eq!(seen.len(), sent.len(), "only what was sent is predicted");
    let client = Client::new(world);
    for topic in world.topics().flow() {
        let letters = client.read(&dlq_of(topic)).len();
        assert_eq!(letters, 0, "dead letters of {topic}");
    }
    let count = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    let (_, body) = http::get(results, &count);
    assert!(body.contains("\"duplicates\":0"), "{body}");
    assert_eq!(&rows(world, results), sent, "the rows are what was sent");
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
