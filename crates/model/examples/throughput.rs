//! Measures rows/s of a forest of 100 trees, depth 8, 8 inputs, on one thread, at several batch sizes:
//! `cargo run --release -p quadrille-model --example throughput`.
//!
//! Trained on rows enough to fill the trees, so that it is no easier than what people deploy.

use std::time::{Duration, Instant};

use quadrille_model::package::{Digest, Identity, Labels};
use quadrille_model::train::{Algorithm, Dataset, TrainOptions, train};

const WIDTH: usize = 8;
const ROWS: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = dataset();
    for algorithm in [Algorithm::RandomForest, Algorithm::LogisticRegression] {
        let options = TrainOptions {
            folds: 2,
            ..TrainOptions::new(algorithm)
        };
        let begun = Instant::now();
        let trained = train(&data, &options, &mut |_| ())?;
        let auc = trained.evaluation.metrics.auc;
        println!(
            "{algorithm}: trained three times in {:.1?}, AUC {auc:.3}",
            begun.elapsed()
        );
        let package = trained.into_package(Identity {
            name: "throughput".to_owned(),
            version: "1".to_owned(),
            labels: Labels {
                negative: "no".to_owned(),
                positive: "yes".to_owned(),
            },
            data_sha256: Digest::of(b"made up"),
            created_at: "2026-01-31T12:00:00Z".to_owned(),
        })?;
        println!("  artefact of {} bytes", package.artefact_bytes().len());
        let model = package.model();
        let mut probabilities = vec![];
        for batch in [1, 64, 1_024] {
            let begun = Instant::now();
            let mut scored = 0;
            while begun.elapsed() < Duration::from_secs(2) {
                for rows in data.rows.chunks(batch * WIDTH) {
                    probabilities.clear();
                    model.score(rows, &mut probabilities);
                    scored += probabilities.len();
                }
            }
            let rate = scored as f64 / begun.elapsed().as_secs_f64();
            println!("  batch {batch:>5}: {rate:>10.0} rows/s");
        }
    }
    Ok(())
}

/// Rows of a linear congruential generator; the label depends on three inputs, with noise.
fn dataset() -> Dataset {
    let mut state = 1u64;
    let mut chance = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let (mut rows, mut labels) = (vec![], vec![]);
    for _ in 0..ROWS {
        let row: [f64; WIDTH] = std::array::from_fn(|_| chance());
        let score = row[0] + row[1] * row[2] + 0.5 * chance();
        labels.push(f64::from(u8::from(score > 1.0)));
        rows.extend(row);
    }
    Dataset {
        inputs: (0..WIDTH).map(|i| format!("input{i}")).collect(),
        rows,
        labels,
    }
}
