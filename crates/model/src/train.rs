//! Training: cross-validate, then fit to all rows.
//!
//! What is learned from rows, preprocessing included, is learned inside each fold from its training rows only, so the metrics
//! are honest: every row is evaluated by a model that never saw it. The same data, options and seed give the same model.

mod dataset;
mod folds;
mod importance;
mod options;
mod split;

use std::collections::BTreeMap;
use std::fmt;

pub use dataset::Dataset;
pub use importance::{Importance, Importances};
pub use options::{
    Algorithm, DEPTH_MAX, FOLDS_MAX, Group, Measure, TREES_MAX, TrainOptions, WarmUpRows,
};
use serde::{Deserialize, Serialize};
use serde_json::Number;
pub use split::Split;

use crate::forest::{self, Forest, fit::Parameters};
use crate::logistic::Logistic;
use crate::metrics::{self, Metrics};
use crate::preprocess::{self, Preprocess};
use crate::scorer::{self, Estimator};
use crate::{Labels, WARM_UP_ROWS_MAX};
use importance::Measured;
use split::Folds;

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
        "{count} rows have the label {label}, too few for {folds} folds; add more rows or use at most {count} folds"
    )]
    TooFew {
        count: usize,
        label: f64,
        folds: usize,
    },
    #[error("{rows} rows need as many entities or times, but there are {found}")]
    Split { rows: usize, found: usize },
    #[error(
        "{count} entities have rows with the label {label}, too few for {folds} folds; add more entities or use at most {count} folds"
    )]
    TooFewEntities {
        count: usize,
        label: f64,
        folds: usize,
    },
    #[error(
        "the rows have too few different times for {folds} folds and a beginning; add more or use fewer folds"
    )]
    TooFewTimes { folds: usize },
    #[error(
        "the rows before fold {fold} in time all have the label {label}; add earlier examples of both classes or use fewer folds"
    )]
    OneClassBefore { fold: usize, label: f64 },
    #[error(
        "input {input:?} has no value in any row; remove it from the model's inputs or add data that has it"
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
    #[error("the model's answers cannot be evaluated: {0}")]
    Metrics(#[from] metrics::Error),
}

impl Error {
    /// The message, with the classes as the data calls them instead of 0 and 1.
    pub fn with_names(&self, names: &Labels) -> String {
        let text = self.to_string();
        let (Self::OneClass { label, .. }
        | Self::TooFew { label, .. }
        | Self::TooFewEntities { label, .. }
        | Self::OneClassBefore { label, .. }) = self
        else {
            return text;
        };
        let name = match *label > 0.5 {
            true => &names.positive,
            false => &names.negative,
        };
        text.replacen(
            &format!("the label {label}"),
            &format!("the label {name:?}"),
            1,
        )
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
    /// A model fitted without this fold (counting from 1), and evaluated on it.
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
    /// The AUC of each fold that has rows of both classes: how much the figure depends on the luck of the draw.
    pub auc_of_folds: Vec<f64>,
}

impl Evaluation {
    /// Mean and standard deviation of the folds' AUC; none where no fold has one.
    pub fn auc_of_folds(&self) -> Option<(f64, f64)> {
        let count = self.auc_of_folds.len() as f64;
        if self.auc_of_folds.is_empty() {
            return None;
        }
        let mean = self.auc_of_folds.iter().sum::<f64>() / count;
        let squares = self.auc_of_folds.iter().map(|auc| (auc - mean).powi(2));
        Some((mean, (squares.sum::<f64>() / count).sqrt()))
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.auc_of_folds() {
            Some((mean, deviation)) => writeln!(
                f,
                "cross-validated, {} folds; AUC of the folds {mean:.4} ± {deviation:.4}",
                self.auc_of_folds.len()
            ),
            None => writeln!(f, "cross-validated; no fold has rows of both classes"),
        }?;
        writeln!(f)?;
        self.metrics.fmt(f)
    }
}

/// What models said of rows that they had not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// The probability (0 to 1) of the positive class, one for each row that was evaluated, in the order of the data.
    pub probabilities: Vec<f64>,
    /// The truth of these rows: 1 for the positive class, 0 for the other.
    pub labels: Vec<f64>,
    /// The folds that they are of; the evaluation has no AUC of those whose rows are all of one class.
    pub folds: usize,
    /// Where [`TrainOptions::importance`] asks for it.
    pub importances: Option<Importances>,
}

/// A trained model, not yet in a package: [`Trained::into_package`] is the next step.
#[derive(Debug)]
pub struct Trained {
    /// Cross-validated: it describes models like this one, fitted without one fold.
    pub evaluation: Evaluation,
    /// What the evaluation was computed from; it is not in the package.
    pub held_out: HeldOut,
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

impl From<Fitted> for Estimator {
    fn from(fitted: Fitted) -> Self {
        match fitted {
            Fitted::Forest(forest) => Estimator::Forest(forest),
            Fitted::Logistic(logistic) => Estimator::Logistic(logistic),
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
    let mut measured = options
        .importance
        .as_ref()
        .map(|it| Measured::new(it, options, data.inputs.len()));
    for fold in 0..options.folds {
        let inside = data.filter(|row| folds.trains(fold, row));
        let outside = data.filter(|row| folds.evaluates(fold, row));
        folds.check_before(fold, &inside.labels)?;
        let (preprocess, fitted) = fit(&inside, options, fold as u64 + 1).map_err(in_fold)?;
        let answers = answer(&preprocess, &fitted, &outside.rows);
        auc_of_folds.extend(metrics::auc(&answers, &outside.labels));
        if let Some(measured) = &mut measured {
            measured.fold(fold, &outside, |rows| answer(&preprocess, &fitted, rows));
        }
        let places = (0..data.labels.len()).filter(|&row| folds.evaluates(fold, row));
        places
            .zip(answers)
            .for_each(|(row, answer)| probabilities[row] = Some(answer));
        progress(Progress {
            done: fold + 1,
            total,
            step: Step::Fold(fold + 1),
        });
    }
    let evaluated = probabilities.iter().zip(&data.labels);
    let evaluated = evaluated.filter_map(|(answer, label)| Some(((*answer)?, *label)));
    let (probabilities, labels): (Vec<f64>, Vec<f64>) = evaluated.unzip();
    let metrics = metrics::evaluate(&probabilities, &labels, options.threshold)?;
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
        held_out: HeldOut {
            probabilities,
            labels,
            folds: options.folds,
            importances: measured.map(Measured::end),
        },
        options: options.clone(),
        inputs: data.inputs.clone(),
        rows: data.labels.len(),
        recorded: match options.warm_up {
            WarmUpRows::Synthetic => data.synthetic(WARM_UP_ROWS_MAX, options.seed),
            WarmUpRows::Real => data.spread(WARM_UP_ROWS_MAX),
        },
        preprocess,
        fitted,
    })
}

/// Fits preprocessing and backend to `data`. `stream` keeps the random numbers of folds apart.
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
    fn an_error_calls_the_classes_by_their_names() {
        let names = Labels {
            negative: "ok".to_owned(),
            positive: "fraud".to_owned(),
        };
        let said = |label| Error::OneClass { rows: 7, label }.with_names(&names);
        assert!(
            said(0.0).starts_with("all 7 rows have the label \"ok\";"),
            "{}",
            said(0.0)
        );
        assert!(said(1.0).contains("the label \"fraud\""));
        let few = Error::TooFewEntities {
            count: 2,
            label: 1.0,
            folds: 5,
        };
        assert!(
            few.with_names(&names)
                .contains("2 entities have rows with the label \"fraud\"")
        );
        let other = Error::TooFewTimes { folds: 3 };
        assert_eq!(other.with_names(&names), other.to_string());
    }
    #[test]
    fn folds_of_one_class_are_counted_although_they_have_no_auc() {
        // Positive rows in the first half of time only: the last folds have none.
        let labels: Vec<f64> = (0..60)
            .map(|at| f64::from(u8::from(at < 25 && at % 2 == 0)))
            .collect();
        let times: Vec<i64> = (0..60).collect();
        let data = Dataset {
            inputs: vec!["a".to_owned()],
            rows: (0..60).map(|at| f64::from(at * 7 % 11)).collect(),
            labels,
        };
        let options = TrainOptions::new(Algorithm::LogisticRegression);
        let trained = train_split(&data, Split::Time(&times), &options, &mut |_| {}).unwrap();
        assert_eq!(trained.held_out.folds, 5);
        assert_eq!(trained.evaluation.auc_of_folds.len(), 2);
        let mut evaluation = trained.evaluation;
        evaluation.auc_of_folds.clear();
        assert_eq!(evaluation.auc_of_folds(), None);
        let said = evaluation.to_string();
        assert!(
            said.starts_with("cross-validated; no fold has rows of both classes"),
            "{said}"
        );
    }
}
