//! Models: the trait, its backends, packages on disk, training and import.
//!
//! The way of a model: [`train::train`] turns a [`train::Dataset`] into a [`train::Trained`], or an ONNX file comes from
//! outside ([`import::import`]); either becomes a [`Package`] (a manifest and an artefact, both plain bytes), which a
//! service loads and asks for its [`Model`].
//!
//! What this crate does not know: pipelines, features, messages, Kafka, clocks. It gets names, rows and labels, and gives
//! probabilities. It has no async and no threads, and no other crate knows smartcore or tract. Nothing that comes out of a package's
//! files may panic: files are bounded, checked against their hash and validated before the first row is scored.

#![deny(unsafe_code)]

mod contributions;
pub mod forest;
pub mod import;
pub mod logistic;
pub mod metrics;
pub mod onnx;
pub mod package;
pub mod preprocess;
mod scorer;
pub mod train;

pub use contributions::{Attribution, Contributions, Quantity};
use package::Labels;
pub use package::Package;
use serde::{Deserialize, Serialize};

/// Something that scores rows.
///
/// Small and synchronous on purpose: who calls it decides about threads, batches and queues.
///
/// ```
/// use quadrille_model::{Model, Outputs};
///
/// /// The mean of a row.
/// #[derive(Debug)]
/// struct Mean {
///     inputs: Vec<String>,
///     outputs: Outputs,
/// }
///
/// impl Model for Mean {
///     fn inputs(&self) -> &[String] {
///         &self.inputs
///     }
///
///     fn outputs(&self) -> &Outputs {
///         &self.outputs
///     }
///
///     fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
///         let width = self.inputs.len();
///         outputs.extend(rows.chunks_exact(width).map(|row| row.iter().sum::<f64>() / width as f64));
///     }
/// }
///
/// let mean = Mean {
///     inputs: vec!["a".to_owned(), "b".to_owned()],
///     outputs: Outputs::Values(vec!["mean".to_owned()]),
/// };
/// let mut outputs = Vec::new();
/// mean.score(&[1.0, 2.0, 5.0, 7.0], &mut outputs);
/// assert_eq!(outputs, [1.5, 6.0]);
/// assert!(mean.outputs().check(&outputs[..1]).is_ok());
/// // A missing input is NaN, and so is the answer of this model: that is no prediction.
/// assert!(mean.outputs().check(&[f64::NAN]).is_err());
/// ```
pub trait Model: Send + Sync + std::fmt::Debug {
    /// The names of the inputs, in the order in which a row holds them.
    fn inputs(&self) -> &[String];

    /// What a row of outputs holds.
    fn outputs(&self) -> &Outputs;

    /// Appends to `outputs` a row for each row: row-major, n × `outputs().width()`.
    ///
    /// `rows` is row-major, n × `inputs().len()`. NaN means missing; a model that was trained here fills it, and an
    /// infinity, as it learned in training. What an imported model makes of NaN and infinities is its own business; a
    /// network answers NaN, and what reads integers answers NaN to all that is none. [`Outputs::check`] says which rows
    /// are predictions.
    ///
    /// # Panics
    /// When `rows` is not a whole number of rows: that is a mistake of the caller, not of the data.
    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>);

    /// Whether a row is scored at once where it is, or worth a queue and a thread of its own.
    fn cost(&self) -> Cost {
        Cost::Cheap
    }

    /// How much each input of one row has to do with the answer; none where the model cannot say exactly.
    fn contributions(&self, row: &[f64]) -> Option<Contributions> {
        let _ = row;
        None
    }
}

/// What scoring a row costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Microseconds: trees, linear models, networks of up to [`MULTIPLY_ADDS_CHEAP_MAX`] a row.
    Cheap,
    /// More.
    Expensive,
}

/// Multiplications with their additions a row, up to which a network is [`Cost::Cheap`]: some ten microseconds of one core
/// (the digits example has 81,000 and takes 16 µs), about what a queue and another thread cost.
pub const MULTIPLY_ADDS_CHEAP_MAX: u64 = 50_000;

/// What a model's answer to one row holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OutputsForm", into = "OutputsForm")]
pub enum Outputs {
    /// Two classes: one value, the probability (0..=1) of the positive one.
    Binary(Labels),
    /// Several classes: the probability of each, in this order; they sum to 1.
    Classes(Vec<String>),
    /// Regression: a value a name.
    Values(Vec<String>),
}

impl Outputs {
    /// Values in a row of outputs.
    pub fn width(&self) -> usize {
        match self {
            Outputs::Binary(_) => 1,
            Outputs::Classes(names) | Outputs::Values(names) => names.len(),
        }
    }

    /// Checks that a row of outputs is a prediction: finite, and from 0 to 1 where a probability is meant.
    ///
    /// # Errors
    /// The first output that is none.
    pub fn check(&self, row: &[f64]) -> Result<(), NotANumber> {
        let usable = |value: f64| match self {
            Outputs::Binary(_) | Outputs::Classes(_) => {
                (-PROBABILITY_SLACK..=1.0 + PROBABILITY_SLACK).contains(&value)
            }
            Outputs::Values(_) => value.is_finite(),
        };
        match row.iter().position(|value| !usable(*value)) {
            None => Ok(()),
            Some(at) => Err(NotANumber {
                output: self.names().get(at).cloned().unwrap_or_default(),
                value: row[at],
            }),
        }
    }

    /// What each value of a row of outputs is called: a class, a value, or of two classes the positive one.
    pub fn names(&self) -> &[String] {
        match self {
            Outputs::Binary(labels) => std::slice::from_ref(&labels.positive),
            Outputs::Classes(names) | Outputs::Values(names) => names,
        }
    }
}

/// How far a probability may be outside of 0 to 1: sums of single precision are off by some 1e-7.
const PROBABILITY_SLACK: f64 = 1e-6;

/// An answer that is no prediction, so nothing follows from it: least of all the negative decision.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the model answers {value} for {output:?}")]
pub struct NotANumber {
    pub output: String,
    pub value: f64,
}

impl NotANumber {
    /// Whether it is a number, but no probability, as the logits of a network that ends before its last step are.
    pub fn is_no_probability(&self) -> bool {
        self.value.is_finite()
    }
}

/// [`Outputs`] as a manifest has them.
#[derive(Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case", deny_unknown_fields)]
enum OutputsForm {
    Binary { negative: String, positive: String },
    Classes { names: Vec<String> },
    Values { names: Vec<String> },
}

impl From<OutputsForm> for Outputs {
    fn from(form: OutputsForm) -> Self {
        match form {
            OutputsForm::Binary { negative, positive } => {
                Outputs::Binary(Labels { negative, positive })
            }
            OutputsForm::Classes { names } => Outputs::Classes(names),
            OutputsForm::Values { names } => Outputs::Values(names),
        }
    }
}

impl From<Outputs> for OutputsForm {
    fn from(outputs: Outputs) -> Self {
        match outputs {
            Outputs::Binary(Labels { negative, positive }) => {
                OutputsForm::Binary { negative, positive }
            }
            Outputs::Classes(names) => OutputsForm::Classes { names },
            Outputs::Values(names) => OutputsForm::Values { names },
        }
    }
}

/// The most inputs a model may have, so that a package cannot ask for absurd rows.
pub const INPUTS_MAX: usize = 4_096;

/// The most values in a row of outputs.
pub const OUTPUTS_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> Outputs {
        Outputs::Binary(Labels {
            negative: "no".to_owned(),
            positive: "yes".to_owned(),
        })
    }

    #[test]
    fn a_probability_is_from_0_to_1_but_for_the_rounding_of_single_precision() {
        let three = Outputs::Classes(["a", "b", "c"].map(str::to_owned).to_vec());
        let single = f64::from(1.0_f32.next_up());
        for value in [0.0, 1.0, 0.5, single, -1e-7, 1e-300] {
            assert_eq!(binary().check(&[value]), Ok(()), "{value}");
            assert_eq!(three.check(&[0.5, 0.5, value]), Ok(()), "{value}");
        }
        for value in [4.2, -0.1, 1.001, -1e-5, 1e300] {
            let not = binary().check(&[value]).unwrap_err();
            assert_eq!((&*not.output, not.value), ("yes", value));
            assert!(not.is_no_probability());
            let not = three.check(&[0.5, value, 0.5]).unwrap_err();
            assert_eq!(not.output, "b");
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let not = binary().check(&[value]).unwrap_err();
            assert!(!not.is_no_probability(), "{value}");
        }
    }

    #[test]
    fn a_value_is_any_number_but_no_infinity() {
        let values = Outputs::Values(vec!["y".to_owned(), "z".to_owned()]);
        for value in [4.2, -1e300, f64::MAX] {
            assert_eq!(values.check(&[0.0, value]), Ok(()), "{value}");
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let not = values.check(&[0.0, value]).unwrap_err();
            assert_eq!(not.output, "z", "{value}");
        }
    }
}
