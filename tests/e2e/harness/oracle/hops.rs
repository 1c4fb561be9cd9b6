//! What lies on the topics between the services: every id there, in order within its key.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use quadrille_proto::v1::{FeatureVector, Prediction, Record};
use rdkafka::{Message as _, message::OwnedMessage};

use super::Promise;
use crate::harness::{client::Client, world::World};

/// Id and key of a record of the figure; None for what is nobody's outcome or was never ours.
type Read = fn(&[u8]) -> Option<(String, String)>;

/// Checks each hop's topic: all ids of `good`, each once unless repeats are promised, and no id before an earlier one
/// of its key.
#[track_caller]
pub fn check(world: &World, good: &BTreeSet<String>, promise: Promise) {
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
        check_hop(topic, &messages, read, good, promise);
    }
}

#[track_caller]
fn check_hop(
    topic: &str,
    messages: &[OwnedMessage],
    read: Read,
    good: &BTreeSet<String>,
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
        let repeated: Vec<_> = seen.iter().filter(|(_, places)| places.len() > 1).collect();
        assert!(repeated.is_empty(), "{topic}: more than once: {repeated:?}");
    }
    let missing: Vec<_> = good.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{topic}: never there: {missing:?}");
}
