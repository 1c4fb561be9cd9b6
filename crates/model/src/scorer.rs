//! A backend with its preprocessing: what a package's `Model` is.

use std::fmt;

use crate::forest::Forest;
use crate::logistic::Logistic;
use crate::preprocess::Preprocess;
use crate::{INPUTS_MAX, Model, Outputs};

/// Rows are prepared and scored in blocks of this many, so that block, sums and one tree stay in the first-level cache.
const BLOCK_ROWS: usize = 128;

/// The parts of a model do not fit each other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there are {0} inputs; a model has 1 to {INPUTS_MAX}")]
    Inputs(usize),
    #[error("input {0:?} is there twice")]
    InputTwice(String),
    #[error("an input has no name")]
    InputUnnamed,
    #[error("there are {inputs} inputs, but {found} for {part}")]
    Width {
        inputs: usize,
        found: usize,
        part: &'static str,
    },
    #[error("logistic regression needs a scale for every input")]
    NotStandardised,
    #[error("preprocessing: {0}")]
    Preprocess(#[from] crate::preprocess::Error),
}

/// The part that turns prepared rows into probabilities.
#[derive(Debug)]
pub(crate) enum Kernel {
    Forest(Forest),
    Logistic(Logistic),
}

impl Kernel {
    fn width(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.inputs(),
            Self::Logistic(logistic) => logistic.inputs(),
        }
    }

    /// Appends the probability of each of `rows`, which are prepared.
    pub(crate) fn score(&self, rows: &[f64], probabilities: &mut Vec<f64>) {
        match self {
            Self::Forest(forest) => forest.score(rows, probabilities),
            Self::Logistic(logistic) => logistic.score(rows, probabilities),
        }
    }
}

/// A kernel behind its preprocessing.
pub(crate) struct Scorer {
    inputs: Vec<String>,
    outputs: Outputs,
    preprocess: Preprocess,
    kernel: Kernel,
}

/// What it is: inputs and kernel; not what each column is filled with.
impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("inputs", &self.inputs)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Scorer {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The parts differ in width, the inputs' names are not usable, or the preprocessing is not.
    pub(crate) fn new(
        inputs: Vec<String>,
        outputs: Outputs,
        preprocess: Preprocess,
        kernel: Kernel,
    ) -> Result<Self, Error> {
        check_inputs(&inputs)?;
        let fits = |found, part| {
            if found == inputs.len() {
                return Ok(());
            }
            let inputs = inputs.len();
            Err(Error::Width {
                inputs,
                found,
                part,
            })
        };
        fits(preprocess.columns.len(), "the preprocessing")?;
        fits(kernel.width(), "the artefact")?;
        preprocess.validate()?;
        if matches!(kernel, Kernel::Logistic(_)) && !preprocess.is_standardising() {
            return Err(Error::NotStandardised);
        }
        Ok(Self {
            inputs,
            outputs,
            preprocess,
            kernel,
        })
    }
}

/// Checks that there are inputs, not too many, and that their names tell them apart.
pub(crate) fn check_inputs(inputs: &[String]) -> Result<(), Error> {
    if inputs.is_empty() || inputs.len() > INPUTS_MAX {
        return Err(Error::Inputs(inputs.len()));
    }
    let mut seen = std::collections::HashSet::new();
    for input in inputs {
        if input.trim().is_empty() {
            return Err(Error::InputUnnamed);
        }
        if !seen.insert(input) {
            return Err(Error::InputTwice(input.clone()));
        }
    }
    Ok(())
}

impl Model for Scorer {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn score(&self, rows: &[f64], probabilities: &mut Vec<f64>) {
        let width = self.inputs.len();
        assert!(
            rows.len().is_multiple_of(width),
            "{} values are not a whole number of rows of {width}",
            rows.len()
        );
        probabilities.reserve(rows.len() / width);
        let block_values = BLOCK_ROWS * width;
        let mut prepared = Vec::with_capacity(rows.len().min(block_values));
        for block in rows.chunks(block_values) {
            self.preprocess.apply(block, &mut prepared);
            self.kernel.score(&prepared, probabilities);
        }
    }
}
