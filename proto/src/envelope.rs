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
pub enum EnvelopeError {
    #[error(
        "payload of {len} bytes is shorter than a schema id ({SCHEMA_ID_LEN} bytes); only Quadrille's services write this topic"
    )]
    TooShort { len: usize },
}

/// Splits a payload into its schema id and the encoded message.
///
/// # Errors
/// The payload is shorter than a schema id.
pub fn open(payload: &[u8]) -> Result<(SchemaId, &[u8]), EnvelopeError> {
    match payload.split_first_chunk::<SCHEMA_ID_LEN>() {
        Some((id, message)) => Ok((SchemaId(u64::from_be_bytes(*id)), message)),
        None => Err(EnvelopeError::TooShort { len: payload.len() }),
    }
}

/// Appends schema id and message to `payload`.
pub fn seal(id: SchemaId, message: &impl Message, payload: &mut Vec<u8>) {
    payload.extend_from_slice(&id.0.to_be_bytes());
    message.encode_raw(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Record;

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
        assert_eq!(open(b"1234567"), Err(EnvelopeError::TooShort { len: 7 }));
    }
}
