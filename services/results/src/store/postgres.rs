//! Predictions in PostgreSQL: any number of results replicas.

mod read;
mod write;

use std::{str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};

use super::{Error, QUERY_TIMEOUT, Store, migrations::migrator};

const MIGRATIONS: &[(&str, &str)] = &[
    (
        "predictions",
        include_str!("../migrations/postgres/0001_predictions.sql"),
    ),
    (
        "shadow predictions",
        include_str!("../migrations/postgres/0002_shadow_predictions.sql"),
    ),
    (
        "outputs",
        include_str!("../migrations/postgres/0003_outputs.sql"),
    ),
    (
        "generations",
        include_str!("../migrations/postgres/0004_generations.sql"),
    ),
    (
        "shadow decisions",
        include_str!("../migrations/postgres/0005_shadow_decisions.sql"),
    ),
];

/// Connections of one replica, of the 100 that a server takes by default. The lanes have some of their own, so that
/// queries, however slow and many, never keep a unit of work from being written.
const WRITERS_MAX: u32 = 10;
const READERS_MAX: u32 = 5;
/// How long to wait for a free connection, or for a server that is starting; less than the page's
/// patience, so that it shows the reason.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// For where partitions go on, and for a query: the server's own limit is sooner.
const SHORT_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A replica that vanished inside a transaction must not keep the partition's row, which its
/// successor waits for, until TCP notices.
const WRITING: &str = "SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '10s'";

/// A store in a PostgreSQL database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    writers: PgPool,
    readers: PgPool,
}

impl PostgresStore {
    /// Connects and brings the tables up to date; replicas that start together take turns.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)?
            .application_name("quadrille-results")
            .disable_statement_logging();
        let writers = pool(WRITERS_MAX, WRITING.to_owned());
        let writers = writers.connect_with(options.clone()).await?;
        migrator(MIGRATIONS).run(&writers).await?;
        let reading = format!("SET statement_timeout = {}", QUERY_TIMEOUT.as_millis());
        let readers = pool(READERS_MAX, reading).connect_lazy_with(options);
        Ok(PostgresStore { writers, readers })
    }
}

/// A pool whose connections begin with these statements. By statement, not as start-up options, which connection
/// poolers refuse.
fn pool(connections_max: u32, session: String) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            let session = AssertSqlSafe(session.clone());
            Box::pin(async move { connection.execute(session).await.map(drop) })
        })
}

async fn with_timeout<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Error::Timeout {
        seconds: timeout.as_secs(),
    };
    tokio::time::timeout(timeout, answer).await.map_err(late)?
}

impl Store for PostgresStore {
    async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }
}
