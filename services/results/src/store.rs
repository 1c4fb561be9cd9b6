//! Where predictions are kept, with the offsets they came from.
//!
//! Two halves that share the tables and nothing else: lanes write ([`WriteStore`]), each a [`UnitOfWork`] in one
//! transaction; queries from outside read ([`ReadStore`]), on connections of their own. A statement that both databases
//! understand stands in `write.rs` or `read.rs`; what each has of its own is under `sqlite/` and `postgres/`.
//!
//! The offsets here, not Kafka's, say where consuming goes on. A store does not know Kafka; it is
//! given a topic's identity and refuses offsets that belong to another.

mod error;
mod migrations;
mod offsets;
mod postgres;
mod read;
mod row;
mod sqlite;
mod write;

pub use error::Error;
pub use offsets::{Advance, Position, Positions, TopicIdentity};
pub use postgres::PostgresStore;
pub use read::{QUERY_TIMEOUT, ReadStore};
pub use sqlite::SqliteStore;
pub use write::{UnitOfWork, WriteStore, Written};

use crate::{
    prediction::Prediction,
    query::{Count, Filter, Page},
};

/// A database of predictions. Cheap to clone.
pub trait Store: ReadStore + WriteStore + Clone + 'static {
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

/// Calls a method of the database that there is.
macro_rules! either {
    ($any:ident.$method:ident($($argument:expr),*)) => {
        match $any {
            AnyStore::Sqlite(store) => store.$method($($argument),*).await,
            AnyStore::Postgres(store) => store.$method($($argument),*).await,
        }
    };
}

impl Store for AnyStore {
    async fn close(&self) {
        either!(self.close())
    }
}

impl WriteStore for AnyStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Positions, Error> {
        either!(self.claim(topic, partitions))
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Position,
        next: i64,
    ) -> Result<Position, Error> {
        either!(self.truncated(topic, partition, old, next))
    }

    async fn write(&self, unit: &UnitOfWork) -> Result<Written, Error> {
        either!(self.write(unit))
    }
}

impl ReadStore for AnyStore {
    async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Option<Prediction>, Error> {
        either!(self.get(pipeline, id, shadow))
    }

    async fn list(&self, pipeline: &str, filter: &Filter) -> Result<Page, Error> {
        either!(self.list(pipeline, filter))
    }

    async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        either!(self.count(pipeline))
    }
}
