//! Predictions in a SQLite file: nothing to install, one results replica.

mod read;
mod write;

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
    },
};

use super::{Error, QUERY_TIMEOUT, Store, migrations::migrator};

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

/// Queries answered at once; more wait for one to end.
const READERS_MAX: u32 = 4;
/// How long to wait for another program (a backup, a shell) that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query waits for a free connection before it is refused.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a lane waits for the connection that writes, which another lane or another program may have.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// Page cache of the writer in KiB; the four indexes of a million rows fit.
const WRITER_CACHE_KIB: i64 = 128 * 1024;
/// How often the log is copied into the file, beside the writer: a copy takes a tenth of a second,
/// with two syncs. Rows of random ids touch the same pages again and again, so not more often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// How long the copy's last step waits for queries under way; the writer waits with it.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(5);
/// Pages of 4 KiB that the log holds before the writer itself copies it, under loads that fill it
/// sooner. 32 times SQLite's default copies each page less often, for a log of 128 MiB.
const WAL_PAGES_MAX: &str = "32768";
/// The log is cut back to this many bytes after that, should a long reader have made it grow.
const WAL_BYTES_MAX: &str = "67108864";

/// A store in a SQLite file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    /// One connection: SQLite has one writer at a time.
    writer: SqlitePool,
    readers: SqlitePool,
    /// One connection too; `None` for a database in memory.
    checkpointer: Option<SqlitePool>,
    query_timeout: Duration,
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
        migrator(MIGRATIONS).run(&writer).await?;
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
            query_timeout: QUERY_TIMEOUT,
            _lock: lock,
        })
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
    async fn close(&self) {
        // The writer last: as the last connection it writes the log back into the file.
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.close().await;
        }
        self.readers.close().await;
        self.writer.close().await;
    }
}
