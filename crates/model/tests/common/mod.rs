//! Data and packages that several tests need.

#![allow(
    dead_code,
    reason = "each test crate compiles this file and uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use quadrille_model::import::ImportOptions;
use quadrille_model::package::{Activation, Digest, Identity, Labels};
use quadrille_model::train::{Algorithm, Dataset, TrainOptions, train};
use quadrille_model::{Outputs, Package};

/// The Pima diabetes data: 768 rows, 8 inputs, 268 positive. A zero in these columns means that it was not measured.
pub fn pima() -> Dataset {
    const ZERO_IS_MISSING: [&str; 5] = ["glucose", "pressure", "triceps", "insulin", "mass"];
    let text = fs::read_to_string(repository().join("data/pima.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let mut inputs: Vec<String> = lines
        .next()
        .unwrap()
        .into_iter()
        .map(str::to_owned)
        .collect();
    inputs.pop();
    let (mut rows, mut labels) = (vec![], vec![]);
    for line in lines {
        let (label, values) = line.split_last().unwrap();
        for (input, value) in inputs.iter().zip(values) {
            let value: f64 = value.parse().unwrap();
            let missing = value == 0.0 && ZERO_IS_MISSING.contains(&input.as_str());
            rows.push(if missing { f64::NAN } else { value });
        }
        labels.push(f64::from(u8::from(*label == "pos")));
    }
    Dataset {
        inputs,
        rows,
        labels,
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Sixty rows of three inputs, made by arithmetic alone, with holes and noise.
pub fn tiny() -> Dataset {
    let (mut rows, mut labels) = (vec![], vec![]);
    for i in 0..60u32 {
        let [a, b, c] = [37, 53, 71].map(|step| f64::from((i * i + step * i) % 101) / 10.0);
        let b = if i % 7 == 3 { f64::NAN } else { b };
        rows.extend([a, b, c]);
        let score = a - 0.5 * c + f64::from(i % 5);
        labels.push(f64::from(u8::from(score > 4.5)));
    }
    Dataset {
        inputs: ["a", "b", "c"].map(str::to_owned).to_vec(),
        rows,
        labels,
    }
}

pub fn identity(name: &str) -> Identity {
    Identity {
        name: name.to_owned(),
        version: "1".to_owned(),
        labels: Labels {
            negative: "neg".to_owned(),
            positive: "pos".to_owned(),
        },
        data_sha256: Digest::of(b"tiny"),
        created_at: "2026-01-31T12:00:00Z".to_owned(),
    }
}

/// A small package trained on [`tiny`].
pub fn tiny_package(algorithm: Algorithm) -> Package {
    let options = TrainOptions {
        folds: 3,
        trees: 5,
        depth_max: 3,
        seed: 42,
        ..TrainOptions::new(algorithm)
    };
    let trained = train(&tiny(), &options, &mut |_| ()).unwrap();
    trained.into_package(identity(algorithm.name())).unwrap()
}

pub fn score(package: &Package, rows: &[f64]) -> Vec<f64> {
    let mut probabilities = vec![];
    package.model().score(rows, &mut probabilities);
    probabilities
}

/// `x0`, `x1`, …
pub fn named(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{what}{at}")).collect()
}

/// For a model file of inputs `x0`, `x1`, …, as it comes.
pub fn import_options(inputs: usize, outputs: Outputs) -> ImportOptions {
    ImportOptions {
        name: "imported".to_owned(),
        version: "1".to_owned(),
        inputs: named("x", inputs),
        outputs,
        output: None,
        activation: Activation::None,
        preprocess: None,
        warm_up: None,
        recorded: vec![],
        created_at: "2026-01-31T12:00:00Z".to_owned(),
    }
}
