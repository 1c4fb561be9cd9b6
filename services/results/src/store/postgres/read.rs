//! Queries of PostgreSQL, on connections of their own.

use sqlx::{FromRow, Postgres, QueryBuilder, postgres::PgRow};

use super::{PostgresStore, SHORT_ANSWER_TIMEOUT, with_timeout};
use crate::{
    prediction::Prediction,
    query::{Count, Filter, Page},
    store::{
        Error, QUERY_TIMEOUT, ReadStore,
        read::{Queries, failed},
    },
};

impl PostgresStore {
    async fn rows<T>(&self, mut query: QueryBuilder<Postgres>) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let rows = async {
            let rows = query.build_query_as().fetch_all(&self.readers).await;
            rows.map_err(|error| failed(error, QUERY_TIMEOUT))
        };
        with_timeout(SHORT_ANSWER_TIMEOUT, rows).await
    }
}

impl ReadStore for PostgresStore {
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
