//! Pipelines as their users meet them: files, records, training data.

mod csv_rows;
mod decisions;
mod file;
mod generated;
mod halves;
mod json;
mod keyed;
mod properties;
mod recordless;
mod schema;
mod vectors;

use std::path::Path;

use quadrille_pipeline::Pipeline;

/// 2026-01-31T12:00:00Z.
const NOW_MS: i64 = 1_769_860_800_000;

const RECORD: &str = r#"{"id": "r-1", "patient_id": "p-1", "event_time": "2026-01-31T11:59:00Z",
    "pregnant": 6, "glucose": 148, "pressure": 72, "triceps": 35, "insulin": 0, "mass": 33.6,
    "pedigree": 0.627, "age": 50}"#;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The shipped example.
fn diabetes() -> Pipeline {
    let mut loaded = Pipeline::load(&repository().join("pipelines/diabetes.toml")).unwrap();
    loaded.remove(0)
}

/// A pipeline with a field of each type that refuses unknown fields.
const WARD: &str = r#"name = "ward"
[record]
key = "bed"
event_time = "at"
[[record.fields]]
name = "temperature"
type = "number"
min = 20
max = 50
[[record.fields]]
name = "beats"
type = "integer"
required = false
[[record.fields]]
name = "ventilated"
type = "boolean"
required = false
[[record.fields]]
name = "sex"
type = "category"
categories = ["f", "m"]
missing = ["unknown"]
[[features]]
name = "fever"
kind = "bucket"
field = "temperature"
edges = [36, 38.5]
[[features]]
name = "sex"
kind = "one_hot"
field = "sex"
[[features]]
name = "no_beats"
kind = "missing"
field = "beats"
[model]
inputs = ["sex", "fever"]
"#;

fn ward() -> Pipeline {
    Pipeline::parse("ward.toml", WARD).unwrap()
}

/// The error of `WARD` with `old` replaced by `new`.
fn fault(old: &str, new: &str) -> String {
    assert!(WARD.contains(old), "{old}");
    Pipeline::parse("ward.toml", &WARD.replacen(old, new, 1))
        .unwrap_err()
        .to_string()
}
