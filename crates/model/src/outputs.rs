//! What the values of a model's answer are called and mean, and which of them are predictions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the two classes are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    pub negative: String,
    /// The class whose probability the model gives.
    pub positive: String,
}

impl Labels {
    /// Whether one of the classes is the opposite one in `other`: a probability would be taken for its complement. Classes that `other`
    /// has no names for say nothing.
    pub fn is_inverted(&self, other: &Self) -> bool {
        self.negative == other.positive || self.positive == other.negative
    }

    /// Whether both call a class the same, on whichever side.
    pub fn shares_a_name(&self, other: &Self) -> bool {
        let names = [&other.negative, &other.positive];
        names.contains(&&self.negative) || names.contains(&&self.positive)
    }
}

/// The negative class and the positive one.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "negative {:?}, positive {:?}",
            self.negative, self.positive
        )
    }
}

/// The outputs of a model for one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OutputsForm", into = "OutputsForm")]
pub enum Outputs {
    /// Two classes: one value, the probability (0..=1) of the positive one.
    Binary(Labels),
    /// Several classes: the probability (0..=1) of each, in this order; they sum to 1.
    Classes(Vec<String>),
    /// Regression: one finite value per name, in this order, in the target's own unit.
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

    /// Checks that `row`, one row of [`Outputs::width`] values, is a prediction: finite, and 0 to 1 (give or take 1e-6) for
    /// probabilities.
    ///
    /// # Errors
    /// The first output that is not.
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

    /// The name of each value of a row: the class or the value; of two classes, the positive one's. As many as
    /// [`Outputs::width`].
    pub fn names(&self) -> &[String] {
        match self {
            Outputs::Binary(labels) => std::slice::from_ref(&labels.positive),
            Outputs::Classes(names) | Outputs::Values(names) => names,
        }
    }
}

/// How far a probability may be outside of 0 to 1: sums of single precision are off by some 1e-7.
const PROBABILITY_SLACK: f64 = 1e-6;

/// An answer that is not a prediction, so nothing follows from it: least of all the negative decision.
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
