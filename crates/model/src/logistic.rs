//! Logistic regression on standardised inputs: fitted by smartcore, kept as coefficients, scored by us.
//!
//! The artefact is JSON: `{"format": 1, "intercept": b, "coefficients": [w, …]}`, one coefficient for each input in the
//! manifest's order, in units of that input's standard deviation. So coefficients can be read and compared by people.

use serde::{Deserialize, Serialize};
use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};

use crate::INPUTS_MAX;

/// The version of the artefact's form that this code writes and reads.
const FORMAT: u32 = 1;

/// No coefficient is larger, so that no sum over the inputs (each within 1e100) overflows.
const COEFFICIENT_MAX: f64 = 1e100;

/// Fitting or reading went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the artefact is not a logistic regression: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("the artefact has format {0}; this version reads {FORMAT}")]
    Format(u32),
    #[error("there are {0} coefficients; there can be 1 to {INPUTS_MAX}")]
    Size(usize),
    #[error("coefficient or intercept {0} is not usable")]
    Unusable(f64),
    #[error("logistic regression could not be fitted: {0}; try a larger penalty")]
    Fit(String),
}

/// A fitted logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    intercept: f64,
    coefficients: Vec<f64>,
}

/// The artefact as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Artefact {
    format: u32,
    intercept: f64,
    coefficients: Vec<f64>,
}

impl Logistic {
    /// Takes coefficients (one for each input) and the intercept.
    ///
    /// # Errors
    /// None or too many coefficients, or one that is not finite or absurdly large.
    pub fn new(intercept: f64, coefficients: Vec<f64>) -> Result<Self, Error> {
        if coefficients.is_empty() || coefficients.len() > INPUTS_MAX {
            return Err(Error::Size(coefficients.len()));
        }
        let usable = |value: f64| value.is_finite() && value.abs() <= COEFFICIENT_MAX;
        let mut all = std::iter::once(&intercept).chain(&coefficients);
        if let Some(&value) = all.find(|value| !usable(**value)) {
            return Err(Error::Unusable(value));
        }
        Ok(Self {
            intercept,
            coefficients,
        })
    }

    /// How many inputs a row has.
    pub fn inputs(&self) -> usize {
        self.coefficients.len()
    }

    /// The coefficients, one for each input, in units of its standard deviation.
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// The log-odds of a row of means.
    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    /// Appends the probability of each of `rows` (row-major, standardised, finite).
    pub fn score(&self, rows: &[f64], probabilities: &mut Vec<f64>) {
        probabilities.extend(rows.chunks_exact(self.coefficients.len()).map(|row| {
            let pairs = row.iter().zip(&self.coefficients);
            sigmoid(pairs.fold(self.intercept, |sum, (value, weight)| sum + value * weight))
        }));
    }

    /// Fits to standardised `rows` (row-major, n × `width`) with `labels` 0 or 1, both present.
    ///
    /// `penalty` is the weight of half the coefficients' sum of squares against the summed log loss (1 is scikit-learn's
    /// `C=1`; the intercept goes free).
    ///
    /// # Errors
    /// The optimiser found no usable answer.
    pub fn fit(rows: &[f64], width: usize, labels: &[f64], penalty: f64) -> Result<Self, Error> {
        let matrix = DenseMatrix::new(labels.len(), width, rows.to_vec(), false)
            .map_err(|error| Error::Fit(error.to_string()))?;
        let classes: Vec<u32> = labels.iter().map(|&label| u32::from(label > 0.5)).collect();
        let parameters = LogisticRegressionParameters::default().with_alpha(penalty);
        // smartcore panics when its line search finds no step; for us that is an answer like any other.
        let fitted = std::panic::catch_unwind(|| {
            LogisticRegression::<f64, u32, _, _>::fit(&matrix, &classes, parameters)
        })
        .map_err(|_| Error::Fit("the line search found no step".to_owned()))?
        .map_err(|error| Error::Fit(error.to_string()))?;
        let coefficients = fitted.coefficients().iterator(0).copied().collect();
        let intercept = *fitted.intercept().get((0, 0));
        Self::new(intercept, coefficients)
    }

    /// The artefact's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let artefact = Artefact {
            format: FORMAT,
            intercept: self.intercept,
            coefficients: self.coefficients.clone(),
        };
        // Numbers and field names only: there is nothing that JSON could refuse.
        serde_json::to_vec_pretty(&artefact).expect("a struct of numbers is always JSON")
    }

    /// Reads an artefact.
    ///
    /// # Errors
    /// It is not one, is of another format, or holds numbers that are not usable.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let artefact: Artefact = serde_json::from_slice(bytes)?;
        if artefact.format != FORMAT {
            return Err(Error::Format(artefact.format));
        }
        Self::new(artefact.intercept, artefact.coefficients)
    }
}

fn sigmoid(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn probabilities_are_the_sigmoid_of_the_weighted_sum() {
        let model = Logistic::new(0.5, vec![2.0, -1.0]).unwrap();
        let mut probabilities = vec![];
        model.score(&[0.0, 0.5, 1.0, 0.0, -1.0, 0.0], &mut probabilities);
        let expected = [0.5, 0.924_141_819_978_757, 0.182_425_523_806_356];
        for (found, expected) in probabilities.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{found} is not {expected}"
            );
        }
    }

    #[test]
    fn extreme_rows_still_get_a_probability() {
        let model = Logistic::new(0.0, vec![1e100, -1e100]).unwrap();
        let mut probabilities = vec![];
        model.score(
            &[1e100, -1e100, 1e100, 1e100, -1e100, 1e100],
            &mut probabilities,
        );
        assert_eq!(probabilities, [1.0, 0.5, 0.0]);
    }

    #[test]
    fn the_fit_has_the_gradient_of_a_minimum() {
        let rows: Vec<f64> = (0..40).map(|i| f64::from(i - 20) / 10.0).collect();
        let labels: Vec<f64> = (0..40)
            .map(|i| f64::from(u8::from((i * 7) % 11 + i > 24)))
            .collect();
        let model = Logistic::fit(&rows, 1, &labels, 1.0).unwrap();
        let mut probabilities = vec![];
        model.score(&rows, &mut probabilities);
        let residuals: Vec<f64> = probabilities
            .iter()
            .zip(&labels)
            .map(|(p, y)| p - y)
            .collect();
        let slope: f64 = residuals.iter().zip(&rows).map(|(r, x)| r * x).sum();
        assert!(residuals.iter().sum::<f64>().abs() < 1e-5);
        assert!((slope + model.coefficients()[0]).abs() < 1e-5);
    }

    #[test]
    fn perfectly_separable_rows_without_a_penalty_do_not_panic() {
        let rows: Vec<f64> = (0..20).map(|i| f64::from(i) - 9.5).collect();
        let labels: Vec<f64> = rows.iter().map(|&x| f64::from(u8::from(x > 0.0))).collect();
        if let Ok(model) = Logistic::fit(&rows, 1, &labels, 0.0) {
            assert!(model.coefficients()[0] > 1.0);
        }
    }

    #[test]
    fn unknown_fields_formats_and_infinities_are_refused() {
        let decode = |text: &str| Logistic::decode(text.as_bytes());
        let extra = r#"{"format":1,"intercept":0,"coefficients":[1],"more":1}"#;
        assert!(matches!(decode(extra), Err(Error::Parse(_))));
        let later = r#"{"format":2,"intercept":0,"coefficients":[1]}"#;
        assert!(matches!(decode(later), Err(Error::Format(2))));
        let empty = r#"{"format":1,"intercept":0,"coefficients":[]}"#;
        assert!(matches!(decode(empty), Err(Error::Size(0))));
        let huge = r#"{"format":1,"intercept":1e300,"coefficients":[1]}"#;
        assert!(matches!(decode(huge), Err(Error::Unusable(_))));
    }

    proptest! {
        #[test]
        fn an_artefact_comes_back_bit_for_bit(
            intercept in -1e3..1e3f64,
            coefficients in prop::collection::vec(-1e3..1e3f64, 1..20),
        ) {
            let model = Logistic::new(intercept, coefficients).unwrap();
            prop_assert_eq!(Logistic::decode(&model.encode()).unwrap(), model);
        }
    }
}
