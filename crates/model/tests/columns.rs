//! Models of data frames, which have an input tensor for each column, answer as in ONNX Runtime, each column found by its name.
//!
//! `make.py` in `tests/golden/columns` writes models, rows and answers.

mod common;

use std::fs;
use std::path::Path;

use common::{import_options, named};
use prost::Message as _;
use quadrille_model::import::{ImportOptions, import};
use quadrille_model::{Outputs, Package};
use serde::Deserialize;
use tract_onnx::pb::ModelProto;

/// Of ONNX Runtime's sums in single precision against ours; times the answer where that is above 1.
const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Case {
    name: String,
    onnx: String,
    inputs: Vec<String>,
    rows: Vec<Vec<Option<f64>>>,
    /// A null: there is no answer.
    expected: Vec<Vec<Option<f64>>>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        self.onnx.as_bytes().chunks(2).map(byte).collect()
    }

    fn package(&self, onnx: Vec<u8>, inputs: &[String]) -> Result<Package, String> {
        let width = self.expected.first().map_or(2, Vec::len);
        let options = ImportOptions {
            inputs: inputs.to_vec(),
            ..import_options(inputs.len(), Outputs::Values(named("y", width)))
        };
        import(onnx, options).map_err(|error| error.to_string())
    }

    /// The columns as the file has them, whatever the order of `inputs`.
    fn check(&self, package: &Package, inputs: &[String]) {
        let place = |name: &String| self.inputs.iter().position(|it| it == name).unwrap();
        let rows: Vec<f64> = (self.rows.iter())
            .flat_map(|row| inputs.iter().map(|it| row[place(it)].unwrap_or(f64::NAN)))
            .collect();
        let (mut together, mut alone) = (vec![], vec![]);
        package.model().score(&rows, &mut together);
        for row in rows.chunks(inputs.len()) {
            package.model().score(row, &mut alone);
        }
        let bits = |answers: &[f64]| answers.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&together), bits(&alone), "{}", self.name);
        let expected: Vec<Option<f64>> = self.expected.concat();
        assert_eq!(together.len(), expected.len(), "{}", self.name);
        let width = self.expected[0].len();
        for (at, (found, expected)) in together.iter().zip(expected).enumerate() {
            let place = format!(
                "{}, row {} ({:?})",
                self.name,
                at / width,
                self.rows[at / width]
            );
            match expected {
                None => assert!(found.is_nan(), "{place}: {found} where there is no answer"),
                Some(expected) => {
                    let off = (found - expected).abs();
                    let allowed = TOLERANCE * expected.abs().max(1.0);
                    assert!(off <= allowed, "{place}: {found} is not {expected}");
                }
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/columns/columns.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn case(name: &str) -> Case {
    let mut cases = cases().into_iter();
    cases.find(|it| it.name == name).unwrap()
}

#[test]
fn every_model_of_a_data_frame_answers_as_in_onnx_runtime_or_not_at_all() {
    let mut count = 0;
    for case in cases().iter().filter(|it| !it.rows.is_empty()) {
        let package = case.package(case.bytes(), &case.inputs);
        let package = package.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        case.check(&package, &case.inputs);
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn columns_are_found_by_name_in_any_order_of_the_inputs() {
    for name in ["linear", "forest"] {
        let case = case(name);
        let mut inputs = case.inputs.clone();
        for _ in 0..inputs.len() {
            inputs.rotate_left(1);
            case.check(&case.package(case.bytes(), &inputs).unwrap(), &inputs);
        }
        // As the exporter writes them they are found, too.
        let written = [
            "Amount__EUR_",
            "distance_km",
            "is_online",
            "_3DS_",
            "prior_declines",
        ];
        case.package(case.bytes(), &written.map(str::to_owned))
            .unwrap();
    }
}

#[test]
fn a_tensor_without_an_input_and_an_input_without_a_tensor_are_named() {
    let case = case("linear");
    let mut inputs = case.inputs.clone();
    let at = inputs.iter().position(|it| it == "distance km").unwrap();
    inputs[at] = "distance".to_owned();
    let error = case.package(case.bytes(), &inputs).unwrap_err();
    for expected in [
        "no input of the model is called as its tensor \"distance_km\"",
        "it has no tensor for \"distance\"",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    inputs.push("more".to_owned());
    inputs[at] = "distance km".to_owned();
    let error = case.package(case.bytes(), &inputs).unwrap_err();
    assert!(error.contains("it has no tensor for \"more\""), "{error}");
    // Two that the exporter writes alike cannot be told apart.
    inputs[at] = "distance-km".to_owned();
    inputs[5] = "distance km".to_owned();
    let error = case.package(case.bytes(), &inputs).unwrap_err();
    assert!(
        error.contains("\"distance-km\" and \"distance km\" alike"),
        "{error}"
    );
}

#[test]
fn a_tensor_that_is_there_twice_or_has_several_columns_is_refused() {
    let case = case("linear");
    let changed = |change: fn(&mut ModelProto)| {
        let mut model = ModelProto::decode(&*case.bytes()).unwrap();
        change(&mut model);
        case.package(model.encode_to_vec(), &case.inputs)
            .unwrap_err()
    };
    let twice = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        let first = graph.input[0].clone();
        graph.input.push(first);
    });
    assert!(
        twice.contains("has the input \"Amount__EUR_\" twice"),
        "{twice}"
    );
    let wide = changed(|model| {
        use tract_onnx::pb::{tensor_shape_proto::dimension, type_proto::Value};
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let Some(Value::TensorType(tensor)) = input.r#type.as_mut().unwrap().value.as_mut() else {
            panic!("a tensor")
        };
        tensor.shape.as_mut().unwrap().dim[1].value = Some(dimension::Value::DimValue(3));
    });
    assert!(
        wide.contains("\"Amount__EUR_\" is not one column"),
        "{wide}"
    );
}

#[test]
fn texts_are_refused_with_what_to_do_instead() {
    let case = case("texts");
    let error = case.package(case.bytes(), &case.inputs).unwrap_err();
    assert!(
        error.contains("reads texts in its input \"category\"") && error.contains("one_hot"),
        "{error}"
    );
}

#[test]
fn trees_say_what_each_column_had_to_do_with_an_answer() {
    for name in ["forest", "boosted, columns dropped"] {
        let case = case(name);
        let rows: Vec<f64> = (case.rows.iter().take(8).flatten())
            .map(|it| it.unwrap_or(f64::NAN))
            .collect();
        let options = ImportOptions {
            inputs: case.inputs.clone(),
            recorded: rows.clone(),
            ..import_options(5, Outputs::Values(named("y", 2)))
        };
        let model = import(case.bytes(), options).unwrap().model();
        let row = &rows[..5];
        let found = model.contributions(row).unwrap();
        let last = found.outputs.last().unwrap();
        let mut outputs = vec![];
        model.score(row, &mut outputs);
        let said = match found.of {
            quadrille_model::Quantity::LogOdds => 1.0 / (1.0 + (-last.total()).exp()),
            _ => last.total(),
        };
        assert!(
            (said - outputs[1]).abs() < 1e-6,
            "{name}: {said} {outputs:?}"
        );
        let of = |name: &str| last.inputs[case.inputs.iter().position(|it| it == name).unwrap()];
        assert!(of("Amount (EUR)").abs() > 0.0, "{name}");
        if name.contains("dropped") {
            assert_eq!(of("is_online"), 0.0);
        }
    }
}
