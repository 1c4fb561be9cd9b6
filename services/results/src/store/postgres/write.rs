//! A unit of work in PostgreSQL, in few statements: each is a trip to the server.

use std::{sync::LazyLock, time::Duration};

use sqlx::{PgConnection, Postgres};

use super::{PostgresStore, SHORT_ANSWER_TIMEOUT, with_timeout};
use crate::{
    prediction::{Kind, Prediction},
    store::{
        Advance, Error, Position, Positions, TopicIdentity, UnitOfWork, WriteStore, Written,
        offsets::{claimed, fenced},
        row::{COLUMNS, outputs_column, primary_key, table},
        write::{Shared, Statements},
    },
};

/// Past this the server counts as unreachable: without it a dead network holds a lane for a quarter of
/// an hour.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

static INSERT: LazyLock<String> = LazyLock::new(|| insert(Kind::Live));
static SHADOW_INSERT: LazyLock<String> = LazyLock::new(|| insert(Kind::Shadow));

/// An INSERT of any number of rows: a column is an array.
fn insert(kind: Kind) -> String {
    format!(
        "INSERT INTO {} (pipeline, {COLUMNS}) SELECT $1, r.* FROM UNNEST($2::text[], $3::text[], \
         $4::bigint[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[], \
         $10::bytea[], $11::text[], $12::integer[], $13::bigint[], $14::bigint[], $15::bytea[]) \
         AS r ON CONFLICT ({}) DO NOTHING",
        table(kind),
        primary_key(kind)
    )
}

fn column<'a, R, T>(rows: &'a [R], field: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

impl WriteStore for PostgresStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Positions, Error> {
        with_timeout(SHORT_ANSWER_TIMEOUT, async {
            let mut offsets = Shared::<Postgres>::offsets(topic);
            let rows = offsets.build_query_as().fetch_all(&self.writers).await?;
            claimed(topic, partitions, &rows)
        })
        .await
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Position,
        next: i64,
    ) -> Result<Position, Error> {
        with_timeout(ANSWER_TIMEOUT, async {
            let mut truncate = Shared::<Postgres>::truncate(topic, partition, old, next);
            let generation = truncate.build_query_scalar().fetch_optional(&self.writers);
            let generation = generation.await?.ok_or_else(|| fenced(topic, partition))?;
            Ok(Position { generation, next })
        })
        .await
    }

    async fn write(&self, unit: &UnitOfWork) -> Result<Written, Error> {
        unit.check()?;
        let Some(shard) = unit.shard() else {
            return Ok(Written::default());
        };
        with_timeout(ANSWER_TIMEOUT, async {
            let mut transaction = self.writers.begin().await?;
            let written = unit.run(&mut *transaction, shard).await?;
            transaction.commit().await?;
            Ok(written)
        })
        .await
    }
}

/// Moves the partitions that have an offset already; which they were. A zombie waits here for its
/// successor's transaction, and then finds its `old` gone.
async fn update_offsets(
    connection: &mut PgConnection,
    topic: &TopicIdentity,
    advances: &[Advance],
) -> Result<Vec<i32>, Error> {
    let moves: Vec<(Position, &Advance)> = advances
        .iter()
        .filter_map(|advance| Some((advance.old?, advance)))
        .collect();
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_scalar(
        "UPDATE offsets SET next_offset = m.new, topic_id = COALESCE($1, topic_id) \
         FROM UNNEST($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) \
         AS m (partition, generation, old, new) \
         WHERE topic = $6 AND cluster_id = $7 AND offsets.partition = m.partition \
         AND offsets.generation = m.generation AND next_offset = m.old \
         RETURNING offsets.partition",
    )
    .bind(&topic.topic_id)
    .bind(column(&moves, |(_, advance)| advance.partition))
    .bind(column(&moves, |(old, _)| old.generation))
    .bind(column(&moves, |(old, _)| old.next))
    .bind(column(&moves, |(_, advance)| advance.new))
    .bind(&topic.topic)
    .bind(&topic.cluster_id)
    .fetch_all(connection)
    .await?;
    Ok(moved)
}

/// Begins the partitions that had no offset yet; which they were.
async fn insert_offsets(
    connection: &mut PgConnection,
    topic: &TopicIdentity,
    advances: &[Advance],
) -> Result<Vec<i32>, Error> {
    let first = |advance: &&Advance| advance.old.is_none();
    let firsts: Vec<&Advance> = advances.iter().filter(first).collect();
    if firsts.is_empty() {
        return Ok(Vec::new());
    }
    let inserted = sqlx::query_scalar(
        "INSERT INTO offsets (topic_id, topic, cluster_id, partition, next_offset) \
         SELECT $1, $2, $3, f.* FROM UNNEST($4::integer[], $5::bigint[]) AS f \
         ON CONFLICT DO NOTHING RETURNING partition",
    )
    .bind(&topic.topic_id)
    .bind(&topic.topic)
    .bind(&topic.cluster_id)
    .bind(column(&firsts, |advance| advance.partition))
    .bind(column(&firsts, |advance| advance.new))
    .fetch_all(connection)
    .await?;
    Ok(inserted)
}

impl Statements for PgConnection {
    async fn advance(&mut self, topic: &TopicIdentity, advances: &[Advance]) -> Result<(), Error> {
        let mut advanced = update_offsets(self, topic, advances).await?;
        advanced.extend(insert_offsets(self, topic, advances).await?);
        match advances
            .iter()
            .find(|advance| !advanced.contains(&advance.partition))
        {
            Some(advance) => Err(fenced(topic, advance.partition)),
            None => Ok(()),
        }
    }

    /// All rows by one INSERT, in the order of their ids, so that two transactions with the same ids
    /// wait for each other rather than deadlock; of equal ids the first stays first.
    async fn insert(
        &mut self,
        kind: Kind,
        pipeline: &str,
        predictions: &[Prediction],
    ) -> Result<u64, Error> {
        if predictions.is_empty() {
            return Ok(0);
        }
        let insert: &'static String = match kind {
            Kind::Live => &INSERT,
            Kind::Shadow => &SHADOW_INSERT,
        };
        let mut rows: Vec<&Prediction> = predictions.iter().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let inserted = sqlx::query(insert.as_str())
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
            .bind(column(&rows, |row| outputs_column(row)))
            .execute(&mut *self)
            .await?;
        Ok(inserted.rows_affected())
    }

    async fn count(&mut self, pipeline: &str, shard: i32, written: Written) -> Result<(), Error> {
        let mut count = Shared::<Postgres>::count(pipeline, shard, written);
        count.build().execute(self).await?;
        Ok(())
    }
}
