//! The keys of records. Every push and every event has its own keys, so that compaction drops only what was deleted, and the
//! history stays.

use crate::{ModelId, Sha256Hex};

/// One push of a package: the prefix of its records' keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PushKey {
    pub id: ModelId,
    pub sha256: Sha256Hex,
    /// Unique to this writer.
    pub push: String,
}

/// The kind of a push's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Manifest,
    Chunk(u32),
}

impl PushKey {
    pub fn manifest(&self) -> String {
        self.text("manifest")
    }

    pub fn chunk(&self, index: u32) -> String {
        self.text(&format!("chunk/{index}"))
    }

    fn text(&self, part: &str) -> String {
        let PushKey { id, sha256, push } = self;
        format!("{}/{}/{sha256}/{push}/{part}", id.name, id.version)
    }

    /// # Errors
    /// Why the key is invalid.
    pub fn parse(key: &str) -> Result<(PushKey, Part), &'static str> {
        const FORM: &str =
            "the key is not {name}/{version}/{sha256}/{push}/manifest or …/chunk/{i}";
        let pieces: Vec<&str> = key.split('/').collect();
        let (prefix, part) = match pieces.as_slice() {
            [prefix @ .., "manifest"] => (prefix, Part::Manifest),
            [prefix @ .., "chunk", index] => {
                let number: u32 = index.parse().map_err(|_| FORM)?;
                // One spelling only, or two keys would be one chunk.
                if number.to_string() != *index {
                    return Err(FORM);
                }
                (prefix, Part::Chunk(number))
            }
            _ => return Err(FORM),
        };
        let [name, version, sha256, push] = prefix else {
            return Err(FORM);
        };
        let id = ModelId {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
        };
        if id.validate().is_err() || push.is_empty() {
            return Err(FORM);
        }
        let key = PushKey {
            id,
            sha256: Sha256Hex::parse(sha256).ok_or(FORM)?,
            push: (*push).to_owned(),
        };
        Ok((key, part))
    }
}

/// The key of a deployment's event; `id` is unique.
pub(crate) fn event(pipeline: &str, revision: u64, id: &str) -> String {
    format!("{pipeline}/{revision}/{id}")
}

/// The key of a replica's status.
pub(crate) fn replica(service: &str, instance: &str) -> String {
    format!("{service}/{instance}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::id;

    #[test]
    fn a_key_is_read_as_it_is_written_and_in_no_other_way() {
        let key = PushKey {
            id: id("m", "1"),
            sha256: Sha256Hex([7; 32]),
            push: "u".to_owned(),
        };
        assert_eq!(
            PushKey::parse(&key.manifest()),
            Ok((key.clone(), Part::Manifest))
        );
        assert_eq!(
            PushKey::parse(&key.chunk(12)),
            Ok((key.clone(), Part::Chunk(12)))
        );
        let good = key.chunk(1);
        for bad in [
            String::new(),
            "m/1/manifest".to_owned(),
            good.replace("chunk/1", "chunk/01"),
            good.replace("chunk/1", "chunk/-1"),
            good.replace("chunk/1", "chunk/4294967296"),
            good.replace("/u/", "//"),
            good.replace("07", "0G"),
            format!("x/{good}"),
        ] {
            assert!(PushKey::parse(&bad).is_err(), "{bad}");
        }
    }
}
