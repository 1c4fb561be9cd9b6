//! Training on real data: is what comes out good, honest, repeatable, and quick enough?

mod common;

use std::time::{Duration, Instant};

use common::{identity, pima, score};
use quadrille_model::Package;
use quadrille_model::forest::Forest;
use quadrille_model::metrics;
use quadrille_model::package::Overwrite;
use quadrille_model::train::{Algorithm, Error, Progress, Step, TrainOptions, Trained, train};

fn trained(algorithm: Algorithm, seed: u64) -> Trained {
    let options = TrainOptions {
        seed,
        ..TrainOptions::new(algorithm)
    };
    train(&pima(), &options, &mut |_| ()).unwrap()
}

fn assert_good(algorithm: Algorithm) {
    let begun = Instant::now();
    let trained = trained(algorithm, TrainOptions::new(algorithm).seed);
    let took = begun.elapsed();
    println!("{algorithm}: {took:?}\n{}\n", trained.evaluation);
    let metrics = &trained.evaluation.metrics;
    assert_eq!((metrics.rows, metrics.positives), (768, 268));
    assert!(metrics.auc >= 0.82, "AUC {}", metrics.auc);
    assert!(metrics.accuracy >= 0.74, "accuracy {}", metrics.accuracy);
    assert!(metrics.brier <= 0.17, "Brier {}", metrics.brier);
    assert!(
        metrics.calibration_error <= 0.06,
        "calibration {}",
        metrics.calibration_error
    );
    assert!(took < Duration::from_secs(15), "training took {took:?}");
}

#[test]
fn a_random_forest_reaches_an_auc_of_82_percent_on_pima() {
    assert_good(Algorithm::RandomForest);
}

#[test]
fn logistic_regression_reaches_an_auc_of_82_percent_on_pima() {
    assert_good(Algorithm::LogisticRegression);
}

#[test]
fn the_target_does_not_hang_on_a_lucky_seed() {
    for algorithm in [Algorithm::RandomForest, Algorithm::LogisticRegression] {
        let aucs = [11, 12, 13, 14].map(|seed| trained(algorithm, seed).evaluation.metrics.auc);
        println!("{algorithm}: {aucs:.4?}");
        assert!(
            aucs.iter().all(|&auc| auc >= 0.815),
            "{algorithm}: {aucs:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_package_to_the_byte() {
    for algorithm in [Algorithm::RandomForest, Algorithm::LogisticRegression] {
        let pack = |seed| {
            trained(algorithm, seed)
                .into_package(identity("pima"))
                .unwrap()
        };
        assert_eq!(pack(3).hash(), pack(3).hash());
        assert_ne!(pack(3).hash(), pack(4).hash());
    }
}

#[test]
fn cross_validation_is_humbler_than_judging_on_the_training_rows() {
    let data = pima();
    let trained = trained(Algorithm::RandomForest, 1);
    let cross_validated = trained.evaluation.metrics.auc;
    let package = trained.into_package(identity("pima")).unwrap();
    let seen = metrics::auc(&score(&package, &data.rows), &data.labels).unwrap();
    assert!(
        seen > cross_validated + 0.03,
        "{seen} on seen rows, {cross_validated} on unseen"
    );
}

#[test]
fn labels_dealt_at_random_cannot_be_learned() {
    let mut data = pima();
    // Multiplying by a number prime to 768 shuffles the labels away from their rows.
    data.labels = (0..768).map(|row| data.labels[row * 331 % 768]).collect();
    for algorithm in [Algorithm::RandomForest, Algorithm::LogisticRegression] {
        let trained = train(&data, &TrainOptions::new(algorithm), &mut |_| ()).unwrap();
        let auc = trained.evaluation.metrics.auc;
        assert!((0.4..0.6).contains(&auc), "{algorithm}: AUC {auc}");
    }
}

#[test]
fn a_hundred_trees_load_within_50_ms_and_score_as_before() {
    let data = pima();
    let package = trained(Algorithm::RandomForest, 1)
        .into_package(identity("pima"))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("pima");
    package.save(&place, Overwrite::Refuse).unwrap();
    let begun = Instant::now();
    let loaded = Package::load(&place).unwrap();
    let took = begun.elapsed();
    let forest = Forest::decode(loaded.artefact_bytes()).unwrap();
    println!(
        "{} trees, {} nodes, {} bytes: loaded in {took:?}",
        forest.trees(),
        forest.nodes(),
        loaded.artefact_bytes().len()
    );
    assert!(took < Duration::from_millis(50), "loading took {took:?}");
    assert_eq!(score(&loaded, &data.rows), score(&package, &data.rows));
}

#[test]
fn rows_of_nothing_but_holes_get_a_middling_probability() {
    for algorithm in [Algorithm::RandomForest, Algorithm::LogisticRegression] {
        let package = trained(algorithm, 1)
            .into_package(identity("pima"))
            .unwrap();
        let probability = score(&package, &[f64::NAN; 8])[0];
        assert!(
            (0.1..0.6).contains(&probability),
            "{algorithm}: {probability}"
        );
    }
}

#[test]
fn progress_counts_every_fold_and_the_last_fit() {
    let mut seen = vec![];
    let options = TrainOptions {
        folds: 3,
        ..TrainOptions::new(Algorithm::LogisticRegression)
    };
    train(&pima(), &options, &mut |progress| seen.push(progress)).unwrap();
    let steps = [Step::Fold(1), Step::Fold(2), Step::Fold(3), Step::AllRows];
    let expected: Vec<Progress> = (1..)
        .zip(steps)
        .map(|(done, step)| Progress {
            done,
            total: 4,
            step,
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_column_that_a_fold_never_sees_is_named() {
    let mut data = pima();
    for row in 0..768 {
        data.rows[row * 8 + 4] = if row == 0 { 94.0 } else { f64::NAN };
    }
    let error = train(
        &data,
        &TrainOptions::new(Algorithm::RandomForest),
        &mut |_| (),
    );
    assert!(matches!(error, Err(Error::AllMissingInFold { input }) if input == "insulin"));
}
