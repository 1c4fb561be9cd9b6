//! Shipped packages must give the shipped answers, and training must give the shipped packages' answers.
//!
//! `tests/golden/<algorithm>/` is a package trained by `common::tiny_package`; `expected.json` beside its files holds rows
//! (null is missing) and probabilities. They are written anew, after a change that is meant, by
//! `WRITE_GOLDEN=1 cargo test -p quadrille-model --test golden -- --test-threads 1`.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{score, tiny, tiny_package};
use quadrille_model::Package;
use quadrille_model::package::Overwrite;
use quadrille_model::train::Algorithm;
use serde::{Deserialize, Serialize};

const TOLERANCE: f64 = 1e-9;

/// An optimiser stops near its goal, and where exactly depends on the platform's `exp` and `ln`.
const TOLERANCE_OF_OPTIMISER: f64 = 1e-6;

const BOTH: [Algorithm; 2] = [Algorithm::RandomForest, Algorithm::LogisticRegression];

#[derive(Serialize, Deserialize)]
struct Expected {
    rows: Vec<[Option<f64>; 3]>,
    probabilities: Vec<f64>,
}

impl Expected {
    fn read(algorithm: Algorithm) -> Self {
        let text = fs::read_to_string(folder().join(format!("{algorithm}.expected.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn flat(&self) -> Vec<f64> {
        self.rows
            .iter()
            .flatten()
            .map(|value| value.unwrap_or(f64::NAN))
            .collect()
    }

    fn assert_given_by(&self, package: &Package, tolerance: f64) {
        let found = score(package, &self.flat());
        assert_eq!(found.len(), self.probabilities.len());
        for (row, (found, expected)) in found.iter().zip(&self.probabilities).enumerate() {
            let off = (found - expected).abs();
            assert!(off <= tolerance, "row {row}: {found} is not {expected}");
        }
    }
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden"]
        .iter()
        .collect()
}

#[test]
fn a_shipped_package_gives_the_shipped_answers() {
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        write_the_golden_files();
    }
    for algorithm in BOTH {
        let package = Package::load(&folder().join(algorithm.name())).unwrap();
        Expected::read(algorithm).assert_given_by(&package, TOLERANCE);
    }
}

#[test]
fn training_with_the_shipped_seed_gives_the_shipped_answers() {
    for algorithm in BOTH {
        let tolerance = match algorithm {
            Algorithm::RandomForest => TOLERANCE,
            Algorithm::LogisticRegression => TOLERANCE_OF_OPTIMISER,
        };
        Expected::read(algorithm).assert_given_by(&tiny_package(algorithm), tolerance);
    }
}

/// Run with `WRITE_GOLDEN=1` after a change of the answers that is meant.
fn write_the_golden_files() {
    // The rows of training, and some beyond: between, outside, and with holes.
    let mut rows = tiny().rows;
    rows.extend([
        0.05,
        0.05,
        0.05,
        99.0,
        -99.0,
        5.5,
        f64::NAN,
        f64::NAN,
        f64::NAN,
        5.0,
        5.0,
        f64::NAN,
    ]);
    for algorithm in BOTH {
        let package = tiny_package(algorithm);
        package
            .save(&folder().join(algorithm.name()), Overwrite::Replace)
            .unwrap();
        let expected = Expected {
            rows: rows
                .chunks_exact(3)
                .map(|row| [row[0], row[1], row[2]].map(|value| (!value.is_nan()).then_some(value)))
                .collect(),
            probabilities: score(&package, &rows),
        };
        let text = serde_json::to_string(&expected).unwrap() + "\n";
        fs::write(folder().join(format!("{algorithm}.expected.json")), text).unwrap();
    }
}
