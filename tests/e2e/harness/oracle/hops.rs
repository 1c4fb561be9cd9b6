//! What lies on the topics between the services: every id there, in order within its key.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use quadrille_proto::{
    SchemaId,
    v1::{FeatureVector, Prediction, Record},
};
use rdkafka::{Message as _, message::OwnedMessage};

use super::Promise;
use crate::harness::{client::Client, world::World};

/// Id and key of a record of the figure; None for what is nobody's outcome or was never ours.
type Read = fn(&[u8]) -> Option<(String, String)>;

/// How often the run's own client wrote each id to the inbox, where that was more than once.
pub type Repeats = BTreeMap<String, usize>;

/// What the client itself wrote more than once. Its producer is idempotent, and still repeats a record now and then when
/// a leader changes: a batch that failed behind another one in flight makes it begin a new epoch, in which it
/// sends again what it was not told about on other partitions (librdkafka 2.12.1, confluentinc/librdkafka#4953). Each of these is a record
/// that was accepted.
pub fn repeats(world: &World, good: &BTreeSet<String>) -> Repeats {
    let client = Client::new(world);
    let mut times = Repeats::new();
    for message in client.read(&world.topics().inbox) {
        let payload = message.payload().unwrap_or_default();
        let json = serde_json::from_slice::<serde_json::Value>(payload).ok();
        let id = json.as_ref().and_then(|json| json["id"].as_str());
        if let Some(id) = id.filter(|id| good.contains(*id)) {
            *times.entry(id.to_owned()).or_default() += 1;
        }
    }
    times.retain(|_, times| *times > 1);
    times
}

/// Checks each hop's topic: all ids of `good`, each as often as the client wrote it unless more is promised, and no id
/// before an earlier one of its key.
#[track_caller]
pub fn check(world: &World, good: &BTreeSet<String>, repeats: &Repeats, promise: Promise) {
    let topics = world.topics();
    let hops: [(&str, Read); 3] = [
        (&topics.records, |bytes| {
            let record = Record::decode(bytes).ok()?;
            Some((record.id, record.key))
        }),
        (&topics.features, |bytes| {
            let features = FeatureVector::decode(bytes).ok()?;
            Some((features.id, features.key))
        }),
        (&topics.predictions, |bytes| {
            // A shadow's predictions are nobody's outcome.
            let prediction = Prediction::decode(bytes).ok().filter(|it| !it.shadow)?;
            Some((prediction.id, prediction.key))
        }),
    ];
    let client = Client::new(world);
    for (topic, read) in hops {
        let messages = client.read(topic);
        check_hop(topic, &messages, read, (good, repeats), promise);
    }
}

#[track_caller]
fn check_hop(
    topic: &str,
    messages: &[OwnedMessage],
    read: Read,
    (good, repeats): (&BTreeSet<String>, &Repeats),
    promise: Promise,
) {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for message in messages {
        // Poison that was written here is not sealed by us.
        let sealed = message
            .payload()
            .and_then(|payload| quadrille_proto::open(payload).ok());
        let Some((id, key)) = sealed.and_then(|(_, bytes)| read(bytes)) else {
            continue;
        };
        assert!(good.contains(&id), "{topic}: {id} was never sent");
        let place = format!("{}@{}", message.partition(), message.offset());
        let places = seen.entry(id.clone()).or_default();
        places.push(place.clone());
        if places.len() > 1 {
            continue;
        }
        let before = last.insert(key, id.clone());
        assert!(
            before.as_ref() < Some(&id),
            "{topic}: {id} at {place} came after {before:?}"
        );
    }
    if !promise.allows_repeats() {
        let expected = |id: &String| repeats.get(id).copied().unwrap_or(1);
        let repeated: Vec<_> = seen
            .iter()
            .filter(|(id, places)| places.len() > expected(id))
            .collect();
        assert!(repeated.is_empty(), "{topic}: more than once: {repeated:?}");
        let short: Vec<_> = seen
            .iter()
            .filter(|(id, places)| places.len() < expected(id))
            .collect();
        assert!(short.is_empty(), "{topic}: not as often as sent: {short:?}");
    }
    let missing: Vec<_> = good.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{topic}: never there: {missing:?}");
}

/// A hop of keys `a` and `b`, whose ids are the key and a number; what the oracle says of it, if it complains.
fn judged(records: &[&str], repeats: &Repeats, promise: Promise) -> Option<String> {
    let good: BTreeSet<String> = ["a1", "a2", "b1"].map(str::to_owned).into();
    let messages: Vec<OwnedMessage> = (0_i64..)
        .zip(records)
        .map(|(offset, id)| {
            let record = Record {
                id: (*id).to_owned(),
                key: id.chars().take(1).collect(),
                ..Record::default()
            };
            let mut sealed = Vec::new();
            quadrille_proto::seal(SchemaId(0), &record, &mut sealed);
            let time = rdkafka::Timestamp::NotAvailable;
            OwnedMessage::new(Some(sealed), None, "t".to_owned(), time, 0, offset, None)
        })
        .collect();
    let read: Read = |bytes| {
        let record = Record::decode(bytes).ok()?;
        Some((record.id, record.key))
    };
    let checked =
        std::panic::catch_unwind(|| check_hop("t", &messages, read, (&good, repeats), promise));
    let complaint = checked.err()?;
    complaint.downcast_ref::<String>().cloned()
}

#[test]
fn the_oracle_complains_of_what_is_lost_doubled_out_of_order_or_nobodys() {
    let none = Repeats::new();
    let once = |records: &[&str]| judged(records, &none, Promise::ExactlyOnce);
    assert_eq!(once(&["a1", "b1", "a2"]), None);
    for (records, complaint) in [
        (&["a1", "b1"][..], "never there: [\"a2\"]"),
        (&["a1", "b1", "a2", "a1"], "more than once"),
        (&["a2", "a1", "b1"], "came after"),
        (&["a1", "a2", "a3", "b1"], "a3 was never sent"),
    ] {
        let said = once(records).unwrap_or_default();
        assert!(said.contains(complaint), "{records:?}: {said:?}");
    }
    let a1_twice = Repeats::from([("a1".to_owned(), 2)]);
    let twice = |records: &[&str]| judged(records, &a1_twice, Promise::ExactlyOnce);
    assert_eq!(twice(&["a1", "a1", "b1", "a2"]), None);
    for (records, complaint) in [
        (&["a1", "b1", "a2"][..], "not as often as sent"),
        (&["a1", "a1", "a1", "b1", "a2"], "more than once"),
        (&["a1", "a1", "b1", "b1", "a2"], "more than once"),
    ] {
        let said = twice(records).unwrap_or_default();
        assert!(said.contains(complaint), "{records:?}: {said:?}");
    }
    let again = |records: &[&str]| judged(records, &none, Promise::AtLeastOnce);
    assert_eq!(again(&["a1", "b1", "a2", "a1", "a2"]), None);
    assert!(again(&["a2", "a1", "b1", "a2"]).is_some(), "overtaken");
}
