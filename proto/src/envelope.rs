//! The bytes around a message: its schema id, then the protobuf.
//!
//! Garbage that happens to decode as protobuf is recognised by an id nobody published.

use std::fmt;

use prost::Message;

/// Bytes of a schema id at the start of a payload.
pub const SCHEMA_ID_LEN: usize = 8;

/// The first 64 bits of the SHA-256 of a schema's canonical form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(pub u64);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a payload is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "payload of {len} bytes is shorter than a schema id ({SCHEMA_ID_LEN} bytes); only Quadrille's services write this topic"
    )]
    TooShort { len: usize },
}

/// Splits a payload into its schema id and the encoded message.
///
/// # Errors
/// The payload is shorter than a schema id.
pub fn open(payload: &[u8]) -> Result<(SchemaId, &[u8]), Error> {
    match payload.split_first_chunk::<SCHEMA_ID_LEN>() {
        Some((id, message)) => Ok((SchemaId(u64::from_be_bytes(*id)), message)),
        None => Err(Error::TooShort { len: payload.len() }),
    }
}

/// Appends schema id and message to `payload`.
pub fn seal(id: SchemaId, message: &impl Message, payload: &mut Vec<u8>) {
    payload.extend_from_slice(&id.0.to_be_bytes());
    message.encode_raw(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::Record;

    proptest! {
        #[test]
        fn any_record_comes_back_bit_for_bit(
            id in any::<u64>(),
            text in any::<(String, String)>(),
            event_time_ms in any::<i64>(),
            bits in prop::collection::vec(any::<u64>(), 0..40),
            extra in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let values = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
            let record = Record { id: text.0, key: text.1, event_time_ms, values, extra };
            let mut payload = Vec::new();
            seal(SchemaId(id), &record, &mut payload);
            let (found, message) = open(&payload).unwrap();
            prop_assert_eq!(found, SchemaId(id));
            let back = Record::decode(message).unwrap();
            let back_bits: Vec<u64> = back.values.iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(back_bits, bits);
            prop_assert_eq!((&back.id, &back.key), (&record.id, &record.key));
            prop_assert_eq!((back.event_time_ms, &back.extra), (event_time_ms, &record.extra));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((_, message)) = open(&bytes) {
                let _ = Record::decode(message);
            }
        }
    }

    #[test]
    fn what_is_sealed_opens() {
        let record = Record {
            id: "a".into(),
            values: vec![1.0, f64::NAN],
            ..Record::default()
        };
        let mut payload = Vec::new();
        seal(SchemaId(7), &record, &mut payload);
        let (id, message) = open(&payload).unwrap();
        assert_eq!(id, SchemaId(7));
        let back = Record::decode(message).unwrap();
        assert_eq!(back.id, "a");
        assert!(back.values[1].is_nan());
    }

    #[test]
    fn a_short_payload_is_refused_with_its_length() {
        assert_eq!(open(b"1234567"), Err(Error::TooShort { len: 7 }));
    }
}
