//! A prediction as a row: the tables that hold it, and their columns.

use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};

use crate::prediction::{Kind, Prediction};

/// The columns of both tables but for `pipeline`, which comes before them.
pub(super) const COLUMNS: &str = "id, key, event_time_ms, probability, decision, model, version, \
     variant, config_hash, input_topic, input_partition, input_offset, predicted_at_ms, outputs";

pub(super) const fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Live => "predictions",
        Kind::Shadow => "shadow_predictions",
    }
}

/// Of rows that are equal in these, the first stays.
pub(super) const fn primary_key(kind: Kind) -> &'static str {
    match kind {
        Kind::Live => "pipeline, id",
        Kind::Shadow => "pipeline, id, variant",
    }
}

/// The column `outputs`: empty where the probability is all there is.
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

impl<'r, DB: Database, R: Row<Database = DB>> FromRow<'r, R> for Prediction
where
    &'static str: ColumnIndex<R>,
    String: Decode<'r, DB> + Type<DB>,
    &'r [u8]: Decode<'r, DB> + Type<DB>,
    f64: Decode<'r, DB> + Type<DB>,
    i32: Decode<'r, DB> + Type<DB>,
    i64: Decode<'r, DB> + Type<DB>,
    Vec<u8>: Decode<'r, DB> + Type<DB>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let probability = row.try_get("probability")?;
        Ok(Prediction {
            id: row.try_get("id")?,
            key: row.try_get("key")?,
            event_time_ms: row.try_get("event_time_ms")?,
            probability,
            outputs: outputs_of(row.try_get("outputs")?, probability),
            decision: row.try_get("decision")?,
            model: row.try_get("model")?,
            version: row.try_get("version")?,
            variant: row.try_get("variant")?,
            config_hash: row.try_get("config_hash")?,
            input_topic: row.try_get("input_topic")?,
            input_partition: row.try_get("input_partition")?,
            input_offset: row.try_get("input_offset")?,
            predicted_at_ms: row.try_get("predicted_at_ms")?,
        })
    }
}
