//! What holds for every file, every record and any bytes.

use csv::StringRecord;
use proptest::collection::vec;
use proptest::prelude::*;
use quadrille_pipeline::{NeedKey, Pipeline, Projection, Reading, Scalar};
use serde_json::{Map, Value};

use crate::generated::{Layout, layout, pipeline, record, toml};
use crate::{NOW_MS, RECORD, WARD, diabetes, ward};

pub const PLAIN: Layout = Layout {
    reversed: false,
    comments: false,
};

pub fn parse(value: &Value, layout: Layout) -> Pipeline {
    let text = toml(value, layout);
    Pipeline::parse("generated.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// NaN equals NaN here.
fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn scalars(record: &Map<String, Value>) -> impl Iterator<Item = (&str, Scalar<'_>)> {
    record.iter().map(|(name, value)| {
        let scalar = match value {
            Value::Null => Scalar::Null,
            Value::Bool(truth) => Scalar::Bool(*truth),
            Value::String(text) => Scalar::Text(text),
            number => Scalar::Number(number.as_f64().unwrap()),
        };
        (name.as_str(), scalar)
    })
}

fn csv_reading(pipeline: &Pipeline, record: &Map<String, Value>) -> Reading {
    let header: StringRecord = record.keys().map(String::as_str).collect();
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row: StringRecord = record.values().map(cell).collect();
    let columns = pipeline.csv_reader(&header).unwrap();
    pipeline.read_csv_row(&columns, &row, NOW_MS).unwrap()
}

/// JSON-like text: mutated records reach deeper than noise.
fn mutated(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"{}[]\",:=#.0e-\\\n".to_vec())
    ];
    vec((any::<proptest::sample::Index>(), byte, 0..3u8), 1..6).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_file_means_the_same_in_any_layout(value in pipeline(), layout in layout()) {
        let (plain, other) = (parse(&value, PLAIN), parse(&value, layout));
        prop_assert_eq!(plain.canonical(), other.canonical());
        prop_assert_eq!(plain.hash(), other.hash());
        prop_assert_eq!(plain.record_schema_id(), other.record_schema_id());
    }

    #[test]
    fn the_canonical_form_is_a_file_of_the_same_pipeline(value in pipeline()) {
        let first = parse(&value, PLAIN);
        let again = parse(&serde_json::from_str(&first.canonical()).unwrap(), PLAIN);
        prop_assert_eq!(first.canonical(), again.canonical());
    }

    #[test]
    fn a_valid_record_reads_the_same_from_json_csv_and_a_list(
        value in pipeline(),
        seeds in vec(any::<u8>(), 1..8),
    ) {
        let (pipeline, record) = (parse(&value, PLAIN), record(&value, &seeds));
        let json = serde_json::to_vec(&record).unwrap();
        let reading = pipeline.read_json(&json, NOW_MS).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(reading.values.len(), pipeline.record_schema().fields.len());
        prop_assert_eq!(&reading.key, "k");
        let listed = pipeline.read_fields(scalars(&record), NOW_MS, NeedKey::Required).unwrap();
        prop_assert_eq!(bits(&reading.values), bits(&listed.values));
        prop_assert_eq!(bits(&reading.values), bits(&csv_reading(&pipeline, &record).values));
    }

    #[test]
    fn features_are_finite_or_missing_whatever_the_values(
        value in pipeline(),
        values in vec(prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(0.0)], 0..10),
    ) {
        let pipeline = parse(&value, PLAIN);
        let (mut features, mut inputs) = (vec![1.0; 3], Vec::new());
        pipeline.features_of(&values, &values, &mut features);
        prop_assert_eq!(features.len(), pipeline.feature_schema().fields.len());
        prop_assert!(features.iter().all(|feature| !feature.is_infinite()));
        pipeline.model_inputs(&features, &mut inputs);
        prop_assert_eq!(inputs.len(), pipeline.inputs().len());
        pipeline.model_inputs(&[], &mut inputs);
        prop_assert_eq!(inputs.len(), 2 * pipeline.inputs().len());
    }

    #[test]
    fn a_schema_projects_onto_itself_and_onto_longer_ones(value in pipeline(), keep in 0..8usize) {
        let whole = parse(&value, PLAIN).record_schema().clone();
        let mut older = whole.clone();
        older.fields.truncate(keep);
        let values: Vec<f64> = (0..older.fields.len()).map(|_| 0.0).collect();
        let mut out = Vec::new();
        Projection::new(&older, &whole).unwrap().apply(&values, &mut out);
        prop_assert_eq!(out.len(), whole.fields.len());
        prop_assert_eq!(out.iter().filter(|value| value.is_nan()).count(), whole.fields.len() - values.len());
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = Pipeline::parse("x", &text);
        let _ = diabetes().read_json(&bytes, NOW_MS);
        let _ = diabetes().read_training(&bytes[..]);
    }

    #[test]
    fn no_broken_file_makes_the_parser_panic(bytes in mutated(WARD)) {
        if let Err(error) = Pipeline::parse("x", &String::from_utf8_lossy(&bytes)) {
            prop_assert!(error.line.is_some());
            prop_assert!(error.to_string().len() < 4_000);
        }
    }

    #[test]
    fn a_broken_record_reads_or_says_why(bytes in mutated(RECORD), now_ms in any::<i64>()) {
        match diabetes().read_json(&bytes, now_ms) {
            Ok(reading) => {
                prop_assert!(reading.values.iter().all(|value| !value.is_infinite()));
                let extra = &reading.extra;
                prop_assert!(extra.is_empty() || serde_json::from_slice::<Value>(extra).is_ok());
            }
            Err(invalid) => prop_assert!(invalid.to_string().len() < 2_000),
        }
    }

    #[test]
    fn no_csv_makes_the_readers_panic(
        header in vec(prop_oneof!["\\PC{0,8}", Just("bed".to_owned()), Just("sex".to_owned()),
            Just("temperature".to_owned())], 0..6),
        row in vec("\\PC{0,8}", 0..6),
    ) {
        let pipeline = ward();
        if let Ok(columns) = pipeline.csv_reader(&StringRecord::from(header)) {
            let _ = pipeline.read_csv_row(&columns, &StringRecord::from(row), NOW_MS);
        }
    }
}
