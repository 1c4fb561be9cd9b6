//! A model package in transit: two byte strings, one hash, chunks.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Bytes of a chunk: well below the smallest limit on message size in use.
pub const CHUNK_BYTES: usize = 512 << 10;

/// The largest artefact in bytes, as in the model crate: a manifest on the log that claims more is refused, and no more is read.
pub const ARTEFACT_BYTES_MAX: u64 = 256 << 20;

/// A SHA-256, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Hex(pub [u8; 32]);

impl Sha256Hex {
    /// Parses 64 lower-case hexadecimal digits; None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The first digits: enough to tell versions apart by eye.
    pub fn short(&self) -> String {
        self.0[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The two files of a package. Their meaning is the model crate's business.
#[derive(Clone, PartialEq, Eq)]
pub struct PackageBytes {
    /// `manifest.json`, unchanged.
    pub manifest: Vec<u8>,
    /// At most [`ARTEFACT_BYTES_MAX`].
    pub artefact: Vec<u8>,
}

impl PackageBytes {
    /// Over the manifest's bytes followed by the artefact's, as the model crate has it.
    pub fn sha256(&self) -> Sha256Hex {
        let hash = Sha256::new().chain_update(&self.manifest);
        Sha256Hex(hash.chain_update(&self.artefact).finalize().into())
    }

    /// The artefact in pieces.
    pub(crate) fn chunks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.artefact.chunks(CHUNK_BYTES)
    }
}

/// Not its content: a package is large.
impl fmt::Debug for PackageBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackageBytes")
            .field("manifest_bytes", &self.manifest.len())
            .field("artefact_bytes", &self.artefact.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_shown() {
        let hash = Sha256Hex(Sha256::digest(b"abc").into());
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert_eq!(Sha256Hex::parse(text), Some(hash));
        assert_eq!(hash.short(), "ba7816bf8f01");
        assert_eq!(Sha256Hex::parse(&text.to_uppercase()), None);
        assert_eq!(Sha256Hex::parse(&text[1..]), None);
        assert_eq!(Sha256Hex::parse(&"é".repeat(32)), None);
    }

    #[test]
    fn an_artefact_is_cut_into_chunks_and_an_empty_one_into_none() {
        let package = |bytes| PackageBytes {
            manifest: b"{}".to_vec(),
            artefact: vec![1; bytes],
        };
        let lengths = |bytes| -> Vec<usize> { package(bytes).chunks().map(<[u8]>::len).collect() };
        assert_eq!(lengths(CHUNK_BYTES + 1), [CHUNK_BYTES, 1]);
        assert_eq!(lengths(CHUNK_BYTES), [CHUNK_BYTES]);
        assert!(lengths(0).is_empty());
    }
}
