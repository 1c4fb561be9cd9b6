//! Predictions in a SQLite file: nothing to install, one results replica.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection};

use super::query::{self, Columns, columns};
use super::{
    Error, OffsetRow, Place, Places, READ_WITHIN, Store, TopicIdentity, WriteBatch, Written,
    unanswered,
};
use crate::domain::{Count, Filter, Page, Prediction};

const MIGRATIONS: &[(&str, &str)] = &[
    (
        "predictions",
        include_str!("../migrations/sqlite/0001_predictions.sql"),
    ),
    (
        "shadow predictions",
        include_str!("../migrations/sqlite/0002_shadow_predictions.sql"),
    ),
    (
        "outputs",
        include_str!("../migrations/sqlite/0003_outputs.sql"),
    ),
    (
        "generations",
        include_str!("../migrations/sqlite/0004_generations.sql"),
    ),
    (
        "shadow decisions",
        include_str!("../migrations/sqlite/0005_shadow_decisions.sql"),
    ),
];

/// Questions answered at once; more wait for one to end.
const READERS_MAX: u32 = 4;
/// How long to wait for another program (a backup, a shell) that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question waits for a free connection before it is refused.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a lane waits for the one that writes, which another lane or another program may have.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// Steps of SQLite's virtual machine between looks at the time: some hundred microseconds.
const STEPS_PER_LOOK: i32 = 10_000;
/// Page cache of the writer in KiB; the four indexes of a million rows fit.
const WRITER_CACHE_KIB: i64 = 128 * 1024;
/// How often the log is copied into the file, beside the writer: a copy takes a tenth of a second,
/// with two syncs. Rows of random ids touch the same pages again and again, so not more often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// How long the copy's last step waits for questions under way; the writer waits with it.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(5);
/// Pages of 4 KiB that the log holds before the writer itself copies it, under loads that fill it
/// sooner. 32 times SQLite's default copies each page less often, for a log of 128 MiB.
const WAL_PAGES_MAX: &str = "32768";
/// The log is cut back to this many bytes after that, should a long reader have made it grow.
const WAL_BYTES_MAX: &str = "67108864";

/// Rows of one INSERT, dearest first: each execution is a trip to the connection's thread, so
/// many rows share one, and few sizes keep few statements prepared. 256 rows have 3,840
/// parameters; SQLite allows 32,766.
const CHUNKS: [usize; 4] = [256, 32, 4, 1];
static INSERTS: LazyLock<Inserts> =
    LazyLock::new(|| CHUNKS.map(|rows| insert(rows, "predictions", "pipeline, id")));
static SHADOW_INSERTS: LazyLock<Inserts> = LazyLock::new(|| {
    CHUNKS.map(|rows| insert(rows, "shadow_predictions", "pipeline, id, variant"))
});

/// One a size of [`CHUNKS`].
type Inserts = [String; CHUNKS.len()];

/// A store in a SQLite file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    /// One connection: SQLite has one writer at a time.
    writer: SqlitePool,
    readers: SqlitePool,
    /// One connection too; `None` for a database in memory.
    checkpointer: Option<SqlitePool>,
    read_within: Duration,
    /// Held to keep a second replica out; given back by the system if the process dies.
    _lock: Option<Arc<File>>,
}

impl SqliteStore {
    /// Opens `sqlite:path` or `sqlite::memory:`, creating the file and its folder.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let in_memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let lock = if in_memory {
            None
        } else {
            Some(Arc::new(lock(options.get_filename())?))
        };
        let writer = writer(options.clone()).await?;
        query::migrator(MIGRATIONS).run(&writer).await?;
        let (readers, checkpointer) = if in_memory {
            // A second connection would see another, empty database.
            (writer.clone(), None)
        } else {
            let pool = SqlitePoolOptions::new()
                .max_connections(READERS_MAX)
                .acquire_timeout(ACQUIRE_TIMEOUT);
            let read_only = options.clone().pragma("query_only", "ON");
            let readers = pool.connect_with(read_only).await?;
            let pool = SqlitePoolOptions::new().max_connections(1);
            let checkpointer = pool.connect_lazy_with(options.busy_timeout(CHECKPOINT_WAIT));
            tokio::spawn(checkpoint(checkpointer.clone()));
            (readers, Some(checkpointer))
        };
        Ok(SqliteStore {
            writer,
            readers,
            checkpointer,
            read_within: READ_WITHIN,
            _lock: lock,
        })
    }

    /// A connection for one question, which SQLite stops when its time is up. Dropping the question would not: its
    /// connection would go on looking.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, Error> {
        let mut connection = self.readers.acquire().await?;
        // In memory it is the writer's.
        if self.checkpointer.is_some() {
            let deadline = Instant::now() + self.read_within;
            let mut handle = connection.lock_handle().await?;
            handle.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        }
        Ok(connection)
    }

    fn unanswered(&self, error: sqlx::Error) -> Error {
        unanswered(error, self.read_within)
    }
}

async fn writer(options: SqliteConnectOptions) -> Result<SqlitePool, Error> {
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        // No fsync at each commit. A power cut may undo the last transactions, each whole: rows
        // and offsets go back together, and what they came from is still in Kafka.
        .synchronous(SqliteSynchronous::Normal)
        .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
        .pragma("wal_autocheckpoint", WAL_PAGES_MAX)
        .pragma("journal_size_limit", WAL_BYTES_MAX);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(WRITER_TIMEOUT)
        // A database in memory ends with its connection.
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None);
    Ok(pool.connect_with(options).await?)
}

/// Copies the log into the file now and then, until the pool is closed.
async fn checkpoint(pool: SqlitePool) {
    loop {
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        // PASSIVE copies nearly all while the writer goes on; RESTART the rest, while it waits, and
        // lets it begin the log anew.
        for step in [
            "PRAGMA wal_checkpoint(PASSIVE)",
            "PRAGMA wal_checkpoint(RESTART)",
        ] {
            match sqlx::query(step).execute(&pool).await {
                Ok(_) => {}
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => tracing::debug!(%error, step, "log not copied; later again"),
            }
        }
    }
}

/// Locks `<file>.lock` beside the database, for this process alone.
fn lock(file: &Path) -> Result<File, Error> {
    let mut name = OsString::from(file);
    name.push(".lock");
    let path = PathBuf::from(name);
    let failed = |source| Error::File {
        file: path.clone(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            file: file.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl Store for SqliteStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Places, Error> {
        // On the writer's connection: behind every write that is under way.
        let rows: Vec<OffsetRow> = sqlx::query_as(
            "SELECT partition, generation, next_offset, cluster_id, topic_id FROM offsets \
             WHERE topic = ?",
        )
        .bind(&topic.topic)
        .fetch_all(&self.writer)
        .await?;
        super::claimed(topic, partitions, &rows)
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Place,
        next: i64,
    ) -> Result<Place, Error> {
        let generation: Option<i64> = sqlx::query_scalar(
            "UPDATE offsets SET generation = generation + 1, next_offset = ?1 \
             WHERE topic = ?2 AND partition = ?3 AND cluster_id = ?4 AND generation = ?5 \
             AND next_offset = ?6 RETURNING generation",
        )
        .bind(next)
        .bind(&topic.topic)
        .bind(partition)
        .bind(&topic.cluster_id)
        .bind(old.generation)
        .bind(old.next)
        .fetch_optional(&self.writer)
        .await?;
        let generation = generation.ok_or_else(|| super::fenced(topic, partition))?;
        Ok(Place { generation, next })
    }

    async fn write(&self, batch: &WriteBatch) -> Result<Written, Error> {
        super::check(batch)?;
        let Some(shard) = super::shard(batch) else {
            return Ok(Written::default());
        };
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        advance(&mut transaction, batch).await?;
        let pipeline = &batch.pipeline;
        let stored = insert_all(&mut transaction, &INSERTS, pipeline, &batch.predictions).await?;
        insert_all(&mut transaction, &SHADOW_INSERTS, pipeline, &batch.shadows).await?;
        let written = Written::of(batch, stored);
        count(&mut transaction, &batch.pipeline, shard, written).await?;
        transaction.commit().await?;
        Ok(written)
    }

    async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Option<Prediction>, Error> {
        let mut query = query::get::<Sqlite>(pipeline, id, shadow);
        let mut connection = self.reader().await?;
        let row = query.build_query_as().fetch_optional(&mut *connection);
        let row: Option<Columns> = row.await.map_err(|error| self.unanswered(error))?;
        Ok(row.map(Prediction::from))
    }

    async fn list(&self, pipeline: &str, filter: &Filter) -> Result<Page, Error> {
        let mut query = query::list::<Sqlite>(pipeline, filter);
        let mut connection = self.reader().await?;
        let rows = query.build_query_as().fetch_all(&mut *connection);
        let rows: Vec<Columns> = rows.await.map_err(|error| self.unanswered(error))?;
        Ok(Page::of(
            rows.into_iter().map(Prediction::from).collect(),
            filter,
        ))
    }

    async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        let (stored, duplicates) = sqlx::query_as(
            "SELECT COALESCE(SUM(stored), 0), COALESCE(SUM(duplicates), 0) FROM counters \
             WHERE pipeline = ?",
        )
        .bind(pipeline)
        .fetch_one(&mut *self.reader().await?)
        .await
        .map_err(|error| self.unanswered(error))?;
        Ok(Count { stored, duplicates })
    }

    async fn close(&self) {
        // The writer last: as the last connection it writes the log back into the file.
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.close().await;
        }
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn advance(connection: &mut SqliteConnection, batch: &WriteBatch) -> Result<(), Error> {
    let topic = &batch.topic;
    for advance in &batch.advances {
        let moved = match advance.old {
            Some(old) => sqlx::query(
                "UPDATE offsets SET next_offset = ?1, topic_id = COALESCE(?2, topic_id) \
                 WHERE topic = ?3 AND partition = ?4 AND cluster_id = ?5 AND next_offset = ?6 \
                 AND generation = ?7",
            )
            .bind(advance.new)
            .bind(&topic.topic_id)
            .bind(&topic.topic)
            .bind(advance.partition)
            .bind(&topic.cluster_id)
            .bind(old.next)
            .bind(old.generation),
            None => sqlx::query(
                "INSERT INTO offsets (next_offset, topic_id, topic, partition, cluster_id) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            )
            .bind(advance.new)
            .bind(&topic.topic_id)
            .bind(&topic.topic)
            .bind(advance.partition)
            .bind(&topic.cluster_id),
        };
        if moved.execute(&mut *connection).await?.rows_affected() == 0 {
            return Err(super::fenced(topic, advance.partition));
        }
    }
    Ok(())
}

/// An INSERT of `rows` rows. Its parameters have no numbers: SQLite takes ?1 for a name, and sqlx
/// asks for the name of each parameter, which SQLite looks up one by one. OR ROLLBACK spares
/// SQLite a copy of each page that the statement changes, kept to undo the statement alone where a
/// column refuses a value; none does, for the batch is checked. Equal ids are not its business.
fn insert(rows: usize, table: &str, unique: &str) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    format!(
        "INSERT OR ROLLBACK INTO {table} (pipeline, {}) VALUES {} ON CONFLICT ({unique}) DO NOTHING",
        columns!(),
        vec![row; rows].join(", ")
    )
}

async fn insert_all(
    connection: &mut SqliteConnection,
    inserts: &'static Inserts,
    pipeline: &str,
    predictions: &[Prediction],
) -> Result<u64, Error> {
    let mut stored = 0;
    let mut rest = predictions;
    for (size, sql) in CHUNKS.into_iter().zip(inserts) {
        while let Some((rows, after)) = rest.split_at_checked(size) {
            let mut query = sqlx::query(sql.as_str());
            for row in rows {
                query = query
                    .bind(pipeline)
                    .bind(&row.id)
                    .bind(&row.key)
                    .bind(row.event_time_ms)
                    .bind(row.probability)
                    .bind(&row.decision)
                    .bind(&row.model)
                    .bind(&row.version)
                    .bind(&row.variant)
                    .bind(&row.config_hash)
                    .bind(&row.input_topic)
                    .bind(row.input_partition)
                    .bind(row.input_offset)
                    .bind(row.predicted_at_ms)
                    .bind(query::outputs_column(row));
            }
            stored += query.execute(&mut *connection).await?.rows_affected();
            rest = after;
        }
    }
    Ok(stored)
}

async fn count(
    connection: &mut SqliteConnection,
    pipeline: &str,
    shard: i32,
    written: Written,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO counters (pipeline, shard, stored, duplicates) VALUES (?, ?, ?, ?) \
         ON CONFLICT (pipeline, shard) DO UPDATE \
         SET stored = stored + excluded.stored, duplicates = duplicates + excluded.duplicates",
    )
    .bind(pipeline)
    .bind(shard)
    .bind(written.stored as i64)
    .bind(written.duplicates as i64)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::domain::{Kind, Position};

    async fn store(folder: &tempfile::TempDir) -> SqliteStore {
        let url = format!("sqlite:{}/results.db", folder.path().display());
        SqliteStore::open(&url).await.expect("a store")
    }

    #[tokio::test]
    async fn a_question_that_takes_too_long_is_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore {
            read_within: Duration::from_millis(100),
            ..store(&folder).await
        };
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT COUNT(*) FROM n";
        // Each of the connections, and again.
        for _ in 0..2 * READERS_MAX {
            let mut connection = store.reader().await.expect("a connection");
            let stopped = sqlx::query(endless).fetch_one(&mut *connection).await;
            let error = store.unanswered(stopped.expect_err("no answer"));
            assert!(matches!(error, Error::TooSlow { .. }), "{error}");
        }
        let found = store.count("p").await.expect("a count");
        assert_eq!(found, Count::default());
    }

    #[tokio::test]
    async fn every_documented_filter_has_an_index_and_none_sorts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        for number in 0..64_u32 {
            let has = |bit: u32| number & (1 << bit) != 0;
            let filter = Filter {
                key: has(0).then(|| "k".to_owned()),
                decision: has(1).then(|| "d".to_owned()),
                from_ms: has(2).then_some(1),
                to_ms: has(3).then_some(2),
                after: has(4).then(|| Position {
                    event_time_ms: 1,
                    id: "i".to_owned(),
                    variant: "v".to_owned(),
                }),
                kind: match has(5) {
                    true => Kind::Shadow,
                    false => Kind::Live,
                },
                ..Filter::default()
            };
            let by = match (&filter.key, &filter.decision) {
                (Some(_), _) => "_by_key",
                (None, Some(_)) => "_by_decision",
                (None, None) => "_by_time",
            };
            let query = query::list::<Sqlite>("p", &filter);
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.sql().as_str()));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
                .fetch_all(&store.readers)
                .await
                .expect("a plan");
            let [(.., step)] = plan.as_slice() else {
                panic!("{filter:?}: {plan:?}");
            };
            assert!(
                step.starts_with("SEARCH") && step.contains(by),
                "{filter:?}: {step}"
            );
        }
    }
}
