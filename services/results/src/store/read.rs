//! Reading: the queries from outside, which see what is committed and hold no lane up.

use std::{marker::PhantomData, time::Duration};

use sqlx::{Database, Encode, QueryBuilder, Sqlite, Type};

use super::{
    Error, error,
    row::{COLUMNS, table},
};
use crate::{
    prediction::{Kind, Prediction},
    query::{Count, Filter, Page},
};

/// How long the database looks for a query's answer before it gives up: every documented filter but the variant has an index, by
/// which a page takes milliseconds. So what no index serves holds one of the readers' connections no longer than this.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The half of a store that queries use.
pub trait ReadStore: Send + Sync {
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

    /// Cheap enough for every second: it reads counters, not rows.
    fn count(&self, pipeline: &str) -> impl Future<Output = Result<Count, Error>> + Send;
}

/// What a query's failure means.
pub(super) fn failed(error: sqlx::Error, timeout: Duration) -> Error {
    match error::is_interrupted(&error) {
        true => Error::TooSlow {
            seconds: timeout.as_secs(),
        },
        false => error.into(),
    }
}

/// The queries, which are the same in both databases but for how a parameter is written.
pub(super) struct Queries<DB>(PhantomData<DB>);

impl<DB: Database> Queries<DB>
where
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
{
    fn select(kind: Kind) -> QueryBuilder<DB> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM ").push(table(kind));
        query
    }

    /// Selects at most one row.
    pub fn get(pipeline: &str, id: &str, shadow: Option<&str>) -> QueryBuilder<DB> {
        let mut query = Self::select(match shadow {
            None => Kind::Live,
            Some(_) => Kind::Shadow,
        });
        query.push(" WHERE pipeline = ").push_bind(pipeline);
        query.push(" AND id = ").push_bind(id);
        if let Some(variant) = shadow {
            query.push(" AND variant = ").push_bind(variant);
        }
        query
    }

    /// Selects up to one row more than the filter's limit: [`Page::of`] wants it.
    pub fn list(pipeline: &str, filter: &Filter) -> QueryBuilder<DB> {
        let mut query = Self::select(filter.kind);
        if DB::NAME == Sqlite::NAME {
            // Without statistics SQLite prefers a range to an equality. It does not know that a key has few predictions, a
            // decision many and a time range perhaps all: of one key between two times it looked through all that is
            // between them.
            let by = match (&filter.key, &filter.decision) {
                (Some(_), _) => "_by_key",
                (None, Some(_)) => "_by_decision",
                (None, None) => "_by_time",
            };
            query.push(" INDEXED BY ").push(table(filter.kind)).push(by);
        }
        query.push(" WHERE pipeline = ").push_bind(pipeline);
        if let Some(key) = filter.key.as_deref() {
            query.push(" AND key = ").push_bind(key);
        }
        if let Some(decision) = filter.decision.as_deref() {
            query.push(" AND decision = ").push_bind(decision);
        }
        if let Some(variant) = filter.variant.as_deref() {
            query.push(" AND variant = ").push_bind(variant);
        }
        if let Some(from) = filter.from_ms {
            query.push(" AND event_time_ms >= ").push_bind(from);
        }
        if let Some(to) = filter.to_ms {
            query.push(" AND event_time_ms < ").push_bind(to);
        }
        Self::push_page(&mut query, filter);
        query
    }

    /// What comes after the page before, in order, as many as the page holds.
    fn push_page(query: &mut QueryBuilder<DB>, filter: &Filter) {
        // Several shadows predict one id: there the variant is a part of the order.
        let (columns, order) = match filter.kind {
            Kind::Live => ("event_time_ms, id", "event_time_ms DESC, id DESC"),
            Kind::Shadow => (
                "event_time_ms, id, variant",
                "event_time_ms DESC, id DESC, variant DESC",
            ),
        };
        if let Some(after) = &filter.after {
            query.push(" AND (").push(columns).push(") < (");
            query.push_bind(after.event_time_ms);
            query.push(", ").push_bind(after.id.as_str());
            if filter.kind == Kind::Shadow {
                query.push(", ").push_bind(after.variant.as_str());
            }
            query.push(")");
        }
        query.push(" ORDER BY ").push(order);
        query.push(" LIMIT ").push(filter.limit.get() + 1);
    }

    /// Selects one row of two numbers.
    pub fn count(pipeline: &str) -> QueryBuilder<DB> {
        // PostgreSQL's sum of bigints is a numeric.
        let mut query = QueryBuilder::new(
            "SELECT CAST(COALESCE(SUM(stored), 0) AS bigint), \
             CAST(COALESCE(SUM(duplicates), 0) AS bigint) FROM counters WHERE pipeline = ",
        );
        query.push_bind(pipeline);
        query
    }
}
