//! Training: cross-validate, then fit to all rows.
//!
//! What is learned from rows, preprocessing included, is learned inside each fold from its training rows only, so the metrics
//! are honest: every row is judged by a model that never saw it. The same data, options and seed give the same model.

mod dataset;
mod folds;
mod split;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use dataset::Dataset;
use serde::{Deserialize, Serialize};
use serde_json::Number;
pub use split::Split;

use crate::forest::{self, Forest, fit::Parameters};
use crate::logistic::Logistic;
use crate::metrics::{self, Metrics};
use crate::package::{Backend, ROWS_MAX};
use crate::preprocess::{self, Imputation, Preprocess, Scaling};
use crate::scorer::{self, Kernel};
use split::Folds;

/// Bounds of the options; see [`TrainOptions`].
pub const FOLDS_MAX: usize = 100;
pub const TREES_MAX: usize = 10_000;
pub const DEPTH_MAX: u16 = 32;

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no algorithm {0:?}; there are {names}", names = Algorithm::NAMES.join(" and "))]
    Algorithm(String),
    #[error("the option {option} is {found}; it must be {must}")]
    Option {
        option: &'static str,
        found: String,
        must: String,
    },
    #[error("the inputs are not usable: {0}")]
    Inputs(scorer::Error),
    #[error("{rows} labels need {expected} values, one for each input, but there are {found}")]
    Shape {
        rows: usize,
        expected: usize,
        found: usize,
    },
    #[error(
        "the label of row {row} (counting from 1) is {label}; labels are 1 for the positive class and 0 for the other"
    )]
    Label { row: usize, label: f64 },
    #[error(
        "input {input:?} of row {row} (counting from 1) is infinite; correct it, or leave it out: missing values are filled"
    )]
    Infinite { input: String, row: usize },
    #[error("all {rows} rows have the label {label}; a model needs examples of both classes")]
    OneClass { rows: usize, label: f64 },
    #[error(
        "{count} rows have the label {label}, too few for {folds} folds; bring more rows or use at most {count} folds"
    )]
    TooFew {
        count: usize,
        label: f64,
        folds: usize,
    },
    #[error("{rows} rows need as many entities or times, but there are {found}")]
    Split { rows: usize, found: usize },
    #[error(
        "{count} entities have rows with the label {label}, too few for {folds} folds; bring more entities or use at most {count} folds"
    )]
    TooFewEntities {
        count: usize,
        label: f64,
        folds: usize,
    },
    #[error(
        "the rows have too few different times for {folds} folds and a beginning; bring more or use fewer folds"
    )]
    TooFewTimes { folds: usize },
    #[error(
        "the rows before fold {fold} in time all have the label {label}; bring earlier examples of both classes or use fewer folds"
    )]
    OneClassBefore { fold: usize, label: f64 },
    #[error(
        "input {input:?} has no value in any row; remove it from the model's inputs or bring data that has it"
    )]
    AllMissing { input: String },
    #[error(
        "input {input:?} has so few values that a fold trains without any; remove it or use other folds or another seed"
    )]
    AllMissingInFold { input: String },
    #[error("input {input:?}: {reason}")]
    Preprocess {
        input: String,
        reason: preprocess::Error,
    },
    #[error(transparent)]
    Forest(#[from] forest::fit::Error),
    #[error(transparent)]
    Logistic(#[from] crate::logistic::Error),
    #[error("the model's answers cannot be judged: {0}")]
    Metrics(#[from] metrics::Error),
}

/// What can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    RandomForest,
    LogisticRegression,
}

impl Algorithm {
    /// The names, as in a manifest and on the command line.
    pub const NAMES: [&str; 2] = ["random-forest", "logistic-regression"];

    /// What reads such a model's artefact.
    pub fn backend(self) -> Backend {
        match self {
            Self::RandomForest => Backend::Forest,
            Self::LogisticRegression => Backend::Logistic,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RandomForest => Self::NAMES[0],
            Self::LogisticRegression => Self::NAMES[1],
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        [Self::RandomForest, Self::LogisticRegression]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| Error::Algorithm(name.to_owned()))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Rows that a package records with the model's answers, to be scored at every load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmUpRows {
    /// Drawn from the distribution of each input: rows of nobody, since a package goes wherever its model is served.
    Synthetic,
    /// Rows of the training data.
    Real,
}

/// How to train. What belongs to the other algorithm is ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub algorithm: Algorithm,
    /// Parts of the cross-validation, 2 to [`FOLDS_MAX`].
    pub folds: usize,
    /// Decides the folds and the forest's chances.
    pub seed: u64,
    /// Probability from which the confusion matrix counts a row as positive, 0 to 1.
    pub threshold: f64,
    pub imputation: Imputation,
    /// Which rows the package records.
    pub warm_up: WarmUpRows,
    /// Forest: trees, 1 to [`TREES_MAX`].
    pub trees: usize,
    /// Forest: most splits between root and leaf, 1 to [`DEPTH_MAX`].
    pub depth_max: u16,
    /// Forest: fewest rows in a leaf, at least 1.
    pub min_leaf: usize,
    /// Forest: inputs a split may choose from, drawn anew each time; none is the square root of their number.
    pub inputs_per_split: Option<usize>,
    /// Logistic regression: weight of half the squared coefficients against the summed log loss, 0 or more.
    pub penalty: f64,
}

impl TrainOptions {
    /// Sane defaults for tables of some hundred to some hundred thousand rows.
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            folds: 5,
            seed: 1,
            threshold: 0.5,
            imputation: Imputation::Median,
            warm_up: WarmUpRows::Synthetic,
            trees: 100,
            depth_max: 8,
            min_leaf: 5,
            inputs_per_split: None,
            penalty: 1.0,
        }
    }

    fn check(&self, width: usize) -> Result<(), Error> {
        fn between<T: PartialOrd + fmt::Display>(
            option: &'static str,
            found: T,
            min: T,
            max: T,
        ) -> Result<(), Error> {
            if found >= min && found <= max {
                return Ok(());
            }
            Err(Error::Option {
                option,
                found: found.to_string(),
                must: format!("{min} to {max}"),
            })
        }
        between("folds", self.folds, 2, FOLDS_MAX)?;
        between("threshold", self.threshold, 0.0, 1.0)?;
        between("trees", self.trees, 1, TREES_MAX)?;
        between("depth_max", self.depth_max, 1, DEPTH_MAX)?;
        between("min_leaf", self.min_leaf, 1, u32::MAX as usize)?;
        between("inputs_per_split", self.inputs_per_split(width), 1, width)?;
        between("penalty", self.penalty, 0.0, 1e12)
    }

    fn inputs_per_split(&self, width: usize) -> usize {
        self.inputs_per_split.unwrap_or(width.isqrt())
    }

    fn scaling(&self) -> Scaling {
        match self.algorithm {
            Algorithm::RandomForest => Scaling::AsIs,
            Algorithm::LogisticRegression => Scaling::Standard,
        }
    }

    fn hyper_parameters(&self, width: usize) -> BTreeMap<String, Number> {
        let named = |name: &str, value: Option<Number>| Some((name.to_owned(), value?));
        let count = |value: usize| Some(Number::from(value));
        match self.algorithm {
            Algorithm::RandomForest => vec![
                named("trees", count(self.trees)),
                named("depth_max", count(self.depth_max.into())),
                named("min_leaf", count(self.min_leaf)),
                named("inputs_per_split", count(self.inputs_per_split(width))),
            ],
            Algorithm::LogisticRegression => {
                vec![named("penalty", Number::from_f64(self.penalty))]
            }
        }
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A step of training has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps done, 1 to `total`.
    pub done: usize,
    pub total: usize,
    pub step: Step,
}

/// What a step was. Its text is for people: "fold 3".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A model fitted without this fold (counting from 1), and judged on it.
    Fold(usize),
    /// The model that is kept.
    AllRows,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fold(fold) => write!(f, "fold {fold}"),
            Self::AllRows => f.write_str("all rows"),
        }
    }
}

/// What cross-validation says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Over all rows that were left out once, each with the probability it got then: all, unless folds are cut by time.
    pub metrics: Metrics,
    /// The AUC of each fold: how much the figure depends on the luck of the draw.
    pub auc_of_folds: Vec<f64>,
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.auc_of_folds.len().max(1) as f64;
        let mean = self.auc_of_folds.iter().sum::<f64>() / count;
        let squares = self.auc_of_folds.iter().map(|auc| (auc - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        writeln!(
            f,
            "cross-validated, {} folds; AUC of the folds {mean:.4} ± {deviation:.4}",
            self.auc_of_folds.len()
        )?;
        writeln!(f)?;
        self.metrics.fmt(f)
    }
}

/// A trained model, not yet in a package: [`Trained::into_package`] is the next step.
#[derive(Debug)]
pub struct Trained {
    pub evaluation: Evaluation,
    pub options: TrainOptions,
    pub(crate) inputs: Vec<String>,
    pub(crate) rows: usize,
    /// Rows for the package to record.
    pub(crate) recorded: Vec<f64>,
    pub(crate) preprocess: Preprocess,
    pub(crate) fitted: Fitted,
}

/// What was fitted.
#[derive(Debug)]
pub(crate) enum Fitted {
    Forest(Forest),
    Logistic(Logistic),
}

impl Fitted {
    /// The artefact's file name and bytes.
    pub(crate) fn encode(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Forest(forest) => ("forest.bin", forest.encode()),
            Self::Logistic(logistic) => ("logistic.json", logistic.encode()),
        }
    }
}

impl From<Fitted> for Kernel {
    fn from(fitted: Fitted) -> Self {
        match fitted {
            Fitted::Forest(forest) => Kernel::Forest(forest),
            Fitted::Logistic(logistic) => Kernel::Logistic(logistic),
        }
    }
}

impl Trained {
    pub(crate) fn hyper_parameters(&self) -> BTreeMap<String, Number> {
        self.options.hyper_parameters(self.inputs.len())
    }
}

/// Cross-validates `options.algorithm` on `data`, each row for itself, then fits it to all rows. Calls `progress` after
/// each of the folds + 1 steps; it takes about as long as fitting folds + 1 times.
///
/// # Errors
/// Options out of bounds, or data from which nothing can be learned; the message names the remedy.
pub fn train(
    data: &Dataset,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, Error> {
    train_split(data, Split::Rows, options, progress)
}

/// As [`train`], with folds that are cut as `split` says.
///
/// # Errors
/// As [`train`]; or there is too little for such folds.
pub fn train_split(
    data: &Dataset,
    split: Split<'_>,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, Error> {
    data.check(options.folds)?;
    options.check(data.inputs.len())?;
    let total = options.folds + 1;
    let folds = Folds::cut(data, split, options)?;
    let mut probabilities = vec![None; data.labels.len()];
    let mut auc_of_folds = Vec::with_capacity(options.folds);
    for fold in 0..options.folds {
        let inside = data.filter(|row| folds.trains(fold, row));
        let outside = data.filter(|row| folds.judges(fold, row));
        folds.check_before(fold, &inside.labels)?;
        let (preprocess, fitted) = fit(&inside, options, fold as u64 + 1).map_err(in_fold)?;
        let answers = answer(&preprocess, &fitted, &outside.rows);
        auc_of_folds.extend(metrics::auc(&answers, &outside.labels));
        let places = (0..data.labels.len()).filter(|&row| folds.judges(fold, row));
        places
            .zip(answers)
            .for_each(|(row, answer)| probabilities[row] = Some(answer));
        progress(Progress {
            done: fold + 1,
            total,
            step: Step::Fold(fold + 1),
        });
    }
    let judged = probabilities.iter().zip(&data.labels);
    let judged = judged.filter_map(|(answer, label)| Some(((*answer)?, *label)));
    let (judged, truth): (Vec<f64>, Vec<f64>) = judged.unzip();
    let metrics = metrics::evaluate(&judged, &truth, options.threshold)?;
    let (preprocess, fitted) = fit(data, options, 0)?;
    progress(Progress {
        done: total,
        total,
        step: Step::AllRows,
    });
    Ok(Trained {
        evaluation: Evaluation {
            metrics,
            auc_of_folds,
        },
        options: options.clone(),
        inputs: data.inputs.clone(),
        rows: data.labels.len(),
        recorded: match options.warm_up {
            WarmUpRows::Synthetic => data.synthetic(ROWS_MAX, options.seed),
            WarmUpRows::Real => data.spread(ROWS_MAX),
        },
        preprocess,
        fitted,
    })
}

/// Fits preprocessing and backend to `data`. `stream` keeps the chances of folds apart.
fn fit(data: &Dataset, options: &TrainOptions, stream: u64) -> Result<(Preprocess, Fitted), Error> {
    let width = data.inputs.len();
    let preprocess = Preprocess::fit(&data.rows, width, options.imputation, options.scaling())
        .map_err(|reason| data.explain(reason))?;
    let mut rows = Vec::new();
    preprocess.apply(&data.rows, &mut rows);
    let fitted = match options.algorithm {
        Algorithm::RandomForest => {
            let parameters = Parameters {
                trees: options.trees,
                depth_max: options.depth_max,
                min_leaf: options.min_leaf,
                inputs_per_split: options.inputs_per_split(width),
                seed: folds::mix(options.seed, stream),
            };
            Fitted::Forest(forest::fit::fit(&rows, width, &data.labels, parameters)?)
        }
        Algorithm::LogisticRegression => {
            Fitted::Logistic(Logistic::fit(&rows, width, &data.labels, options.penalty)?)
        }
    };
    Ok((preprocess, fitted))
}

fn answer(preprocess: &Preprocess, fitted: &Fitted, rows: &[f64]) -> Vec<f64> {
    let mut prepared = Vec::new();
    preprocess.apply(rows, &mut prepared);
    let mut probabilities = Vec::new();
    match fitted {
        Fitted::Forest(forest) => forest.score(&prepared, &mut probabilities),
        Fitted::Logistic(logistic) => logistic.score(&prepared, &mut probabilities),
    }
    probabilities
}

fn in_fold(error: Error) -> Error {
    match error {
        Error::AllMissing { input } => Error::AllMissingInFold { input },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_known_by_their_names() {
        for name in Algorithm::NAMES {
            assert_eq!(name.parse::<Algorithm>().unwrap().to_string(), name);
        }
        let error = "boosting".parse::<Algorithm>().unwrap_err().to_string();
        assert!(
            error.contains("random-forest and logistic-regression"),
            "{error}"
        );
    }

    #[test]
    fn options_out_of_bounds_are_named_with_their_bounds() {
        let good = TrainOptions::new(Algorithm::RandomForest);
        assert!(good.check(8).is_ok());
        let bad = |change: fn(&mut TrainOptions)| {
            let mut options = good.clone();
            change(&mut options);
            options.check(8).unwrap_err().to_string()
        };
        assert_eq!(
            bad(|o| o.folds = 1),
            "the option folds is 1; it must be 2 to 100"
        );
        assert!(bad(|o| o.trees = 0).contains("trees"));
        assert!(bad(|o| o.depth_max = 99).contains("1 to 32"));
        assert!(bad(|o| o.inputs_per_split = Some(9)).contains("1 to 8"));
        assert!(bad(|o| o.threshold = f64::NAN).contains("threshold"));
        assert!(bad(|o| o.penalty = -1.0).contains("penalty"));
    }
}
