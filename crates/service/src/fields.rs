//! Records sent by gRPC: a `google.protobuf.Struct` with the pipeline's field names.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::{Struct, Value, value::Kind};
use quadrille_pipeline::{Invalid, NeedKey, Pipeline, Reading, Scalar, quote::quote};
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
                // JSON cannot express NaN and infinities, and null would be another value: refused, as everywhere.
                (_, Some(text)) => not_finite(value).map_or(Scalar::Json(text), Scalar::Number),
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

/// The first NaN or infinity, in nested lists and objects too.
fn not_finite(value: &Value) -> Option<f64> {
    match &value.kind {
        Some(Kind::NumberValue(number)) => (!number.is_finite()).then_some(*number),
        Some(Kind::ListValue(list)) => list.values.iter().find_map(not_finite),
        Some(Kind::StructValue(object)) => object.fields.values().find_map(not_finite),
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

/// The pipeline of a request; the name may be omitted if there is only one pipeline.
///
/// # Errors
/// `NOT_FOUND` or `INVALID_ARGUMENT`, with the known pipelines.
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
                Status::not_found(format!(
                    "no pipeline {}; known pipelines: {}",
                    quote(name),
                    there()
                ))
            }),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::ListValue;

    use super::*;

    #[test]
    fn a_long_name_of_a_pipeline_is_not_sent_back() {
        let refused = pick(&[], &"\u{1}".repeat(1 << 20)).unwrap_err();
        assert!(refused.message().len() < 1_000, "{refused}");
    }

    #[test]
    fn a_number_that_is_none_is_refused_in_lists_and_objects_too() {
        const NET: &str = r#"
            name = "p"
            [record]
            key = "k"
            unknown_fields = "keep"
            [[record.fields]]
            name = "v"
            type = "vector"
            length = 2
            required = false
            [[features]]
            name = "v"
            kind = "pass"
            field = "v"
            [model]
            inputs = ["v"]
            [decision]
            threshold = 0.5
            positive = "a"
            negative = "b"
        "#;
        let pipeline = Pipeline::parse("p.toml", NET).unwrap();
        let number = |number| Value {
            kind: Some(Kind::NumberValue(number)),
        };
        let read = |field: &str, second: f64| {
            let list = ListValue {
                values: vec![number(1.0), number(second)],
            };
            let list = Value {
                kind: Some(Kind::ListValue(list)),
            };
            let fields = [("k".to_owned(), number(7.0)), (field.to_owned(), list)];
            let record = Struct {
                fields: fields.into(),
            };
            read_struct(&pipeline, &record, NeedKey::Required)
        };
        assert_eq!(read("v", 2.0).unwrap().values, [1.0, 2.0]);
        assert!(read("other", 2.0).is_ok());
        for wrong in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert!(read("v", wrong).is_err(), "{wrong}");
            assert_eq!(read("other", wrong).unwrap_err().class(), "out_of_range");
        }
    }
}
