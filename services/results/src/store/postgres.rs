//! Predictions in PostgreSQL: any number of results replicas.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, Postgres};

use super::query::{self, Columns, columns};
use super::{
    Error, OffsetRow, Place, Places, READ_WITHIN, Store, TopicIdentity, WriteBatch, Written,
    unanswered,
};
use crate::domain::{Count, Filter, Page, Prediction};

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
/// questions, however slow and many, never keep a batch from being stored.
const WRITERS_MAX: u32 = 10;
const READERS_MAX: u32 = 5;
/// How long to wait for a free connection, or for a server that is starting; less than the page's
/// patience, so that it shows the reason.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Past this the server counts as gone: without it a dead network holds a lane for a quarter of
/// an hour.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a question, and for where partitions go on: the server's own limit is sooner.
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
        query::migrator(MIGRATIONS).run(&writers).await?;
        let reading = format!("SET statement_timeout = {}", READ_WITHIN.as_millis());
        let readers = pool(READERS_MAX, reading).connect_lazy_with(options);
        Ok(PostgresStore { writers, readers })
    }

    async fn write_all(&self, batch: &WriteBatch, shard: i32) -> Result<Written, Error> {
        let mut transaction = self.writers.begin().await?;
        advance(&mut transaction, batch).await?;
        let pipeline = &batch.pipeline;
        let stored = insert_all(&mut transaction, INSERT, pipeline, &batch.predictions).await?;
        insert_all(&mut transaction, SHADOW_INSERT, pipeline, &batch.shadows).await?;
        let written = Written::of(batch, stored);
        count(&mut transaction, &batch.pipeline, shard, written).await?;
        transaction.commit().await?;
        Ok(written)
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

async fn in_time<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Error::Timeout {
        seconds: timeout.as_secs(),
    };
    tokio::time::timeout(timeout, answer).await.map_err(late)?
}

/// The answer to a question.
async fn read<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    let answer = async { answer.await.map_err(|error| unanswered(error, READ_WITHIN)) };
    in_time(SHORT_ANSWER_TIMEOUT, answer).await
}

impl Store for PostgresStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Places, Error> {
        in_time(SHORT_ANSWER_TIMEOUT, async {
            let rows: Vec<OffsetRow> = sqlx::query_as(
                "SELECT partition, generation, next_offset, cluster_id, topic_id FROM offsets \
                 WHERE topic = $1",
            )
            .bind(&topic.topic)
            .fetch_all(&self.writers)
            .await?;
            super::claimed(topic, partitions, &rows)
        })
        .await
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Place,
        next: i64,
    ) -> Result<Place, Error> {
        in_time(ANSWER_TIMEOUT, async {
            let generation: Option<i64> = sqlx::query_scalar(
                "UPDATE offsets SET generation = generation + 1, next_offset = $1 \
                 WHERE topic = $2 AND partition = $3 AND cluster_id = $4 AND generation = $5 \
                 AND next_offset = $6 RETURNING generation",
            )
            .bind(next)
            .bind(&topic.topic)
            .bind(partition)
            .bind(&topic.cluster_id)
            .bind(old.generation)
            .bind(old.next)
            .fetch_optional(&self.writers)
            .await?;
            let generation = generation.ok_or_else(|| super::fenced(topic, partition))?;
            Ok(Place { generation, next })
        })
        .await
    }

    async fn write(&self, batch: &WriteBatch) -> Result<Written, Error> {
        super::check(batch)?;
        match super::shard(batch) {
            Some(shard) => in_time(ANSWER_TIMEOUT, self.write_all(batch, shard)).await,
            None => Ok(Written::default()),
        }
    }

    async fn get(
        &self,
        pipeline: &str,
        id: &str,
        shadow: Option<&str>,
    ) -> Result<Option<Prediction>, Error> {
        let mut query = query::get::<Postgres>(pipeline, id, shadow);
        let row: Option<Columns> =
            read(query.build_query_as().fetch_optional(&self.readers)).await?;
        Ok(row.map(Prediction::from))
    }

    async fn list(&self, pipeline: &str, filter: &Filter) -> Result<Page, Error> {
        let mut query = query::list::<Postgres>(pipeline, filter);
        let rows: Vec<Columns> = read(query.build_query_as().fetch_all(&self.readers)).await?;
        Ok(Page::of(
            rows.into_iter().map(Prediction::from).collect(),
            filter,
        ))
    }

    async fn count(&self, pipeline: &str) -> Result<Count, Error> {
        let counted = sqlx::query_as(
            "SELECT COALESCE(SUM(stored), 0)::bigint, COALESCE(SUM(duplicates), 0)::bigint \
             FROM counters WHERE pipeline = $1",
        );
        let (stored, duplicates) = read(counted.bind(pipeline).fetch_one(&self.readers)).await?;
        Ok(Count { stored, duplicates })
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }
}

/// Moves the partitions that have an offset by one UPDATE and the others by one INSERT. A zombie
/// waits here for its successor's transaction, and then finds its `old` gone.
async fn advance(connection: &mut PgConnection, batch: &WriteBatch) -> Result<(), Error> {
    let topic = &batch.topic;
    let mut moves = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut firsts = (Vec::new(), Vec::new());
    for advance in &batch.advances {
        match advance.old {
            Some(old) => {
                moves.0.push(advance.partition);
                moves.1.push(old.generation);
                moves.2.push(old.next);
                moves.3.push(advance.new);
            }
            None => {
                firsts.0.push(advance.partition);
                firsts.1.push(advance.new);
            }
        }
    }
    let mut moved: Vec<i32> = Vec::new();
    if !moves.0.is_empty() {
        moved = sqlx::query_scalar(
            "UPDATE offsets SET next_offset = m.new, topic_id = COALESCE($1, topic_id) \
             FROM UNNEST($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) \
             AS m (partition, generation, old, new) \
             WHERE topic = $6 AND cluster_id = $7 AND offsets.partition = m.partition \
             AND offsets.generation = m.generation AND next_offset = m.old \
             RETURNING offsets.partition",
        )
        .bind(&topic.topic_id)
        .bind(&moves.0)
        .bind(&moves.1)
        .bind(&moves.2)
        .bind(&moves.3)
        .bind(&topic.topic)
        .bind(&topic.cluster_id)
        .fetch_all(&mut *connection)
        .await?;
    }
    if !firsts.0.is_empty() {
        let inserted: Vec<i32> = sqlx::query_scalar(
            "INSERT INTO offsets (topic_id, topic, cluster_id, partition, next_offset) \
             SELECT $1, $2, $3, f.* FROM UNNEST($4::integer[], $5::bigint[]) AS f \
             ON CONFLICT DO NOTHING RETURNING partition",
        )
        .bind(&topic.topic_id)
        .bind(&topic.topic)
        .bind(&topic.cluster_id)
        .bind(&firsts.0)
        .bind(&firsts.1)
        .fetch_all(&mut *connection)
        .await?;
        moved.extend(inserted);
    }
    match batch
        .advances
        .iter()
        .find(|advance| !moved.contains(&advance.partition))
    {
        Some(advance) => Err(super::fenced(topic, advance.partition)),
        None => Ok(()),
    }
}

/// An INSERT into `$table`, of which `$unique` are told apart.
macro_rules! insert {
    ($table:literal, $unique:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (pipeline, ",
            columns!(),
            ") SELECT $1, r.* FROM UNNEST($2::text[], $3::text[], $4::bigint[], $5::float8[], \
             $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::text[], \
             $12::integer[], $13::bigint[], $14::bigint[], $15::bytea[]) AS r \
             ON CONFLICT (",
            $unique,
            ") DO NOTHING"
        )
    };
}
const INSERT: &str = insert!("predictions", "pipeline, id");
const SHADOW_INSERT: &str = insert!("shadow_predictions", "pipeline, id, variant");

/// All rows by one INSERT. In the order of their ids, so that two transactions with the same ids
/// wait for each other rather than deadlock; of equal ids the first stays first.
async fn insert_all(
    connection: &mut PgConnection,
    insert: &'static str,
    pipeline: &str,
    predictions: &[Prediction],
) -> Result<u64, Error> {
    if predictions.is_empty() {
        return Ok(0);
    }
    let mut rows: Vec<&Prediction> = predictions.iter().collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    let inserted = sqlx::query(insert)
        .bind(pipeline)
        .bind(column(&rows, |row| row.id.as_str()))
        .bind(column(&rows, |row| row.key.as_str()))
        .bind(column(&rows, |row| row.event_time_ms))
        .bind(column(&rows, |row| row.probability))
        .bind(column(&rows, |row| row.decision.as_str()))
        .bind(column(&rows, |row| row.model.as_str()))
        .bind(column(&rows, |row| row.version.as_str()))
        .bind(column(&rows, |row| row.variant.as_str()))
        .bind(column(&rows, |row| row.config_hash.as_slice()))
        .bind(column(&rows, |row| row.input_topic.as_str()))
        .bind(column(&rows, |row| row.input_partition))
        .bind(column(&rows, |row| row.input_offset))
        .bind(column(&rows, |row| row.predicted_at_ms))
        .bind(column(&rows, query::outputs_column))
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected())
}

fn column<'a, T>(rows: &[&'a Prediction], field: impl Fn(&'a Prediction) -> T) -> Vec<T> {
    rows.iter().map(|row| field(row)).collect()
}

async fn count(
    connection: &mut PgConnection,
    pipeline: &str,
    shard: i32,
    written: Written,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO counters AS c (pipeline, shard, stored, duplicates) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (pipeline, shard) DO UPDATE \
         SET stored = c.stored + excluded.stored, duplicates = c.duplicates + excluded.duplicates",
    )
    .bind(pipeline)
    .bind(shard)
    .bind(written.stored as i64)
    .bind(written.duplicates as i64)
    .execute(connection)
    .await?;
    Ok(())
}
