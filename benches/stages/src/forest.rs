//! The model that is scored: a random forest on the bundled data, grown as deep as it is allowed to.

use anyhow::Context;
use quadrille_model::{
    Package,
    package::{Digest, Identity, Labels},
    train::{Algorithm, Dataset, TrainOptions, train},
};
use quadrille_pipeline::{Decision, Pipeline};

use crate::workload::PIMA;

pub const NAME: &str = "bench-forest";
pub const TREES: usize = 100;
pub const DEPTH: u16 = 8;

/// Trains for speed's sake, not for accuracy's: single-row leaves, so that trees reach their depth.
pub fn train_forest(pipeline: &Pipeline, version: &str) -> anyhow::Result<Package> {
    let training = pipeline.read_training(PIMA.as_bytes())?;
    let data = Dataset {
        inputs: training.inputs,
        rows: training.rows,
        labels: training.labels,
    };
    let mut options = TrainOptions::new(Algorithm::RandomForest);
    options.trees = TREES;
    options.depth_max = DEPTH;
    options.min_leaf = 1;
    options.folds = 2;
    let trained = train(&data, &options, &mut |_| {})?;
    let Decision::Threshold(decision) = pipeline.decision() else {
        anyhow::bail!("the benchmark's pipeline decides by a threshold");
    };
    let identity = Identity {
        name: NAME.to_owned(),
        version: version.to_owned(),
        labels: Labels {
            negative: decision.negative.clone(),
            positive: decision.positive.clone(),
        },
        data_sha256: Digest::of(PIMA.as_bytes()),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    trained
        .into_package(identity)
        .context("the forest's package")
}
