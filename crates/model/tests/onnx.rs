//! Imported models give the answers of ONNX Runtime, and nothing that is not a sound ONNX file does more than be refused.
//!
//! `make.py` and `tiny.py` in `tests/golden/onnx` write models, rows and answers.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{import_options, named};
use proptest::prelude::*;
use prost::Message as _;
use quadrille_model::import::{ImportOptions, Renamed, import, renamed};
use quadrille_model::package::{Error, Labels, WarmUp, WarmUpRow};
use quadrille_model::{Cost, Outputs, Package, Quantity};
use serde::Deserialize;
use tract_onnx::pb::{AttributeProto, ModelProto};

/// Of ONNX Runtime's sums in single precision against ours in double; times the answer where that is above 1.
const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Case {
    rows: Vec<Vec<Option<f64>>>,
    expected: Vec<Vec<f64>>,
}

impl Case {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn rows(&self) -> Vec<f64> {
        self.rows
            .iter()
            .flatten()
            .map(|it| it.unwrap_or(f64::NAN))
            .collect()
    }

    fn check(&self, name: &str, package: &Package) {
        let mut found = vec![];
        package.model().score(&self.rows(), &mut found);
        let width = package.model().outputs().width();
        assert_eq!(found.len(), self.rows.len() * width, "{name}");
        for (row, (found, expected)) in found.chunks(width).zip(&self.expected).enumerate() {
            // Of two classes the second is the positive one.
            let expected = &expected[expected.len() - width..];
            for (found, expected) in found.iter().zip(expected) {
                let off = (found - expected).abs();
                let allowed = TOLERANCE * expected.abs().max(1.0);
                assert!(
                    off <= allowed,
                    "{name}, row {row}: {found} is not {expected}"
                );
            }
        }
    }
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", "onnx"]
        .iter()
        .collect()
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.onnx"))).unwrap()
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).collect()
}

fn values(count: usize) -> Outputs {
    Outputs::Values(named("y", count))
}

/// The golden model of this name, whatever it is, as one of values.
fn golden(name: &str) -> (Package, Case) {
    let case = Case::read(name);
    let options = ImportOptions {
        recorded: case.rows(),
        ..import_options(case.rows[0].len(), values(case.expected[0].len()))
    };
    let package = import(bytes(name), options).unwrap_or_else(|error| panic!("{name}: {error}"));
    (package, case)
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".onnx")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_exported_model_answers_as_in_onnx_runtime() {
    let names = names();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        let (package, case) = golden(&name);
        case.check(&name, &package);
    }
}

#[test]
fn every_mode_transform_and_special_case_answers_as_in_onnx_runtime() {
    #[derive(Deserialize)]
    struct Special {
        name: String,
        onnx: String,
        #[serde(flatten)]
        case: Case,
    }
    let text = fs::read_to_string(folder().join("special.json")).unwrap();
    let cases: Vec<Special> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 100);
    for Special { name, onnx, case } in cases {
        let outputs = values(case.expected[0].len());
        let package = import(unhex(&onnx), import_options(2, outputs));
        let package = package.unwrap_or_else(|error| panic!("{name}: {error}"));
        case.check(&name, &package);
    }
}

#[test]
fn integers_imputers_and_casts_answer_as_in_onnx_runtime_or_not_at_all() {
    #[derive(Deserialize)]
    struct Tiny {
        name: String,
        onnx: String,
        rows: Vec<Vec<Option<f64>>>,
        expected: Vec<Vec<Option<f64>>>,
    }
    let text = fs::read_to_string(folder().join("tiny.json")).unwrap();
    let cases: Vec<Tiny> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 20);
    for tiny in cases {
        let name = &tiny.name;
        let outputs = values(tiny.expected[0].len());
        let package = import(unhex(&tiny.onnx), import_options(2, outputs));
        let package = package.unwrap_or_else(|error| panic!("{name}: {error}"));
        let rows = tiny.rows.iter().flatten();
        let rows: Vec<f64> = rows.map(|it| it.unwrap_or(f64::NAN)).collect();
        let (mut together, mut alone) = (vec![], vec![]);
        package.model().score(&rows, &mut together);
        rows.chunks(2)
            .for_each(|row| package.model().score(row, &mut alone));
        for (found, expected) in [together, alone].iter().flat_map(|found| {
            let expected = tiny.expected.iter().flatten();
            found.iter().zip(expected)
        }) {
            match expected {
                None => assert!(found.is_nan(), "{name}: {found} where there is no answer"),
                Some(expected) => {
                    let off = (found - expected).abs();
                    let allowed = TOLERANCE * expected.abs().max(1.0);
                    assert!(off <= allowed, "{name}: {found} is not {expected}");
                }
            }
        }
    }
}

#[test]
fn a_network_that_fills_nothing_has_no_answer_to_a_row_with_a_gap() {
    // To the engine the sigmoid of NaN is 0, and so is the greater of NaN and 0.
    for name in ["logistic-tiny", "mlp-iris", "logistic-iris"] {
        let (package, case) = golden(name);
        let width = case.rows[0].len();
        let mut rows = case.rows();
        rows[1] = f64::NAN;
        let (mut answers, model) = (vec![], package.model());
        model.score(&rows, &mut answers);
        let outputs = model.outputs();
        for (row, answer) in answers.chunks(outputs.width()).enumerate() {
            assert_eq!(
                outputs.check(answer).is_err(),
                row == 0,
                "{name}, row {row}"
            );
        }
        let overflowing = vec![1e300; width];
        answers.clear();
        model.score(&overflowing, &mut answers);
        assert!(outputs.check(&answers).is_err(), "{name}");
    }
}

#[test]
fn the_same_row_has_the_same_answer_in_any_batch() {
    for name in names() {
        let (package, case) = golden(&name);
        let rows = case.rows();
        let width = case.rows[0].len();
        let model = package.model();
        let many = rows.repeat(3);
        let (mut whole, mut alone) = (vec![], vec![]);
        model.score(&many, &mut whole);
        many.chunks(width)
            .for_each(|row| model.score(row, &mut alone));
        // Bit by bit, NaN included: a prediction that is scored again must come out the same.
        let bits = |answers: &[f64]| answers.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&alone), "{name}");
    }
}

#[test]
fn of_two_classes_the_positive_one_is_the_second() {
    let labels = Labels {
        negative: "no".to_owned(),
        positive: "yes".to_owned(),
    };
    for name in [
        "gb-two",
        "xgb-two",
        "lgbm-two",
        "mlp-wine-two",
        "rf-wine-two",
    ] {
        let case = Case::read(name);
        let options = import_options(case.rows[0].len(), Outputs::Binary(labels.clone()));
        case.check(name, &import(bytes(name), options).unwrap());
    }
}

/// The golden model with these classes wherever a node of this operator has some; how many have.
fn with_classes(name: &str, operators: &[&str], classes: &[&str]) -> (Vec<u8>, usize) {
    let mut model = ModelProto::decode(&*bytes(name)).unwrap();
    let mut found = 0;
    for node in &mut model.graph.as_mut().unwrap().node {
        if !operators.contains(&&*node.op_type) {
            continue;
        }
        node.attribute
            .retain(|it| !it.name.starts_with("classlabels_"));
        node.attribute.push(AttributeProto {
            name: "classlabels_strings".to_owned(),
            strings: classes.iter().map(|it| it.as_bytes().to_vec()).collect(),
            r#type: 8,
            ..AttributeProto::default()
        });
        found += 1;
    }
    (model.encode_to_vec(), found)
}

#[test]
fn a_classifier_whose_classes_are_in_another_order_is_refused_with_the_files_order() {
    let binary = |negative: &str, positive: &str| {
        Outputs::Binary(Labels {
            negative: negative.to_owned(),
            positive: positive.to_owned(),
        })
    };
    // The engine of networks takes no linear classifier with texts for classes.
    for (name, operator) in [
        ("rf-wine-two", "TreeEnsembleClassifier"),
        ("lgbm-two", "ZipMap"),
    ] {
        let case = Case::read(name);
        let width = case.rows[0].len();
        let (onnx, found) = with_classes(name, &[operator], &["abnormal", "normal"]);
        assert_eq!(found, 1, "{name} {operator}");
        let import = |outputs| import(onnx.clone(), import_options(width, outputs));
        // As a pipeline has them, and sorted by name as an exporter has them.
        let refused = import(binary("normal", "abnormal")).unwrap_err();
        assert!(
            matches!(&refused, Error::PositiveClass { file, .. } if *file == ["abnormal", "normal"]),
            "{name} {operator}: {refused}"
        );
        let said = refused.to_string();
        assert!(said.contains("the classes abnormal, normal,"), "{said}");
        // Other names would make it worse: the probability of "normal" would be held against the threshold.
        assert!(!said.contains("name the outputs"), "{said}");
        let fix = "train the model with 0 for \"normal\" and 1 for \"abnormal\"";
        assert!(said.contains(fix), "{said}");
        let classes = Outputs::Classes(vec!["normal".to_owned(), "abnormal".to_owned()]);
        let refused = import(classes).unwrap_err();
        assert!(matches!(refused, Error::ClassOrder { .. }), "{refused}");

        let same = import(binary("abnormal", "normal")).unwrap();
        assert_eq!(renamed(&same).unwrap(), []);
        let other = import(binary("fine", "alarm")).unwrap();
        case.check(name, &other);
        let pair = |column, file: &str, named: &str| Renamed {
            column,
            file: file.to_owned(),
            named: named.to_owned(),
        };
        assert_eq!(
            renamed(&other).unwrap(),
            [pair(0, "abnormal", "fine"), pair(1, "normal", "alarm")]
        );
    }
}

#[test]
fn a_map_says_what_columns_are_called_before_the_classifier_does() {
    let case = Case::read("lgbm-two");
    let (onnx, found) = with_classes("lgbm-two", &["ZipMap"], &["b", "a"]);
    assert_eq!(found, 1);
    let classes = Outputs::Classes(vec!["b".to_owned(), "a".to_owned()]);
    let package = import(onnx, import_options(case.rows[0].len(), classes)).unwrap();
    assert_eq!(renamed(&package).unwrap(), []);
}

#[test]
fn numbers_for_classes_are_positions() {
    let named = |names: [&str; 3]| {
        let outputs = Outputs::Classes(names.map(str::to_owned).to_vec());
        import(bytes("rf-iris"), import_options(4, outputs))
    };
    for names in [
        ["setosa", "versicolor", "virginica"],
        ["0", "1", "2"],
        ["1", "2", "3"],
    ] {
        let package = named(names).unwrap();
        assert_eq!(renamed(&package).unwrap(), [], "{names:?}");
    }
    let refused = named(["2", "1", "0"]).unwrap_err();
    assert!(matches!(refused, Error::ClassOrder { .. }), "{refused}");
}

#[test]
fn a_graph_that_does_not_fit_its_description_is_refused_with_the_numbers() {
    let complaint = |options| import(bytes("rf-iris"), options).unwrap_err().to_string();
    let narrow = complaint(import_options(3, values(3)));
    assert!(
        narrow.contains("rows of 4 columns where 3 inputs"),
        "{narrow}"
    );
    let wide = complaint(import_options(4, values(5)));
    assert!(
        wide.contains("answers 3 values to a row where its outputs want 5"),
        "{wide}"
    );
    let label = ImportOptions {
        output: Some("output_label".to_owned()),
        ..import_options(4, values(3))
    };
    let label = complaint(label);
    assert!(label.contains("is the label, not the scores"), "{label}");
    let absent = ImportOptions {
        output: Some("nowhere".to_owned()),
        ..import_options(4, values(3))
    };
    let absent = complaint(absent);
    assert!(
        absent.contains("no output \"nowhere\"; it has output_label, output_probability"),
        "{absent}"
    );
}

#[test]
fn recorded_rows_are_checked_and_the_first_that_is_off_is_named() {
    let case = Case::read("xgb-three");
    let row = |at: usize| WarmUpRow {
        inputs: case.rows[at].clone(),
        outputs: case.expected[at].clone(),
    };
    let mut warm_up = WarmUp {
        tolerance: 1e-6,
        rows: (0..8).map(row).collect(),
    };
    let with = |warm_up: &WarmUp| {
        let options = ImportOptions {
            warm_up: Some(warm_up.clone()),
            ..import_options(13, values(3))
        };
        import(bytes("xgb-three"), options)
    };
    with(&warm_up).unwrap().warm_up().unwrap();
    warm_up.rows[5].outputs[1] += 1e-3;
    let error = with(&warm_up).unwrap_err();
    assert!(
        matches!(&error, Error::WarmUp(off) if off.row == 6 && off.output == "y1"),
        "{error}"
    );
    warm_up.rows[5].outputs.pop();
    assert!(
        with(&warm_up)
            .unwrap_err()
            .to_string()
            .contains("row 6 has 13 inputs and 2 outputs")
    );
}

#[test]
fn without_answers_from_outside_the_package_records_its_own() {
    let case = Case::read("mlp-iris");
    let options = ImportOptions {
        recorded: case.rows(),
        ..import_options(4, values(3))
    };
    let package = import(bytes("mlp-iris"), options).unwrap();
    let warm_up = package.manifest().warm_up.as_ref().unwrap();
    assert_eq!(warm_up.rows.len(), 32);
    let again = Package::from_bytes(
        package.manifest_bytes().to_vec(),
        package.artefact_bytes().to_vec(),
    );
    assert_eq!(again.unwrap().hash(), package.hash());
}

#[test]
fn contributions_of_trees_sum_to_what_they_say() {
    for name in names() {
        let case = Case::read(&name);
        let options = ImportOptions {
            recorded: case.rows(),
            ..import_options(case.rows[0].len(), values(case.expected[0].len()))
        };
        let package = import(bytes(&name), options).unwrap();
        let model = package.model();
        for row in case.rows().chunks(case.rows[0].len()).take(6) {
            let Some(found) = model.contributions(row) else {
                assert!(
                    name.contains("mlp") || name.contains("logistic") || name.contains("linear"),
                    "{name}"
                );
                continue;
            };
            let mut outputs = vec![];
            model.score(row, &mut outputs);
            for attribution in &found.outputs {
                let at = model
                    .outputs()
                    .names()
                    .iter()
                    .position(|it| *it == attribution.output);
                let output = outputs[at.unwrap()];
                let total = attribution.total();
                let said = match found.of {
                    Quantity::Output => total,
                    Quantity::LogOdds => 1.0 / (1.0 + (-total).exp()),
                    Quantity::Score => continue,
                };
                assert!(
                    (said - output).abs() < 1e-9 * output.abs().max(1.0),
                    "{name}: {said} is not {output}"
                );
            }
        }
    }
}

#[test]
fn small_models_are_cheap() {
    for name in names() {
        assert_eq!(golden(&name).0.model().cost(), Cost::Cheap, "{name}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_unless_all_that_matters_is_there() {
    for name in ["tree-iris", "logistic-wine-two", "mlp-iris"] {
        let bytes = bytes(name);
        let case = Case::read(name);
        for length in (0..bytes.len()).step_by(bytes.len() / 150 + 1) {
            let outputs = values(case.expected[0].len());
            let cut = bytes[..length].to_vec();
            // A message may end after any of its fields; the last ones here are versions of operator sets.
            if let Ok(package) = import(cut, import_options(case.rows[0].len(), outputs)) {
                assert!(length + 24 > bytes.len(), "{name} cut to {length}");
                case.check(name, &package);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_bytes_are_refused_or_still_answer(
        name in prop::sample::select(vec!["tree-iris", "pipeline-wine", "mlp-wine-two", "logistic-iris", "lgbm-two"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes(name);
        let case = Case::read(name);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let outputs = values(case.expected[0].len());
        if let Ok(package) = import(bytes, import_options(case.rows[0].len(), outputs)) {
            let mut answers = vec![];
            package.model().score(&case.rows(), &mut answers);
            prop_assert_eq!(answers.len(), case.rows.len() * case.expected[0].len());
        }
    }
}
