//! Where predictions are kept: rows and the offsets they came from, in one database transaction.
//!
//! The offsets here, not Kafka's, say where consuming goes on. A store does not know Kafka; it is
//! told a topic's identity and refuses offsets that belong to another.

mod error;
mod postgres;
mod query;
mod sqlite;

use std::future::Future;
use std::time::Duration;

pub use error::Error;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

use crate::domain::{Count, Filter, Page, Prediction};

/// How long the database looks for an answer to a question before it gives up: every documented filter has an index, by
/// which a page takes milliseconds. So what no index serves holds a connection for questions no longer than this.
pub const READ_WITHIN: Duration = Duration::from_secs(5);

/// Which topic an offset belongs to. A name alone is not enough: another cluster, or the same one
/// after the topic was deleted and created, counts from 0 again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicIdentity {
    pub cluster_id: String,
    pub topic: String,
    /// `None` where the broker does not tell; then it is not compared.
    pub topic_id: Option<String>,
}

/// What one transaction of a lane brings: predictions in the order they were consumed, and how far
/// that moves each partition.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteBatch {
    pub pipeline: String,
    pub topic: TopicIdentity,
    /// Each partition once. One may move without predictions (dead letters, transaction markers).
    pub advances: Vec<Advance>,
    pub predictions: Vec<Prediction>,
    /// Of shadows, kept apart: one an id and variant, the first. They are not counted.
    pub shadows: Vec<Prediction>,
}

/// How far a partition was read. Ordered by the generation of its log, then by the offset: where a log was cut off, what
/// comes after belongs to the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub generation: i64,
    /// The offset to be read next.
    pub next: i64,
}

impl Place {
    /// In the first generation, which is all there is where no log was ever cut off.
    pub const fn at(next: i64) -> Self {
        Place {
            generation: 0,
            next,
        }
    }
}

/// One partition's next offset, from and to, in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    pub partition: i32,
    /// As claimed, or as the batch before left it; `None` where nothing was stored yet.
    pub old: Option<Place>,
    /// Not before `old`.
    pub new: i64,
}

/// Where each claimed partition goes on.
pub type Places = Vec<(i32, Option<Place>)>;

/// What a batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub stored: u64,
    /// Predictions of an id that was stored already; the first stays.
    pub duplicates: u64,
}

/// A database of predictions.
pub trait Store: Clone + Send + Sync + 'static {
    /// The stored place of each of `partitions`, in their order; `None` where nothing was
    /// stored yet. [`Error::OtherTopic`] if the stored offsets are not of this very topic.
    fn claim(
        &self,
        topic: &TopicIdentity,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Places, Error>> + Send;

    /// Notes that a partition's log was cut off: it goes on at `next`, before or after `old`, in the next generation.
    /// [`Error::Fenced`] if the stored place is not `old` any more.
    fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Place,
        next: i64,
    ) -> impl Future<Output = Result<Place, Error>> + Send;

    /// Writes all of `batch` in one transaction, or nothing. [`Error::Fenced`] if a partition's
    /// stored place is not `old` any more. After an error that [`Error::is_retriable`], or when
    /// the future was dropped, it is unknown which: claim again before writing again.
    fn write(&self, batch: &WriteBatch) -> impl Future<Output = Result<Written, Error>> + Send;

    /// What was answered, or what the shadow of this name predicted.
    fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> impl Future<Output = Result<Option<Prediction>, Error>> + Send;

    /// A page of predictions, or of shadows' predictions where the filter says so; newest event time first, then by
    /// descending id, and variant.
    fn list(
        &self,
        pipeline: &str,
        filter: &Filter,
    ) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Cheap enough to ask every second: it reads counters, not rows.
    fn count(&self, pipeline: &str) -> impl Future<Output = Result<Count, Error>> + Send;

    /// Waits until every connection is given back and closed.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The database that `DATABASE_URL` names. Cheap to clone.
#[derive(Debug, Clone)]
pub enum AnyStore {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl AnyStore {
    /// The database's name in OpenTelemetry's conventions.
    pub fn system(&self) -> &'static str {
        match self {
            AnyStore::Sqlite(_) => "sqlite",
            AnyStore::Postgres(_) => "postgresql",
        }
    }

    /// Connects, and brings the tables up to date.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some("sqlite") => Ok(AnyStore::Sqlite(SqliteStore::open(url).await?)),
            Some("postgres" | "postgresql") => {
                Ok(AnyStore::Postgres(PostgresStore::open(url).await?))
            }
            // Only the scheme: the rest may hold a password.
            Some(scheme) => Err(Error::Url {
                scheme: format!("{scheme}:…"),
            }),
            None => Err(Error::Url {
                scheme: url.to_owned(),
            }),
        }
    }
}

impl Store for AnyStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Places, Error> {
        match self {
            AnyStore::Sqlite(store) => store.claim(topic, partitions).await,
            AnyStore::Postgres(store) => store.claim(topic, partitions).await,
        }
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Place,
        next: i64,
    ) -> Result<Place, Error> {
        match self {
            AnyStore::Sqlite(store) => store.truncated(topic, partition, old, next).await,
            AnyStore::Postgres(store) => store.truncated(topic, partition, old, next).await,
        }
    }

    async fn write(&self, batch: &WriteBatch) -> Result<Written, Error> {
        match self {
            AnyStore::Sqlite(store) => store.write(batch).await,
            AnyStore::Postgres(store) => store.write(batch).await,
        }
    }

    async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Option<Prediction>, Error> {
        match self {
            AnyStore::Sqlite(store) => store.get(pipeline, id, shadow).await,
            AnyStore::Postgres(store) => store.get(pipeline, id, shadow).await,
        }
    }

    async fn list(&self, pipeline: &str, filter: &Filter) -> Result<Page, Error> {
        match self {
            AnyStore::Sqlite(store) => store.list(pipeline, filter).await,
            AnyStore::Postgres(store) => store.list(pipeline, filter).await,
        }
    }

    async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        match self {
            AnyStore::Sqlite(store) => store.count(pipeline).await,
            AnyStore::Postgres(store) => store.count(pipeline).await,
        }
    }

    async fn close(&self) {
        match self {
            AnyStore::Sqlite(store) => store.close().await,
            AnyStore::Postgres(store) => store.close().await,
        }
    }
}

/// What a question's failure means.
fn unanswered(error: sqlx::Error, within: Duration) -> Error {
    match error::is_interrupted(&error) {
        true => Error::TooSlow {
            seconds: within.as_secs(),
        },
        false => error.into(),
    }
}

/// A stored offset, as both databases select it.
type OffsetRow = (i32, i64, i64, String, Option<String>);

/// Answers a claim from the rows of a topic.
fn claimed(topic: &TopicIdentity, partitions: &[i32], rows: &[OffsetRow]) -> Result<Places, Error> {
    for (_, _, _, cluster_id, topic_id) in rows {
        let other_topic = match (topic_id, &topic.topic_id) {
            (Some(stored), Some(found)) => stored != found,
            _ => false,
        };
        if *cluster_id != topic.cluster_id || other_topic {
            return Err(Error::OtherTopic {
                topic: topic.topic.clone(),
                stored: describe(cluster_id, topic_id.as_deref()),
                found: describe(&topic.cluster_id, topic.topic_id.as_deref()),
            });
        }
    }
    let place = |partition: i32| {
        let row = rows.iter().find(|row| row.0 == partition)?;
        Some(Place {
            generation: row.1,
            next: row.2,
        })
    };
    Ok(partitions
        .iter()
        .map(|partition| (*partition, place(*partition)))
        .collect())
}

fn describe(cluster_id: &str, topic_id: Option<&str>) -> String {
    match topic_id {
        Some(topic_id) => format!("cluster {cluster_id:?}, topic id {topic_id:?}"),
        None => format!("cluster {cluster_id:?}"),
    }
}

/// What both databases refuse before they begin, so that it does not depend on which one it is.
fn check(batch: &WriteBatch) -> Result<(), Error> {
    let mut partitions: Vec<i32> = batch.advances.iter().map(|a| a.partition).collect();
    partitions.sort_unstable();
    if let Some(pair) = partitions.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::PartitionTwice { partition: pair[0] });
    }
    for advance in &batch.advances {
        if let Some(old) = advance.old.filter(|old| advance.new < old.next) {
            return Err(Error::Backwards {
                partition: advance.partition,
                old: old.next,
                new: advance.new,
            });
        }
    }
    for prediction in batch.predictions.iter().chain(&batch.shadows) {
        let unstorable = |source| Error::Unstorable {
            id: prediction.id.clone(),
            source,
        };
        prediction.check().map_err(unstorable)?;
    }
    Ok(())
}

/// The counters row a batch is counted in. Batches that run at once are of different partitions,
/// so they do not wait for each other; `None` for a batch that moves nothing.
fn shard(batch: &WriteBatch) -> Option<i32> {
    batch.advances.iter().map(|advance| advance.partition).min()
}

fn fenced(topic: &TopicIdentity, partition: i32) -> Error {
    Error::Fenced {
        topic: topic.topic.clone(),
        partition,
    }
}

impl Written {
    fn of(batch: &WriteBatch, stored: u64) -> Self {
        let all = batch.predictions.len() as u64;
        Written {
            stored,
            duplicates: all.saturating_sub(stored),
        }
    }
}
