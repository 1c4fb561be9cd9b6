//! Queries of SQLite, on a few connections that do not wait for the one that writes.

use std::time::Instant;

use sqlx::{FromRow, QueryBuilder, Sqlite, pool::PoolConnection, sqlite::SqliteRow};

use super::SqliteStore;
use crate::{
    prediction::Prediction,
    query::{Count, Filter, Page},
    store::{
        Error, ReadStore,
        read::{Queries, failed},
    },
};

/// Steps of SQLite's virtual machine between looks at the time: some hundred microseconds.
const STEPS_PER_LOOK: i32 = 10_000;

impl SqliteStore {
    /// A connection for one query, which SQLite stops when its time is up. Dropping the query would not: its
    /// connection would go on looking.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, Error> {
        let mut connection = self.readers.acquire().await?;
        // In memory it is the writer's.
        if self.checkpointer.is_some() {
            let deadline = Instant::now() + self.query_timeout;
            let mut handle = connection.lock_handle().await?;
            handle.set_progress_handler(STEPS_PER_LOOK, move || Instant::now() < deadline);
        }
        Ok(connection)
    }

    async fn rows<T>(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let mut connection = self.reader().await?;
        let rows = query.build_query_as().fetch_all(&mut *connection).await;
        rows.map_err(|error| failed(error, self.query_timeout))
    }
}

impl ReadStore for SqliteStore {
    async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Option<Prediction>, Error> {
        Ok(self.rows(Queries::get(pipeline, id, shadow)).await?.pop())
    }

    async fn list(&self, pipeline: &str, filter: &Filter) -> Result<Page, Error> {
        let rows = self.rows(Queries::list(pipeline, filter)).await?;
        Ok(Page::of(rows, filter))
    }

    async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        let rows = self.rows(Queries::count(pipeline)).await?;
        Ok(Count::of(&rows))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{prediction::Kind, query::Cursor, store::sqlite::READERS_MAX};

    async fn store(folder: &tempfile::TempDir) -> SqliteStore {
        let url = format!("sqlite:{}/results.db", folder.path().display());
        SqliteStore::open(&url).await.expect("a store")
    }

    #[tokio::test]
    async fn a_query_that_takes_too_long_is_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore {
            query_timeout: Duration::from_millis(100),
            ..store(&folder).await
        };
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT COUNT(*) FROM n";
        // Each of the connections, and again.
        for _ in 0..2 * READERS_MAX {
            let mut connection = store.reader().await.expect("a connection");
            let stopped = sqlx::query(endless).fetch_one(&mut *connection).await;
            let error = failed(stopped.expect_err("no answer"), store.query_timeout);
            assert!(matches!(error, Error::TooSlow { .. }), "{error}");
        }
        let found = store.count("p").await.expect("a count");
        assert_eq!(found, Count::default());
    }

    #[tokio::test]
    async fn every_documented_filter_has_an_index_and_none_sorts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        for number in 0..128_u32 {
            let has = |bit: u32| number & (1 << bit) != 0;
            let filter = Filter {
                key: has(0).then(|| "k".to_owned()),
                decision: has(1).then(|| "d".to_owned()),
                from_ms: has(2).then_some(1),
                to_ms: has(3).then_some(2),
                after: has(4).then(|| Cursor {
                    event_time_ms: 1,
                    id: "i".to_owned(),
                    variant: "v".to_owned(),
                }),
                kind: match has(5) {
                    true => Kind::Shadow,
                    false => Kind::Live,
                },
                variant: has(6).then(|| "v".to_owned()),
                ..Filter::default()
            };
            let by = match (&filter.key, &filter.decision) {
                (Some(_), _) => "_by_key",
                (None, Some(_)) => "_by_decision",
                (None, None) => "_by_time",
            };
            let query = Queries::<Sqlite>::list("p", &filter);
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
