//! What both databases have in common: migrations by text, and the questions.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Database, Encode, QueryBuilder, SqlSafeStr, Sqlite, Type};

use crate::domain::{Filter, Kind, Prediction};

/// Named for us, since a database may be shared with another user of sqlx.
const MIGRATIONS_TABLE: &str = "results_migrations";

/// The columns of [`Columns`], in its order. A macro, for `concat!`.
macro_rules! columns {
    () => {
        "id, key, event_time_ms, probability, decision, model, version, variant, config_hash, \
         input_topic, input_partition, input_offset, predicted_at_ms, outputs"
    };
}
pub(super) use columns;

pub(super) type Columns = (
    String,
    String,
    i64,
    f64,
    String,
    String,
    String,
    String,
    Vec<u8>,
    String,
    i32,
    i64,
    i64,
    Vec<u8>,
);

/// What the column `outputs` has.
pub(super) fn outputs_column(prediction: &Prediction) -> Vec<u8> {
    match prediction.outputs.len() {
        ..=1 => Vec::new(),
        _ => prediction
            .outputs
            .iter()
            .flat_map(|output| output.to_le_bytes())
            .collect(),
    }
}

fn outputs_of(column: &[u8], probability: f64) -> Vec<f64> {
    match column.as_chunks() {
        ([], _) => vec![probability],
        (outputs, _) => outputs.iter().map(|it| f64::from_le_bytes(*it)).collect(),
    }
}

impl From<Columns> for Prediction {
    fn from(columns: Columns) -> Self {
        Prediction {
            id: columns.0,
            key: columns.1,
            event_time_ms: columns.2,
            probability: columns.3,
            outputs: outputs_of(&columns.13, columns.3),
            decision: columns.4,
            model: columns.5,
            version: columns.6,
            variant: columns.7,
            config_hash: columns.8,
            input_topic: columns.9,
            input_partition: columns.10,
            input_offset: columns.11,
            predicted_at_ms: columns.12,
        }
    }
}

/// Migrations in order; the first is number 1.
pub(super) fn migrator(scripts: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = scripts.iter().zip(1..).map(|((name, sql), version)| {
        let kind = MigrationType::Simple;
        Migration::new(version, (*name).into(), kind, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}

const fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Live => "predictions",
        Kind::Shadow => "shadow_predictions",
    }
}

fn select<DB: Database>(kind: Kind) -> QueryBuilder<DB> {
    let mut query = QueryBuilder::new(concat!("SELECT ", columns!(), " FROM "));
    query.push(table(kind));
    query
}

/// Selects what was answered, or what the shadow of this name predicted.
pub(super) fn get<DB: Database>(pipeline: &str, id: &str, shadow: Option<&str>) -> QueryBuilder<DB>
where
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
{
    let mut query = select(match shadow {
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

/// Selects up to one row more than the filter's limit: [`crate::domain::Page::of`] wants it.
pub(super) fn list<DB: Database>(pipeline: &str, filter: &Filter) -> QueryBuilder<DB>
where
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
{
    let mut query = select(filter.kind);
    if DB::NAME == Sqlite::NAME {
        // It does not know that a key has few predictions, a decision many and a time range perhaps all: of one key
        // between two times it looked through all that is between them.
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
    if let Some(from) = filter.from_ms {
        query.push(" AND event_time_ms >= ").push_bind(from);
    }
    if let Some(to) = filter.to_ms {
        query.push(" AND event_time_ms < ").push_bind(to);
    }
    // A shadow predicts an id that another one predicts, too: there the variant is a part of the order.
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
    let rows = filter.limit.get() + 1;
    query.push(" ORDER BY ").push(order);
    query.push(" LIMIT ").push(rows);
    query
}
