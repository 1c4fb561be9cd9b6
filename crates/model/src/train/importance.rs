//! Permutation importance: how much worse rows are told apart once a feature's values are permuted among them.
//!
//! It is measured on held-out rows, by the model of each fold that did not see them: of a feature that a model knows by heart but
//! that tells nothing of other rows little is lost. Features that say the same share what they are worth: each alone can be spared.

use serde::Serialize;

use super::{Algorithm, Dataset, TrainOptions, folds};
use crate::metrics;

/// Walks through a tree (or rows of a linear model) that all of it may take, about: some seconds of one core. Where rows are many,
/// some are drawn.
const WALKS_MAX: usize = 400_000_000;

/// Rows of a fold that are taken whatever they cost: fewer say nothing.
const ROWS_MIN: usize = 200;

/// Keeps these random numbers apart from those of folds and rows.
const IMPORTANCE: u64 = 0x69_6d_70 << 32;
const SAMPLE: u64 = 0x73_61_6d << 32;

/// How importance is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// How often each feature is permuted.
    pub repeats: usize,
    /// What is permuted together.
    pub groups: Vec<Group>,
}

/// The inputs that a feature becomes: of a category there is one for each of its values, and one alone says little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// Places of inputs, counting from 0.
    pub columns: Vec<usize>,
}

/// How much ROC-AUC is lost without a feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importance {
    pub feature: String,
    /// How many inputs of the model it is.
    pub inputs: usize,
    /// Mean over the repeats of what is lost; below 0 where nothing is lost but by chance.
    pub mean: f64,
    /// Standard deviation over the repeats (of all of them, as numpy's `std`).
    pub deviation: f64,
}

/// The importance of each feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importances {
    /// Held-out rows that it was measured on.
    pub rows: usize,
    pub repeats: usize,
    /// The most important first.
    pub features: Vec<Importance>,
}

/// The folds that have been measured so far.
pub(super) struct Measured<'a> {
    measure: &'a Measure,
    seed: u64,
    rows_max: usize,
    rows: usize,
    /// By group and repeat what was lost, each fold weighted by its rows.
    lost: Vec<Vec<f64>>,
}

impl<'a> Measured<'a> {
    pub fn new(measure: &'a Measure, options: &TrainOptions) -> Self {
        let walks = match options.algorithm {
            Algorithm::RandomForest => options.trees,
            Algorithm::LogisticRegression => 1,
        };
        let times = walks * measure.repeats * measure.groups.len() * options.folds;
        Measured {
            measure,
            seed: options.seed,
            rows_max: (WALKS_MAX / times.max(1)).max(ROWS_MIN),
            rows: 0,
            lost: vec![vec![0.0; measure.repeats]; measure.groups.len()],
        }
    }

    /// Measures the model of a fold, `answer`, on rows that it has not seen.
    pub fn fold(&mut self, fold: usize, data: &Dataset, answer: impl Fn(&[f64]) -> Vec<f64>) {
        let data = &self.sample(fold, data);
        let (count, width) = (data.labels.len(), data.inputs.len());
        // Of one class there is nothing to tell apart.
        let Some(whole) = metrics::auc(&answer(&data.rows), &data.labels) else {
            return;
        };
        self.rows += count;
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

    /// At most so many rows, drawn at random.
    fn sample(&self, fold: usize, data: &Dataset) -> Dataset {
        let mut order: Vec<usize> = (0..data.labels.len()).collect();
        folds::random(self.seed, SAMPLE ^ fold as u64).shuffle(&mut order);
        let mut is_drawn = vec![false; order.len()];
        order
            .iter()
            .take(self.rows_max)
            .for_each(|row| is_drawn[*row] = true);
        data.filter(|row| is_drawn[row])
    }

    pub fn end(self) -> Importances {
        let rows = self.rows.max(1) as f64;
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
            repeats: self.measure.repeats,
            features,
        }
    }
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
        let mut measured = Measured::new(&measure, &options);
        measured.fold(0, &data(), answer);
        measured.end()
    }

    fn by_truth(rows: &[f64]) -> Vec<f64> {
        rows.chunks(4).map(|row| row[1]).collect()
    }

    #[test]
    fn what_a_model_reads_is_lost_by_half_and_what_it_does_not_read_is_not() {
        let found = measured(by_truth, 1);
        assert_eq!((found.rows, found.repeats), (400, 10));
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
        let mut measured = Measured::new(&measure, &options);
        assert_eq!(measured.rows_max, ROWS_MIN);
        measured.fold(0, &data(), by_truth);
        assert_eq!(measured.rows, ROWS_MIN);
        assert_eq!(measured.end().features[0].feature, "truth");
    }
}
