//! Records as gRPC brings them: a `google.protobuf.Struct` with the pipeline's field names.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::{Struct, Value, value::Kind};
use quadrille_pipeline::{Invalid, NeedKey, Pipeline, Reading, Scalar};
use tonic::Status;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Reads a record.
///
/// # Errors
/// What is wrong with it, by field.
pub fn read_struct(
    pipeline: &Pipeline,
    record: &Struct,
    need_key: NeedKey,
) -> Result<Reading, Invalid> {
    // Lists and objects are kept, or refused, as text; scalars are borrowed.
    let texts: Vec<Option<String>> = record.fields.values().map(nested_text).collect();
    let fields = record
        .fields
        .iter()
        .zip(&texts)
        .map(|((name, value), text)| {
            let scalar = match (&value.kind, text) {
                (_, Some(text)) => Scalar::Json(text),
                (Some(Kind::BoolValue(truth)), _) => Scalar::Bool(*truth),
                (Some(Kind::NumberValue(number)), _) => Scalar::Number(*number),
                (Some(Kind::StringValue(text)), _) => Scalar::Text(text),
                _ => Scalar::Null,
            };
            (name.as_str(), scalar)
        });
    pipeline.read_fields(fields, now_ms(), need_key)
}

fn nested_text(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StructValue(_) | Kind::ListValue(_)) => Some(to_json(value).to_string()),
        _ => None,
    }
}

fn to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(truth)) => (*truth).into(),
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(object)) => object
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), to_json(value)))
            .collect(),
    }
}

/// `INVALID_ARGUMENT` that names the field and the fix.
pub fn invalid_argument(invalid: &Invalid) -> Status {
    Status::invalid_argument(invalid.to_string())
}

/// The pipeline of a request; a name may be left out where there is only one.
///
/// # Errors
/// `NOT_FOUND` or `INVALID_ARGUMENT`, listing the pipelines there are.
pub fn pick<'a>(pipelines: &'a [Arc<Pipeline>], name: &str) -> Result<&'a Arc<Pipeline>, Status> {
    let there = || {
        pipelines
            .iter()
            .map(|p| p.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match pipelines {
        [only] if name.is_empty() => Ok(only),
        _ if name.is_empty() => Err(Status::invalid_argument(format!(
            "pipeline: name one of {}",
            there()
        ))),
        _ => pipelines
            .iter()
            .find(|pipeline| pipeline.name() == name)
            .ok_or_else(|| {
                Status::not_found(format!("no pipeline {name:?}; there are {}", there()))
            }),
    }
}
