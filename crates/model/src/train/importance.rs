//! Permutation importance: how much worse rows are told apart once a feature's values are permuted among them.
//!
//! It is measured on held-out rows, by the model of each fold that did not see them: of a feature that a model knows by heart but
//! that tells nothing of other rows little is lost. Features that say the same share what they are worth: each alone can be spared.

use serde::Serialize;

use super::{Algorithm, Dataset, Group, Measure, TrainOptions, folds};
use crate::metrics;

/// Walks through a tree that all of it may take, about: some seconds of one core. Where rows are many, some are drawn.
const WALKS_MAX: usize = 400_000_000;

/// Inputs that cost as much as a walk: each is prepared and, in a linear model, multiplied; a walk compares about as often.
const INPUTS_PER_WALK: usize = 8;

/// Rows of a fold that are taken although they cost more than that: fewer say little.
const ROWS_MIN: usize = 200;

/// What those may cost at most: models of thousands of inputs would take hours.
const WALKS_LIMIT: usize = 10 * WALKS_MAX;

/// Fewer rows of a fold are not worth their time: nothing is measured then.
const ROWS_FEWEST: usize = 20;

/// Keeps these random numbers apart from those of folds and rows.
const IMPORTANCE: u64 = 0x69_6d_70 << 32;
const SAMPLE: u64 = 0x73_61_6d << 32;

/// How much ROC-AUC is lost without a feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importance {
    pub feature: String,
    /// How many inputs of the model it is.
    pub inputs: usize,
    /// Mean loss of ROC-AUC over the repeats, -1 to 1; below 0 by chance, if nothing is lost.
    pub mean: f64,
    /// Standard deviation over the repeats (of all of them, as numpy's `std`).
    pub deviation: f64,
}

/// The importance of each feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importances {
    /// Held-out rows that it was measured on; 0 where it could not be: no fold has rows of both classes, or there are so many
    /// inputs, features and repeats that it would take too long.
    pub rows: usize,
    /// How many of them are of the positive class.
    pub positives: usize,
    pub repeats: usize,
    /// The most important first; none where there are no rows.
    pub features: Vec<Importance>,
}

/// The folds that have been measured so far.
pub(super) struct Measured<'a> {
    measure: &'a Measure,
    seed: u64,
    /// Of each fold; 0 where too few could be afforded.
    rows_max: usize,
    rows: usize,
    positives: usize,
    /// By group and repeat what was lost, each fold weighted by its rows.
    lost: Vec<Vec<f64>>,
}

impl<'a> Measured<'a> {
    /// For a model of `width` inputs.
    pub fn new(measure: &'a Measure, options: &TrainOptions, width: usize) -> Self {
        Measured {
            measure,
            seed: options.seed,
            rows_max: rows_max(measure, options, width),
            rows: 0,
            positives: 0,
            lost: vec![vec![0.0; measure.repeats]; measure.groups.len()],
        }
    }

    /// Measures the model of a fold, `answer`, on rows that it has not seen.
    pub fn fold(&mut self, fold: usize, data: &Dataset, answer: impl Fn(&[f64]) -> Vec<f64>) {
        if self.rows_max == 0 {
            return;
        }
        let data = &self.sample(fold, data);
        let (count, width) = (data.labels.len(), data.inputs.len());
        // Of one class there is nothing to tell apart.
        let Some(whole) = metrics::auc(&answer(&data.rows), &data.labels) else {
            return;
        };
        self.rows += count;
        self.positives += data.labels.iter().filter(|it| **it > 0.5).count();
        let mut rows = data.rows.clone();
        let mut order: Vec<usize> = (0..count).collect();
        let groups = self.measure.groups.iter().zip(&mut self.lost).enumerate();
        for (at, (group, lost)) in groups {
            for (repeat, lost) in lost.iter_mut().enumerate() {
                let stream =
                    (fold * self.measure.groups.len() + at) * self.measure.repeats + repeat;
                folds::random(self.seed, IMPORTANCE ^ stream as u64).shuffle(&mut order);
                for column in &group.columns {
                    for (row, from) in order.iter().enumerate() {
                        rows[row * width + column] = data.rows[from * width + column];
                    }
                }
                let permuted = metrics::auc(&answer(&rows), &data.labels).unwrap_or(whole);
                *lost += (whole - permuted) * count as f64;
            }
            for column in &group.columns {
                for row in 0..count {
                    rows[row * width + column] = data.rows[row * width + column];
                }
            }
        }
    }

    /// At most so many rows, drawn at random of each class by itself. Of the rare class all are kept, up to half of the bound: the
    /// AUC is as sure as the rarer class is many, and how many there are of each does not change it.
    fn sample(&self, fold: usize, data: &Dataset) -> Dataset {
        let mut order: Vec<usize> = (0..data.labels.len()).collect();
        folds::random(self.seed, SAMPLE ^ fold as u64).shuffle(&mut order);
        let is_positive = |row: &usize| data.labels[*row] > 0.5;
        let positives = order.iter().filter(|row| is_positive(row)).count();
        let negatives = order.len() - positives;
        let half = self.rows_max / 2;
        let mut left = match positives < negatives {
            true => {
                let rare = positives.min(half);
                [self.rows_max - rare, rare]
            }
            false => {
                let rare = negatives.min(half);
                [rare, self.rows_max - rare]
            }
        };
        let mut is_drawn = vec![false; order.len()];
        for row in order {
            let left = &mut left[usize::from(is_positive(&row))];
            is_drawn[row] = *left > 0;
            *left = left.saturating_sub(1);
        }
        data.filter(|row| is_drawn[row])
    }

    pub fn end(self) -> Importances {
        if self.rows == 0 {
            return Importances {
                rows: 0,
                positives: 0,
                repeats: self.measure.repeats,
                features: Vec::new(),
            };
        }
        let rows = self.rows as f64;
        let repeats = self.measure.repeats.max(1) as f64;
        let importance = |(group, lost): (&Group, Vec<f64>)| {
            let lost: Vec<f64> = lost.iter().map(|it| it / rows).collect();
            let mean = lost.iter().sum::<f64>() / repeats;
            let squares = lost.iter().map(|it| (it - mean).powi(2));
            Importance {
                feature: group.name.clone(),
                inputs: group.columns.len(),
                mean,
                deviation: (squares.sum::<f64>() / repeats).sqrt(),
            }
        };
        let groups = self.measure.groups.iter().zip(self.lost);
        let mut features: Vec<Importance> = groups.map(importance).collect();
        features.sort_by(|one, other| other.mean.total_cmp(&one.mean));
        Importances {
            rows: self.rows,
            positives: self.positives,
            repeats: self.measure.repeats,
            features,
        }
    }
}

/// Rows of a fold that can be afforded: each is answered once for each fold, feature and repeat.
fn rows_max(measure: &Measure, options: &TrainOptions, width: usize) -> usize {
    let trees = match options.algorithm {
        Algorithm::RandomForest => options.trees,
        Algorithm::LogisticRegression => 0,
    };
    let walks = trees + width.div_ceil(INPUTS_PER_WALK);
    let times = [measure.repeats, measure.groups.len(), options.folds]
        .into_iter()
        .fold(walks, usize::saturating_mul)
        .max(1);
    let rows = (WALKS_MAX / times).max(ROWS_MIN.min(WALKS_LIMIT / times));
    if rows < ROWS_FEWEST { 0 } else { rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(repeats: usize) -> Measure {
        let group = |name: &str, columns: &[usize]| Group {
            name: name.to_owned(),
            columns: columns.to_vec(),
        };
        Measure {
            repeats,
            groups: vec![
                group("noise", &[0]),
                group("truth", &[1]),
                group("pair", &[2, 3]),
            ],
        }
    }

    /// A column of noise, one that is the truth, and two that are it only together.
    fn data() -> Dataset {
        let rows = (0..400_u32).flat_map(|at| {
            let label = f64::from(at % 2);
            let part = f64::from(at / 2 % 2);
            [
                f64::from(at * 37 % 101),
                label,
                part,
                f64::from((at + at / 2) % 2),
            ]
        });
        Dataset {
            inputs: ["noise", "truth", "one", "other"]
                .map(str::to_owned)
                .to_vec(),
            rows: rows.collect(),
            labels: (0..400).map(|at| f64::from(at % 2)).collect(),
        }
    }

    fn measured(answer: impl Fn(&[f64]) -> Vec<f64>, seed: u64) -> Importances {
        let options = TrainOptions {
            seed,
            ..TrainOptions::new(Algorithm::LogisticRegression)
        };
        let measure = measure(10);
        let mut measured = Measured::new(&measure, &options, 4);
        measured.fold(0, &data(), answer);
        measured.end()
    }

    fn by_truth(rows: &[f64]) -> Vec<f64> {
        rows.chunks(4).map(|row| row[1]).collect()
    }

    #[test]
    fn what_a_model_reads_is_lost_by_half_and_what_it_does_not_read_is_not() {
        let found = measured(by_truth, 1);
        assert_eq!((found.rows, found.positives, found.repeats), (400, 200, 10));
        // Dealt anew the truth of a row is as often wrong as right: an AUC of 0.5 is left of 1.
        let [first, others @ ..] = &found.features[..] else {
            panic!("{found:?}")
        };
        assert_eq!(first.feature, "truth");
        assert!((first.mean - 0.5).abs() < 0.03, "{first:?}");
        assert!(first.deviation > 0.0 && first.deviation < 0.05);
        assert!(
            others
                .iter()
                .all(|it| it.mean == 0.0 && it.deviation == 0.0)
        );
    }

    #[test]
    fn inputs_of_one_feature_are_permuted_together() {
        // The truth is whether the two differ: permuting one of them would already lose it all.
        let pair = |rows: &[f64]| -> Vec<f64> {
            let sum = |row: &[f64]| f64::from(u8::from(row[2] != row[3]));
            rows.chunks(4).map(sum).collect()
        };
        let found = measured(pair, 1);
        assert_eq!(found.features[0].feature, "pair");
        assert_eq!(found.features[0].inputs, 2);
        assert!((found.features[0].mean - 0.5).abs() < 0.03);
    }

    #[test]
    fn a_seed_decides_the_chances() {
        assert_eq!(measured(by_truth, 1), measured(by_truth, 1));
        assert_ne!(measured(by_truth, 1), measured(by_truth, 2));
    }

    #[test]
    fn of_many_rows_and_trees_some_rows_are_drawn() {
        let options = TrainOptions {
            trees: 10_000,
            ..TrainOptions::new(Algorithm::RandomForest)
        };
        let measure = measure(100);
        let mut measured = Measured::new(&measure, &options, 4);
        assert_eq!(measured.rows_max, ROWS_MIN);
        measured.fold(0, &data(), by_truth);
        assert_eq!(measured.rows, ROWS_MIN);
        assert_eq!(measured.end().features[0].feature, "truth");
    }
    #[test]
    fn of_the_rare_class_all_rows_are_drawn_up_to_half() {
        let options = TrainOptions {
            trees: 10_000,
            ..TrainOptions::new(Algorithm::RandomForest)
        };
        let measure = measure(100);
        // 0.2 % of 20,000 rows, at one end: 40, of which 200 rows drawn at random would seldom have one.
        for (rare, positives) in [(1.0, 40), (0.0, ROWS_MIN - 40)] {
            let count = 20_000;
            let label = |at: usize| if at < 40 { rare } else { 1.0 - rare };
            let labels: Vec<f64> = (0..count).map(label).collect();
            let data = Dataset {
                inputs: data().inputs,
                rows: labels.iter().flat_map(|it| [0.0, *it, 0.0, 0.0]).collect(),
                labels,
            };
            let mut measured = Measured::new(&measure, &options, 4);
            measured.fold(0, &data, by_truth);
            let found = measured.end();
            assert_eq!((found.rows, found.positives), (ROWS_MIN, positives));
            assert_eq!(found.features[0].feature, "truth");
        }
    }

    #[test]
    fn wide_models_are_measured_on_fewer_rows_and_the_widest_not_at_all() {
        let options = TrainOptions::new(Algorithm::LogisticRegression);
        let rows = |width: usize| {
            let groups = (0..width).map(|column| Group {
                name: column.to_string(),
                columns: vec![column],
            });
            let measure = Measure {
                repeats: 5,
                groups: groups.collect(),
            };
            (
                rows_max(&measure, &options, width),
                width.div_ceil(INPUTS_PER_WALK) * 5 * width * options.folds,
            )
        };
        let (some, times) = rows(8);
        assert_eq!(some, WALKS_MAX / times);
        let (fewer, times) = rows(500);
        assert!(fewer < some && fewer * times <= WALKS_MAX);
        // Beyond the budget, within the limit.
        let (few, times) = rows(2_000);
        assert_eq!(few, ROWS_MIN);
        assert!(few * times > WALKS_MAX && few * times <= WALKS_LIMIT);
        let (fewest, times) = rows(5_000);
        assert!((ROWS_FEWEST..ROWS_MIN).contains(&fewest) && fewest * times <= WALKS_LIMIT);
        assert_eq!(rows(50_000).0, 0);
    }

    #[test]
    fn without_a_fold_of_both_classes_nothing_is_measured() {
        let options = TrainOptions::new(Algorithm::LogisticRegression);
        let measure = measure(10);
        let mut measured = Measured::new(&measure, &options, 4);
        let mut data = data();
        data.labels.fill(0.0);
        measured.fold(0, &data, by_truth);
        let found = measured.end();
        assert_eq!((found.rows, found.features.len()), (0, 0));
    }
}
