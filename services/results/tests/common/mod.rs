//! Databases and predictions for the tests.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unused_macros, reason = "each test binary uses its part")]

use std::{
    future::poll_fn,
    pin::pin,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
};

use quadrille_local::postgres::Postgres;
use results::{
    prediction::Prediction,
    query::{Count, Filter},
    store::{
        Advance, AnyStore, Error, Position, ReadStore, Store, TopicIdentity, UnitOfWork,
        WriteStore, Written,
    },
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection,
    postgres::{PgConnectOptions, PgConnection},
};
use tempfile::TempDir;

/// Makes of each named function a test on SQLite and one on PostgreSQL.
macro_rules! suite {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Database::sqlite().await).await; })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Database::postgres().await).await; })*
        }
    };
}

/// The pipeline of every test.
pub const PIPELINE: &str = "diabetes";

/// An empty database of one test's own; gone when dropped.
pub struct Database {
    pub url: String,
    home: Home,
}

/// Held to be dropped with the database.
enum Home {
    Folder(TempDir),
    Server(Arc<Postgres>),
    Gone,
}

impl Database {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}/new/results.db", folder.path().display());
        Database {
            url,
            home: Home::Folder(folder),
        }
    }

    pub async fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = server().await;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let options = PgConnectOptions::from_str(server.url()).expect("a URL");
        let mut admin = PgConnection::connect_with(&options)
            .await
            .expect("a connection");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create)
            .execute(&mut admin)
            .await
            .expect("a database");
        let url = options.database(&name).to_url_lossy().to_string();
        Database {
            url,
            home: Home::Server(server),
        }
    }

    /// On a server of its own, which the test may stop.
    pub async fn postgres_alone() -> Self {
        let start = || Postgres::start().expect("PostgreSQL");
        let server = tokio::task::spawn_blocking(start).await.expect("a server");
        Database {
            url: server.url().to_owned(),
            home: Home::Server(Arc::new(server)),
        }
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        self.home = Home::Gone;
    }

    pub async fn open(&self) -> AnyStore {
        AnyStore::open(&self.url).await.expect("a store")
    }

    /// A store as after a restart of the service.
    pub async fn reopen(&self, store: AnyStore) -> AnyStore {
        store.close().await;
        drop(store);
        self.open().await
    }
}

/// One server for the tests that run at once. Not a static, which would never be dropped: the last
/// test to hold it ends it.
async fn server() -> Arc<Postgres> {
    static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let start = || {
        let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        server.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Postgres::start().expect("PostgreSQL"));
            *server = Arc::downgrade(&started);
            started
        })
    };
    tokio::task::spawn_blocking(start).await.expect("a server")
}

pub fn topic() -> TopicIdentity {
    TopicIdentity {
        cluster_id: "cluster-a".into(),
        topic: "diabetes.predictions".into(),
        topic_id: Some("topic-1".into()),
    }
}

pub fn prediction(id: impl Into<String>) -> Prediction {
    Prediction {
        id: id.into(),
        key: "patient-1".into(),
        event_time_ms: 1_700_000_000_000,
        probability: 0.25,
        outputs: vec![0.25],
        decision: "negative".into(),
        model: "forest".into(),
        version: "1".into(),
        variant: "live".into(),
        config_hash: vec![0, 1, 254, 255],
        input_topic: "diabetes.features".into(),
        input_partition: 3,
        input_offset: 1 << 40,
        predicted_at_ms: 1_700_000_000_250,
    }
}

/// A batch of partition 0 whose predictions took one offset each.
pub fn batch(old: Option<i64>, predictions: Vec<Prediction>) -> UnitOfWork {
    let new = old.unwrap_or(0) + predictions.len() as i64;
    UnitOfWork {
        pipeline: PIPELINE.into(),
        topic: topic(),
        advances: vec![Advance {
            partition: 0,
            old: old.map(Position::at),
            new,
        }],
        predictions,
        shadows: Vec::new(),
    }
}

/// What the shadow `variant` predicted for each id.
pub fn shadows(variant: &str, ids: impl IntoIterator<Item = impl ToString>) -> Vec<Prediction> {
    let of = |id: String| Prediction {
        variant: variant.into(),
        version: "2".into(),
        probability: 0.75,
        outputs: vec![0.75],
        ..prediction(id)
    };
    ids.into_iter().map(|id| of(id.to_string())).collect()
}

pub fn ids(ids: impl IntoIterator<Item = impl ToString>) -> Vec<Prediction> {
    ids.into_iter()
        .map(|id| prediction(id.to_string()))
        .collect()
}

/// The stored next offset of partition 0.
pub async fn next_offset(store: &AnyStore) -> Option<i64> {
    position(store).await.map(|position| position.next)
}

/// The stored position of partition 0.
pub async fn position(store: &AnyStore) -> Option<Position> {
    store.claim(&topic(), &[0]).await.expect("a claim")[0].1
}

/// Ids in the order they are listed, of all pages.
pub async fn list_ids(store: &AnyStore, filter: &Filter) -> Result<Vec<String>, Error> {
    let mut filter = filter.clone();
    let mut ids = Vec::new();
    loop {
        let page = store.list(PIPELINE, &filter).await?;
        ids.extend(page.predictions.into_iter().map(|prediction| prediction.id));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(ids),
        }
    }
}

/// Polls a future `polls` times, then drops it where it is.
pub async fn abandon_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = future.as_mut().poll(context);
        if left == 0 && polled.is_pending() {
            return Poll::Ready(None);
        }
        polled.map(Some)
    })
    .await
}

pub async fn write(store: &AnyStore, batch: UnitOfWork) -> Written {
    store.write(&batch).await.expect("a write")
}

/// Stored and duplicate predictions.
pub async fn count(store: &AnyStore) -> (i64, i64) {
    let Count { stored, duplicates } = store.count(PIPELINE).await.expect("a count");
    (stored, duplicates)
}
