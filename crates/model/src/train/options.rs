//! What can be trained, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::Error;
use crate::preprocess::{Imputation, Scaling};

/// Bounds of the options; see [`TrainOptions`].
pub const FOLDS_MAX: usize = 100;
pub const TREES_MAX: usize = 10_000;
pub const DEPTH_MAX: u16 = 32;

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
    /// Drawn from the distribution of each input: rows of no real record, since a package goes wherever its model is served.
    Synthetic,
    /// Rows of the training data.
    Real,
}

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

/// How to train. What belongs to the other algorithm is ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub algorithm: Algorithm,
    /// Parts of the cross-validation, 2 to [`FOLDS_MAX`].
    pub folds: usize,
    /// Seeds the folds and the forest.
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
    /// How the features' importance is measured; none is not at all. It changes nothing of the model.
    pub importance: Option<Measure>,
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
            importance: None,
        }
    }

    pub(super) fn check(&self, width: usize) -> Result<(), Error> {
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

    pub(super) fn inputs_per_split(&self, width: usize) -> usize {
        self.inputs_per_split.unwrap_or(width.isqrt())
    }

    pub(super) fn scaling(&self) -> Scaling {
        match self.algorithm {
            Algorithm::RandomForest => Scaling::AsIs,
            Algorithm::LogisticRegression => Scaling::Standard,
        }
    }

    pub(super) fn hyper_parameters(&self, width: usize) -> BTreeMap<String, Number> {
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
