//! The shipped examples: each package fits its pipeline, answers as recorded, and is as good as its README says.

use std::fs::File;
use std::path::{Path, PathBuf};

use quadrille_model::package::Labels;
use quadrille_model::{Cost, Outputs, Package};
use quadrille_pipeline::{Decision, Pipeline};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn example(name: &str) -> (Pipeline, Package) {
    let folder = repository().join("examples").join(name);
    let pipeline = Pipeline::load(&folder.join("pipeline.toml"))
        .unwrap()
        .remove(0);
    let package = Package::load(&folder.join("package")).unwrap();
    assert_eq!((pipeline.name(), &*package.manifest().name), (name, name));
    (pipeline, package)
}

fn outputs(decision: &Decision) -> Outputs {
    match decision {
        Decision::Threshold(it) => Outputs::Binary(Labels {
            negative: it.negative.clone(),
            positive: it.positive.clone(),
        }),
        Decision::Argmax(it) => Outputs::Classes(it.classes.clone()),
        Decision::Value(it) => Outputs::Values(it.values.clone()),
    }
}

/// How many of the rows that the model never saw (every fifth) get the right decision, of how many.
fn held_out(name: &str, data: &str) -> (usize, usize) {
    let (pipeline, package) = example(name);
    let training = pipeline
        .read_training(File::open(repository().join("data").join(data)).unwrap())
        .unwrap();
    assert!(training.skipped.is_empty());
    let model = package.model();
    let mut answers = vec![];
    model.score(&training.rows, &mut answers);
    let classes = match pipeline.decision() {
        Decision::Threshold(it) => vec![it.negative.clone(), it.positive.clone()],
        other => other.outputs(),
    };
    let answers = answers.chunks(model.outputs().width());
    let unseen = answers.zip(&training.labels).skip(4).step_by(5);
    let right =
        |(answer, label): &(&[f64], &f64)| pipeline.decide(answer) == classes[**label as usize];
    (unseen.clone().filter(right).count(), unseen.count())
}

#[test]
fn every_example_fits_its_pipeline_and_answers_as_onnx_runtime_did() {
    for name in ["iris", "digits", "diabetes-net"] {
        let (pipeline, package) = example(name);
        package.check_inputs(pipeline.inputs()).unwrap();
        package
            .check_outputs(&outputs(pipeline.decision()))
            .unwrap();
        let recorded = package.manifest().warm_up.as_ref().unwrap();
        assert!(recorded.rows.len() >= 30, "{name}");
        package.warm_up().unwrap();
    }
}

#[test]
fn the_forest_tells_irises_apart() {
    assert_eq!(held_out("iris", "iris.csv"), (27, 30));
}

#[test]
fn the_convolutional_network_reads_digits() {
    let (right, rows) = held_out("digits", "digits.csv");
    assert!(right >= 350 && rows == 359, "{right} of {rows}");
}

#[test]
fn the_small_network_tells_diabetes_from_health() {
    let (right, rows) = held_out("diabetes-net", "pima.csv");
    assert!(right >= 109 && rows == 153, "{right} of {rows}");
}

#[test]
fn the_network_on_images_is_dear_and_the_others_are_cheap() {
    let cost = |name| example(name).1.model().cost();
    assert_eq!(cost("digits"), Cost::Expensive);
    assert_eq!(cost("iris"), Cost::Cheap);
    assert_eq!(cost("diabetes-net"), Cost::Cheap);
}
