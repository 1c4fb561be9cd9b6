//! Whether what a model answers is a prediction. The stream and every endpoint ask here before anything follows from an answer.

use quadrille_model::{Model, NotANumber};

/// So many missing inputs are named; a row may have thousands.
const NAMED_MAX: usize = 5;

/// A row whose answer is no prediction.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct Error {
    answer: NotANumber,
    /// The inputs that were missing, and how many more.
    missing: Vec<String>,
    more: usize,
    /// Where it was one of several rows, counting from 0.
    row: Option<usize>,
}

impl Error {
    /// Whether the row lacked inputs: then it is for the sender to change, else for the model's author.
    pub fn lacks_inputs(&self) -> bool {
        !self.missing.is_empty()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(row) = self.row {
            write!(f, "row {row}: ")?;
        }
        write!(f, "{}, which is no prediction; ", self.answer)?;
        if self.answer.is_no_probability() {
            return f.write_str(
                "a probability is from 0 to 1: import a network that ends in logits with --activation sigmoid or softmax",
            );
        }
        if !self.lacks_inputs() {
            return f.write_str(
                "no input is missing, so the model fails on these values: look at its training range and its package",
            );
        }
        f.write_str("the model does not fill missing inputs, and ")?;
        f.write_str(&self.missing.join(", "))?;
        match (self.more, self.missing.len()) {
            (0, 1) => f.write_str(" is missing")?,
            (0, _) => f.write_str(" are missing")?,
            (more, _) => write!(f, " and {more} more are missing")?,
        }
        f.write_str(": send them, or train or import the model with preprocessing that fills them")
    }
}

/// Checks the outputs of one row.
///
/// # Errors
/// They are no prediction.
pub(super) fn check(model: &dyn Model, inputs: &[f64], outputs: &[f64]) -> Result<(), Error> {
    let Err(answer) = model.outputs().check(outputs) else {
        return Ok(());
    };
    // Numbers that are no probabilities come of the model, whatever is missing.
    let inputs = match answer.is_no_probability() {
        true => &[][..],
        false => inputs,
    };
    let missing = || {
        let named = inputs.iter().zip(model.inputs());
        named.filter(|(value, _)| !value.is_finite())
    };
    let names = missing().take(NAMED_MAX).map(|(_, name)| name.clone());
    let missing_names: Vec<String> = names.collect();
    Err(Error {
        answer,
        more: missing().count() - missing_names.len(),
        missing: missing_names,
        row: None,
    })
}

/// Checks the outputs of all rows of a request.
///
/// # Errors
/// The first row whose outputs are no prediction.
pub(super) fn check_all(model: &dyn Model, inputs: &[f64], outputs: &[f64]) -> Result<(), Error> {
    let (wide, width) = (model.inputs().len().max(1), model.outputs().width().max(1));
    let count = outputs.len() / width;
    let rows = inputs.chunks_exact(wide).chain(std::iter::repeat(&[][..]));
    for (at, (inputs, outputs)) in rows.zip(outputs.chunks_exact(width)).enumerate() {
        check(model, inputs, outputs).map_err(|mut no| {
            no.row = (count > 1).then_some(at);
            no
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quadrille_model::{Outputs, package::Labels};

    use super::*;
    use crate::fake;

    #[test]
    fn a_logit_is_no_prediction_and_the_models_affair_whatever_is_missing() {
        let labels = Labels {
            negative: "ok".to_owned(),
            positive: "fraud".to_owned(),
        };
        let model = fake::Model::new(2, Outputs::Binary(labels), |_, _| {});
        let no = check(&*model, &[f64::NAN, 1.0], &[4.2]).expect_err("no probability");
        assert!(!no.lacks_inputs());
        assert_eq!(
            no.to_string(),
            "the model answers 4.2 for \"fraud\", which is no prediction; a probability is from 0 to 1: import a network that \
             ends in logits with --activation sigmoid or softmax"
        );
        let no = check(&*model, &[f64::NAN, 1.0], &[f64::NAN]).expect_err("no number");
        assert!(no.lacks_inputs() && no.to_string().contains("x0 is missing"));
        check(&*model, &[f64::NAN, 1.0], &[1.0]).expect("a prediction");
    }

    #[test]
    fn an_infinite_value_is_no_prediction() {
        let model = fake::Model::new(1, fake::value(), |_, _| {});
        let no = check_all(&*model, &[1.0, 2.0], &[4.2, f64::INFINITY]).expect_err("no value");
        let said = no.to_string();
        assert!(said.starts_with("row 1: the model answers inf"), "{said}");
        check_all(&*model, &[1.0, 2.0], &[4.2, -1e300]).expect("values");
    }
}
