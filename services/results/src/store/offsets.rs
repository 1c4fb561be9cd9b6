//! Where consuming goes on: the positions of a topic's partitions, and whose topic it is.

use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};

use super::Error;

/// Which topic an offset belongs to. A name alone is not enough: another cluster, or the same one
/// after the topic was deleted and created, counts from 0 again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicIdentity {
    pub cluster_id: String,
    pub topic: String,
    /// `None` where the broker does not report it; then it is not compared.
    pub topic_id: Option<String>,
}

/// How far a partition was read. Ordered by the generation of its log, then by the offset: where a log was truncated, what
/// comes after belongs to the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub generation: i64,
    /// The offset to be read next.
    pub next: i64,
}

impl Position {
    /// In the first generation, which is all there is where no log was ever truncated.
    pub const fn at(next: i64) -> Self {
        Position {
            generation: 0,
            next,
        }
    }
}

/// The position of each claimed partition; `None` where nothing was stored yet.
pub type Positions = Vec<(i32, Option<Position>)>;

/// One partition's next offset, from and to, in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    pub partition: i32,
    /// As claimed, or as the unit of work before left it; `None` where nothing was stored yet.
    pub old: Option<Position>,
    /// Not before `old`.
    pub new: i64,
}

/// A row of the table `offsets`.
pub(super) struct StoredOffset {
    partition: i32,
    position: Position,
    cluster_id: String,
    topic_id: Option<String>,
}

impl<'r, DB: Database, R: Row<Database = DB>> FromRow<'r, R> for StoredOffset
where
    &'static str: ColumnIndex<R>,
    i32: Decode<'r, DB> + Type<DB>,
    i64: Decode<'r, DB> + Type<DB>,
    String: Decode<'r, DB> + Type<DB>,
    Option<String>: Decode<'r, DB> + Type<DB>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(StoredOffset {
            partition: row.try_get("partition")?,
            position: Position {
                generation: row.try_get("generation")?,
                next: row.try_get("next_offset")?,
            },
            cluster_id: row.try_get("cluster_id")?,
            topic_id: row.try_get("topic_id")?,
        })
    }
}

impl StoredOffset {
    fn is_of(&self, topic: &TopicIdentity) -> bool {
        let same_id = match (&self.topic_id, &topic.topic_id) {
            (Some(stored), Some(found)) => stored == found,
            _ => true,
        };
        same_id && self.cluster_id == topic.cluster_id
    }
}

/// Answers a claim from the rows of a topic's name.
pub(super) fn claimed(
    topic: &TopicIdentity,
    partitions: &[i32],
    rows: &[StoredOffset],
) -> Result<Positions, Error> {
    if let Some(row) = rows.iter().find(|row| !row.is_of(topic)) {
        return Err(Error::OtherTopic {
            topic: topic.topic.clone(),
            stored: describe(&row.cluster_id, row.topic_id.as_deref()),
            found: describe(&topic.cluster_id, topic.topic_id.as_deref()),
        });
    }
    let position = |partition: i32| {
        let row = rows.iter().find(|row| row.partition == partition)?;
        Some(row.position)
    };
    Ok(partitions
        .iter()
        .map(|partition| (*partition, position(*partition)))
        .collect())
}

fn describe(cluster_id: &str, topic_id: Option<&str>) -> String {
    match topic_id {
        Some(topic_id) => format!("cluster {cluster_id:?}, topic id {topic_id:?}"),
        None => format!("cluster {cluster_id:?}"),
    }
}

pub(super) fn fenced(topic: &TopicIdentity, partition: i32) -> Error {
    Error::Fenced {
        topic: topic.topic.clone(),
        partition,
    }
}
