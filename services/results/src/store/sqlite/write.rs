//! A unit of work in SQLite: on the one connection that writes, so behind every other one.

use std::sync::LazyLock;

use sqlx::{Sqlite, SqliteConnection};

use super::SqliteStore;
use crate::{
    prediction::{Kind, Prediction},
    store::{
        Advance, Error, Position, Positions, TopicIdentity, UnitOfWork, WriteStore, Written,
        offsets::{claimed, fenced},
        row::{COLUMNS, outputs_column, primary_key, table},
        write::{Shared, Statements},
    },
};

/// Rows of one INSERT, largest first: each execution is a trip to the connection's thread, so
/// many rows share one, and few sizes keep few statements prepared. 256 rows have 3,840
/// parameters; SQLite allows 32,766.
const CHUNKS: [usize; 4] = [256, 32, 4, 1];
static INSERTS: LazyLock<Inserts> = LazyLock::new(|| CHUNKS.map(|rows| insert(rows, Kind::Live)));
static SHADOW_INSERTS: LazyLock<Inserts> =
    LazyLock::new(|| CHUNKS.map(|rows| insert(rows, Kind::Shadow)));

/// One for each size of [`CHUNKS`].
type Inserts = [String; CHUNKS.len()];

/// An INSERT of `rows` rows. Its parameters have no numbers: SQLite takes ?1 for a name, and sqlx
/// asks for the name of each parameter, which SQLite looks up one by one. OR ROLLBACK spares
/// SQLite a copy of each page that the statement changes, kept to undo the statement alone where a
/// column refuses a value; none does, for the rows are checked. Equal ids are not its business.
fn insert(rows: usize, kind: Kind) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    format!(
        "INSERT OR ROLLBACK INTO {} (pipeline, {COLUMNS}) VALUES {} ON CONFLICT ({}) DO NOTHING",
        table(kind),
        vec![row; rows].join(", "),
        primary_key(kind)
    )
}

impl WriteStore for SqliteStore {
    async fn claim(&self, topic: &TopicIdentity, partitions: &[i32]) -> Result<Positions, Error> {
        // On the writer's connection: behind every write that is under way.
        let mut offsets = Shared::<Sqlite>::offsets(topic);
        let rows = offsets.build_query_as().fetch_all(&self.writer).await?;
        claimed(topic, partitions, &rows)
    }

    async fn truncated(
        &self,
        topic: &TopicIdentity,
        partition: i32,
        old: Position,
        next: i64,
    ) -> Result<Position, Error> {
        let mut truncate = Shared::<Sqlite>::truncate(topic, partition, old, next);
        let generation = truncate.build_query_scalar().fetch_optional(&self.writer);
        let generation = generation.await?.ok_or_else(|| fenced(topic, partition))?;
        Ok(Position { generation, next })
    }

    async fn write(&self, unit: &UnitOfWork) -> Result<Written, Error> {
        unit.check()?;
        let Some(shard) = unit.shard() else {
            return Ok(Written::default());
        };
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let written = unit.run(&mut *transaction, shard).await?;
        transaction.commit().await?;
        Ok(written)
    }
}

impl Statements for SqliteConnection {
    async fn advance(&mut self, topic: &TopicIdentity, advances: &[Advance]) -> Result<(), Error> {
        for advance in advances {
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
            if moved.execute(&mut *self).await?.rows_affected() == 0 {
                return Err(fenced(topic, advance.partition));
            }
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        kind: Kind,
        pipeline: &str,
        predictions: &[Prediction],
    ) -> Result<u64, Error> {
        let inserts: &'static Inserts = match kind {
            Kind::Live => &INSERTS,
            Kind::Shadow => &SHADOW_INSERTS,
        };
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
                        .bind(outputs_column(row));
                }
                stored += query.execute(&mut *self).await?.rows_affected();
                rest = after;
            }
        }
        Ok(stored)
    }

    async fn count(&mut self, pipeline: &str, shard: i32, written: Written) -> Result<(), Error> {
        let mut count = Shared::<Sqlite>::count(pipeline, shard, written);
        count.build().execute(self).await?;
        Ok(())
    }
}
