//! Writing: all that a lane brings at once is one unit of work, in one transaction of the database.

use std::marker::PhantomData;

use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{Advance, Error, Position, Positions, TopicIdentity};
use crate::prediction::{Kind, Prediction};

/// The half of a store that lanes use.
pub trait WriteStore: Send + Sync {
    /// The stored position of each of `partitions`, in their order; `None` where nothing was
    /// stored yet. [`Error::OtherTopic`] if the stored offsets are not of this very topic.
    fn claim(
        &self,
        topic: &TopicIdentity,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Positions, Error>> + Send;

    /// Notes that a partition's log was truncated: it goes on at `next`, before or after `old`, in the next generation.
    /// [`Error::Fenced`] if the stored position is not `old` any more.
    fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Position,
        next: i64,
    ) -> impl Future<Output = Result<Position, Error>> + Send;

    /// Writes all of `unit` in one transaction, or nothing. [`Error::Fenced`] if a partition's
    /// stored position is not `old` any more. After an error that [`Error::is_retriable`], or when
    /// the future was dropped, it is unknown which: claim again before writing again.
    fn write(&self, unit: &UnitOfWork) -> impl Future<Output = Result<Written, Error>> + Send;
}

/// What one transaction of a lane writes: rows in the order they were consumed, and how far that moves each partition.
///
/// Whatever else is to be written exactly once with the offsets is a further member here, a method of [`Statements`] and
/// a line in [`UnitOfWork::run`].
#[derive(Debug, Clone, PartialEq)]
pub struct UnitOfWork {
    pub pipeline: String,
    pub topic: TopicIdentity,
    /// Each partition once. One may move without rows (dead letters, transaction markers).
    pub advances: Vec<Advance>,
    pub predictions: Vec<Prediction>,
    /// Of shadows, kept apart: one per id and variant, the first. They are not counted.
    pub shadows: Vec<Prediction>,
}

/// What a unit of work came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub stored: u64,
    /// Predictions of an id that was stored already; the first stays.
    pub duplicates: u64,
}

/// The steps of a unit of work, as one database has them: on a connection, inside a transaction.
pub(super) trait Statements: Send {
    /// Moves the offsets. [`Error::Fenced`] if a stored position is not `old` any more.
    fn advance(
        &mut self,
        topic: &TopicIdentity,
        advances: &[Advance],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Inserts the predictions that are new; how many they were.
    fn insert(
        &mut self,
        kind: Kind,
        pipeline: &str,
        predictions: &[Prediction],
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    fn count(
        &mut self,
        pipeline: &str,
        shard: i32,
        written: Written,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

impl UnitOfWork {
    /// Writes nothing yet.
    pub fn new(pipeline: &str, topic: TopicIdentity) -> Self {
        UnitOfWork {
            pipeline: pipeline.to_owned(),
            topic,
            advances: Vec::new(),
            predictions: Vec::new(),
            shadows: Vec::new(),
        }
    }

    /// Empties it for the next batch of the same pipeline and topic.
    pub fn clear(&mut self) {
        self.advances.clear();
        self.predictions.clear();
        self.shadows.clear();
    }

    /// Refuses what either database would refuse, so that it does not depend on which one it is.
    pub(super) fn check(&self) -> Result<(), Error> {
        let mut partitions: Vec<i32> = self.advances.iter().map(|a| a.partition).collect();
        partitions.sort_unstable();
        if let Some(pair) = partitions.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::PartitionTwice { partition: pair[0] });
        }
        for advance in &self.advances {
            if let Some(old) = advance.old.filter(|old| advance.new < old.next) {
                return Err(Error::Backwards {
                    partition: advance.partition,
                    old: old.next,
                    new: advance.new,
                });
            }
        }
        for prediction in self.predictions.iter().chain(&self.shadows) {
            let unstorable = |source| Error::Unstorable {
                id: prediction.id.clone(),
                source,
            };
            prediction.check().map_err(unstorable)?;
        }
        Ok(())
    }

    /// The counters row it is counted in. Units that are written at once are of different partitions,
    /// so they do not wait for each other; `None` where no partition moves, and nothing is written.
    pub(super) fn shard(&self) -> Option<i32> {
        self.advances.iter().map(|advance| advance.partition).min()
    }

    /// All steps, in order. The offsets first: who has lost a partition is fenced before any row is written.
    pub(super) async fn run(
        &self,
        connection: &mut impl Statements,
        shard: i32,
    ) -> Result<Written, Error> {
        let pipeline = &self.pipeline;
        connection.advance(&self.topic, &self.advances).await?;
        let stored = connection
            .insert(Kind::Live, pipeline, &self.predictions)
            .await?;
        connection
            .insert(Kind::Shadow, pipeline, &self.shadows)
            .await?;
        let written = Written {
            stored,
            duplicates: (self.predictions.len() as u64).saturating_sub(stored),
        };
        connection.count(pipeline, shard, written).await?;
        Ok(written)
    }
}

/// The statements that are the same in both databases, but for how a parameter is written.
pub(super) struct Shared<DB>(PhantomData<DB>);

impl<DB: Database> Shared<DB>
where
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
    for<'t> i32: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
{
    /// Selects [`StoredOffset`](super::offsets::StoredOffset)s.
    pub fn offsets(topic: &TopicIdentity) -> QueryBuilder<DB> {
        let mut sql = QueryBuilder::new(
            "SELECT partition, generation, next_offset, cluster_id, topic_id FROM offsets \
             WHERE topic = ",
        );
        sql.push_bind(topic.topic.as_str());
        sql
    }

    /// Gives the next generation, or no row where the stored position is not `old`.
    pub fn truncate(
        topic: &TopicIdentity,
        partition: i32,
        old: Position,
        next: i64,
    ) -> QueryBuilder<DB> {
        let mut sql =
            QueryBuilder::new("UPDATE offsets SET generation = generation + 1, next_offset = ");
        sql.push_bind(next);
        sql.push(" WHERE topic = ").push_bind(topic.topic.as_str());
        sql.push(" AND partition = ").push_bind(partition);
        sql.push(" AND cluster_id = ")
            .push_bind(topic.cluster_id.as_str());
        sql.push(" AND generation = ").push_bind(old.generation);
        sql.push(" AND next_offset = ").push_bind(old.next);
        sql.push(" RETURNING generation");
        sql
    }

    pub fn count(pipeline: &str, shard: i32, written: Written) -> QueryBuilder<DB> {
        let mut sql = QueryBuilder::new(
            "INSERT INTO counters (pipeline, shard, stored, duplicates) VALUES (",
        );
        sql.push_bind(pipeline);
        sql.push(", ").push_bind(shard);
        sql.push(", ").push_bind(written.stored as i64);
        sql.push(", ").push_bind(written.duplicates as i64);
        sql.push(
            ") ON CONFLICT (pipeline, shard) DO UPDATE \
             SET stored = counters.stored + excluded.stored, \
             duplicates = counters.duplicates + excluded.duplicates",
        );
        sql
    }
}
