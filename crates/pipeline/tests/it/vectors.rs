//! Fields that hold many numbers: images, signals.

use csv::StringRecord;
use quadrille_pipeline::{NeedKey, Pipeline, Reading, Scalar};

use crate::NOW_MS;
use crate::properties::{PLAIN, parse};

const IMAGES: &str = r#"name = "images"
[record]
key = "camera"
[[record.fields]]
name = "light"
type = "number"
required = false
[[record.fields]]
name = "pixels"
type = "vector"
length = 4
min = 0
max = 16
missing = [-1]
[[features]]
name = "light"
kind = "pass"
field = "light"
[[features]]
name = "p"
kind = "pass"
field = "pixels"
[model]
inputs = ["p", "light"]
"#;

fn images() -> Pipeline {
    Pipeline::parse("images.toml", IMAGES).unwrap()
}

fn read(json: &str) -> Result<Reading, String> {
    let read = images().read_json(json.as_bytes(), NOW_MS);
    read.map_err(|invalid| invalid.to_string())
}

fn inputs(pipeline: &Pipeline, reading: &Reading) -> Vec<f64> {
    let (mut features, mut inputs) = (vec![], vec![]);
    pipeline.features(&reading.values, &mut features).unwrap();
    pipeline.model_inputs(&features, &mut inputs);
    inputs
}

#[test]
fn a_vector_becomes_as_many_positions_features_and_inputs() {
    let pipeline = images();
    let names = |fields: &[quadrille_proto::Field]| -> Vec<String> {
        fields.iter().map(|field| field.name.clone()).collect()
    };
    let record = ["light", "pixels[0]", "pixels[1]", "pixels[2]", "pixels[3]"];
    assert_eq!(names(&pipeline.record_schema().fields), record);
    assert_eq!(pipeline.inputs(), ["p[0]", "p[1]", "p[2]", "p[3]", "light"]);
    let reading = read(r#"{"camera": "c", "pixels": [0, 16.0, 3, 1], "light": 2}"#).unwrap();
    assert_eq!(reading.values, [2.0, 0.0, 16.0, 3.0, 1.0]);
    assert_eq!(inputs(&pipeline, &reading), [0.0, 16.0, 3.0, 1.0, 2.0]);
}

#[test]
fn what_was_not_measured_is_missing_in_one_place_or_everywhere() {
    let some = read(r#"{"camera": "c", "pixels": [-1, null, 3, 1]}"#).unwrap();
    assert!(some.values[1].is_nan() && some.values[2].is_nan() && some.values[3] == 3.0);
    let none = read(r#"{"camera": "c", "pixels": null}"#).unwrap();
    assert!(none.values.iter().all(|value| value.is_nan()));
}

#[test]
fn a_vector_that_is_none_is_refused_with_its_fault() {
    let refused = [
        (
            r#"{"camera": "c", "pixels": [1, 2, 3]}"#,
            "has 3 values; send a list of 4 numbers",
        ),
        (
            r#"{"camera": "c", "pixels": [1, 2, 3, 4, 5]}"#,
            "has 5 values",
        ),
        (
            r#"{"camera": "c", "pixels": [1, 2, 3, 17]}"#,
            "17.0 is above the largest",
        ),
        (
            r#"{"camera": "c", "pixels": [1, "a", 3, 4]}"#,
            "value 1 (counting from 0)",
        ),
        (r#"{"camera": "c", "pixels": [1, [2], 3, 4]}"#, "is a list"),
        (
            r#"{"camera": "c", "pixels": 7}"#,
            "send a list of 4 numbers",
        ),
        (r#"{"camera": "c"}"#, "\"pixels\": is missing"),
        (
            r#"{"camera": "c", "pixels": [1, 2, 3, 4], "pixels[1]": 2}"#,
            "is there twice",
        ),
        (
            r#"{"camera": "c", "pixels[0]": 1, "pixels[1]": 2, "pixels[2]": 3}"#,
            "is missing",
        ),
    ];
    for (json, expected) in refused {
        let found = read(json).unwrap_err();
        assert!(
            found.contains(expected),
            "{json}: {expected:?} is not in {found:?}"
        );
    }
}

#[test]
fn single_values_under_their_own_names_make_a_vector_too() {
    let json = r#"{"camera": "c", "pixels[1]": 2, "pixels[0]": 1, "pixels_2": 3, "pixels[3]": 4}"#;
    assert_eq!(read(json).unwrap().values[1..], [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_list_of_fields_may_hold_a_vector() {
    let pipeline = images();
    let read = |list| {
        let fields = [("pixels", Scalar::Json(list))];
        pipeline.read_fields(fields.into_iter(), NOW_MS, NeedKey::Optional)
    };
    assert_eq!(read("[1,2,3,4]").unwrap().values[1..], [1.0, 2.0, 3.0, 4.0]);
    assert!(read("[1,2]").is_err());
    assert!(read("{\"a\":1}").is_err());
}

#[test]
fn a_table_has_a_column_for_each_value() {
    let pipeline = images();
    for header in [
        ["camera", "pixels[0]", "pixels[1]", "pixels[2]", "pixels[3]"],
        ["camera", "pixels_0", "pixels_1", "pixels_2", "pixels_3"],
    ] {
        let columns = pipeline
            .csv_reader(&StringRecord::from(header.to_vec()))
            .unwrap();
        let row = StringRecord::from(vec!["c", "1", "", "3", "4"]);
        let reading = pipeline.read_csv_row(&columns, &row, NOW_MS).unwrap();
        assert!(reading.values[1] == 1.0 && reading.values[2].is_nan());
        let row = StringRecord::from(vec!["c", "1", "2", "x", "4"]);
        let error = pipeline.read_csv_row(&columns, &row, NOW_MS).unwrap_err();
        assert!(
            error.to_string().contains("\"x\" is not a number"),
            "{error}"
        );
    }
    let header = StringRecord::from(vec!["camera", "pixels_0", "pixels[0]"]);
    assert!(
        pipeline
            .csv_reader(&header)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
    let header = StringRecord::from(vec!["camera", "pixels_0", "pixels_1"]);
    let error = pipeline.csv_reader(&header).unwrap_err().to_string();
    assert!(error.contains("pixels[2]"), "{error}");
}

#[test]
fn settings_of_vectors_are_checked() {
    let fault = |from: &str, to: &str| {
        let text = IMAGES.replacen(from, to, 1);
        Pipeline::parse("images.toml", &text)
            .unwrap_err()
            .to_string()
    };
    assert!(fault("length = 4", "length = 0").contains("no length of a vector"));
    assert!(fault("length = 4", "length = 1.5").contains("no length of a vector"));
    assert!(fault("length = 4\n", "").contains("\"length\" is missing"));
    assert!(fault("type = \"number\"", "type = \"number\"\nlength = 3").contains("means nothing"));
    let missing = "kind = \"missing\"\nfield = \"pixels\"";
    assert!(fault("kind = \"pass\"\nfield = \"pixels\"", missing).contains("a vector"));
    let log = "kind = \"log\"\nfield = \"pixels\"";
    assert!(fault("kind = \"pass\"\nfield = \"pixels\"", log).contains("a vector"));
    assert!(fault("\"light\"", "\"pixels[2]\"").contains("already the name"));
}

#[test]
fn the_canonical_form_is_a_file_of_the_same_pipeline() {
    let again = parse(&serde_json::from_str(&images().canonical()).unwrap(), PLAIN);
    assert_eq!(again.canonical(), images().canonical());
}
