//! Whether two topics hold the same feature vectors.

use std::hash::{DefaultHasher, Hash, Hasher};

use prost::Message as _;
use quadrille_proto::{open, v1::FeatureVector};
use rdkafka::Message;

use crate::broker::Broker;

/// Of all vectors of a topic, in whatever order: their ids, keys, times and values, bit for bit. What else the stage says in them,
/// where a record came from, another program does not.
pub fn of(broker: &Broker, topic: &str) -> anyhow::Result<u64> {
    let (mut digest, mut failed) = (0_u64, None);
    broker.read(topic, |message| {
        match read(message.payload().unwrap_or_default()) {
            Ok(one) => digest = digest.wrapping_add(one),
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(digest), Err)
}

fn read(payload: &[u8]) -> anyhow::Result<u64> {
    let (_, message) = open(payload)?;
    let vector = FeatureVector::decode(message)?;
    let mut hasher = DefaultHasher::new();
    (&vector.id, &vector.key, vector.event_time_ms).hash(&mut hasher);
    for value in vector.values {
        hasher.write_u64(value.to_bits());
    }
    Ok(hasher.finish())
}
