//! Sees rows appear in the database, by asking for those after the last one, again and again.
//!
//! A reader of a SQLite database in WAL mode holds up nobody. It asks every [`EVERY`], for about
//! 50 µs; a row is noted when the answer is there, so a latency is never understated and overstated by
//! at most that.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::inbox;

pub const EVERY: Duration = Duration::from_millis(1);

/// A thread that watches.
pub struct Watcher {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Option<Instant>>>>,
}

impl Watcher {
    /// Watches for the records 0 to `total` in a database that is there.
    pub fn start(database: &Path, total: u64) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(false)
            .read_only(true)
            .disable_statement_logging();
        let (seen, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut connection = runtime.block_on(options.connect())?;
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn({
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                move || {
                    runtime.block_on(async {
                        let rows = watch(&mut connection, total, &seen, &stop).await;
                        connection.close().await?;
                        rows
                    })
                }
            })?;
        Ok(Watcher { seen, stop, thread })
    }

    /// Rows seen so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// When each record's row was seen.
    pub fn finish(self) -> anyhow::Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Release);
        match self.thread.join() {
            Ok(rows) => (rows?.into_iter().enumerate())
                .map(|(n, at)| at.with_context(|| format!("record {n} is not in the database")))
                .collect(),
            Err(_) => bail!("the watcher panicked"),
        }
    }
}

async fn watch(
    connection: &mut SqliteConnection,
    total: u64,
    seen: &AtomicU64,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Option<Instant>>> {
    let mut rows = vec![None; usize::try_from(total)?];
    let mut last = 0_i64;
    while !stop.load(Ordering::Acquire) {
        let new: Vec<(i64, String)> =
            sqlx::query_as("SELECT rowid, id FROM predictions WHERE rowid > ? ORDER BY rowid")
                .bind(last)
                .fetch_all(&mut *connection)
                .await?;
        let now = Instant::now();
        for (rowid, id) in &new {
            last = *rowid;
            let slot = inbox::number_of(id).and_then(|n| rows.get_mut(n as usize));
            let slot = slot.with_context(|| format!("a row of id {id:?}"))?;
            ensure!(slot.replace(now).is_none(), "record {id} is there twice");
        }
        seen.fetch_add(new.len() as u64, Ordering::AcqRel);
        // This runtime has nothing else to do, and the thread's sleep is finer than its timer.
        std::thread::sleep(EVERY);
    }
    Ok(rows)
}
