//! Which changelog a store stands for, and up to where: the first row of every store.

use std::fmt;

/// The layout of rows and of this one; another layout begins anew.
const LAYOUT: u8 = 1;
const OFFSET_AT: usize = 1;
const AS_OF_AT: usize = OFFSET_AT + 8;
const IDENTITY_AT: usize = AS_OF_AT + 8;

/// A store, among those of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub pipeline: String,
    pub partition: i32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, partition {}", self.pipeline, self.partition)
    }
}

/// What the rows of a pipeline's stores mean. If anything differs from what a store was begun with, it begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub pipeline: String,
    /// Kafka's id of the cluster.
    pub cluster: String,
    /// Kafka's id of the changelog's topic: a topic that was deleted and created again has another.
    pub topic_id: String,
    /// A fingerprint of what the state is made of.
    pub definition: [u8; 8],
}

/// What a store stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub next_offset: i64,
    pub as_of_ms: i64,
}

/// Why a store on disk was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Of another cluster, topic, partition or definition.
    Identity,
    /// The log's tombstones may be gone.
    TooOld {
        age_ms: u64,
    },
    Damaged(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("it belongs to another cluster, topic or definition"),
            Self::TooOld { age_ms } => write!(f, "it is {} minutes old", age_ms / 60_000),
            Self::Damaged(why) => write!(f, "it is damaged: {why}"),
        }
    }
}

impl Identity {
    fn encode(&self, partition: i32, into: &mut Vec<u8>) {
        into.extend(partition.to_be_bytes());
        into.extend(self.definition);
        for text in [&self.pipeline, &self.cluster, &self.topic_id] {
            into.extend((text.len() as u64).to_be_bytes());
            into.extend(text.as_bytes());
        }
    }

    /// The first row's value.
    pub(crate) fn row(&self, partition: i32, stamp: Stamp) -> Vec<u8> {
        let mut row = vec![LAYOUT];
        row.extend(stamp.next_offset.to_be_bytes());
        row.extend(stamp.as_of_ms.to_be_bytes());
        self.encode(partition, &mut row);
        row
    }

    /// What the store with this first row stands for, if it is of this identity.
    pub(crate) fn stamp(&self, partition: i32, row: &[u8]) -> Result<Stamp, Why> {
        let number = |at: usize| {
            let bytes = row.get(at..at + 8)?;
            Some(i64::from_be_bytes(bytes.try_into().ok()?))
        };
        let mut expected = vec![];
        self.encode(partition, &mut expected);
        if row.first() != Some(&LAYOUT) || row.get(IDENTITY_AT..) != Some(&expected) {
            return Err(Why::Identity);
        }
        match (number(OFFSET_AT), number(AS_OF_AT)) {
            (Some(next_offset), Some(as_of_ms)) => Ok(Stamp {
                next_offset,
                as_of_ms,
            }),
            _ => Err(Why::Identity),
        }
    }
}
