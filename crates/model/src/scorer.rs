//! A backend with its preprocessing: what a package's `Model` is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::forest::Forest;
use crate::forest::ensemble::{logistic, softmax};
use crate::logistic::Logistic;
use crate::onnx::Program;
use crate::preprocess::Preprocess;
use crate::{
    Attribution, Contributions, Cost, INPUTS_MAX, MULTIPLY_ADDS_CHEAP_MAX, Model, OUTPUTS_MAX,
    Outputs, Quantity,
};

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
    #[error("there are {0} outputs; a model has 1 to {OUTPUTS_MAX}, and at least two classes")]
    Outputs(usize),
    #[error("output {0:?} is there twice")]
    OutputTwice(String),
    #[error("the model answers {found} values to a row where its outputs want {wanted}")]
    Answers { wanted: usize, found: usize },
    #[error("logistic regression needs a scale for every input")]
    NotStandardised,
    #[error("this backend gives the probability of one class; its outputs must be binary")]
    NotBinary,
    #[error("preprocessing: {0}")]
    Preprocess(#[from] crate::preprocess::Error),
}

/// What becomes of an ONNX graph's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// They are the outputs.
    #[default]
    None,
    /// They are logits; their softmax is the outputs.
    Softmax,
    /// They are log-odds; the logistic function of each is an output.
    Sigmoid,
}

/// The part that turns prepared rows into outputs.
#[derive(Debug)]
pub(crate) enum Estimator {
    Forest(Forest),
    Logistic(Logistic),
    Onnx(Program, Activation),
}

impl Estimator {
    /// Appends the outputs of each of `rows`, which are prepared; an ONNX graph's answers as they are.
    pub(crate) fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        match self {
            Self::Forest(forest) => forest.score(rows, outputs),
            Self::Logistic(logistic) => logistic.score(rows, outputs),
            Self::Onnx(program, _) => program.score(rows, outputs),
        }
    }

    /// How many inputs the artefact has; an ONNX file was read for those there are.
    fn inputs(&self) -> Option<usize> {
        match self {
            Self::Forest(forest) => Some(forest.inputs()),
            Self::Logistic(logistic) => Some(logistic.inputs()),
            Self::Onnx(..) => None,
        }
    }

    fn check_outputs(&self, outputs: &Outputs) -> Result<(), Error> {
        match (self, outputs) {
            (Self::Forest(_) | Self::Logistic(_), Outputs::Binary(_)) => Ok(()),
            (Self::Forest(_) | Self::Logistic(_), _) => Err(Error::NotBinary),
            (Self::Onnx(program, _), outputs) => {
                let (found, wanted) = (program.width(), outputs.width());
                let of_two = matches!(outputs, Outputs::Binary(_)) && found == 2;
                match found == wanted || of_two {
                    true => Ok(()),
                    false => Err(Error::Answers { wanted, found }),
                }
            }
        }
    }
}

/// An estimator behind its preprocessing.
pub(crate) struct Scorer {
    inputs: Vec<String>,
    outputs: Outputs,
    preprocess: Option<Preprocess>,
    estimator: Estimator,
    /// Rows that contributions are measured against, as they come, row-major; there may be none.
    background: Vec<f64>,
}

/// What it is: inputs and estimator; not what each column is filled with.
impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("inputs", &self.inputs)
            .field("estimator", &self.estimator)
            .finish_non_exhaustive()
    }
}

impl Scorer {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The parts differ in width, the names are not usable, or the preprocessing is not.
    pub(crate) fn new(
        inputs: Vec<String>,
        outputs: Outputs,
        preprocess: Option<Preprocess>,
        estimator: Estimator,
    ) -> Result<Self, Error> {
        check_inputs(&inputs)?;
        check_outputs(&outputs)?;
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
        if let Some(preprocess) = &preprocess {
            fits(preprocess.columns.len(), "the preprocessing")?;
            preprocess.validate()?;
        }
        if let Some(found) = estimator.inputs() {
            fits(found, "the artefact")?;
        }
        estimator.check_outputs(&outputs)?;
        let standardised = preprocess
            .as_ref()
            .is_some_and(Preprocess::is_standardising);
        if matches!(estimator, Estimator::Logistic(_)) && !standardised {
            return Err(Error::NotStandardised);
        }
        Ok(Self {
            inputs,
            outputs,
            preprocess,
            estimator,
            background: Vec::new(),
        })
    }

    /// Measures contributions against these rows (row-major).
    pub(crate) fn with_background(mut self, rows: Vec<f64>) -> Self {
        self.background = rows;
        self
    }

    fn prepared(&self, rows: &[f64]) -> Vec<f64> {
        match &self.preprocess {
            None => rows.to_vec(),
            Some(preprocess) => {
                let mut prepared = Vec::new();
                preprocess.apply(rows, &mut prepared);
                prepared
            }
        }
    }

    /// The outputs of an ONNX graph's answers from `first` on.
    fn conclude(&self, activation: Activation, width: usize, first: usize, answers: &mut Vec<f64>) {
        match activation {
            Activation::None => {}
            Activation::Softmax => answers[first..].chunks_exact_mut(width).for_each(softmax),
            Activation::Sigmoid => {
                answers[first..]
                    .iter_mut()
                    .for_each(|it| *it = logistic(*it));
            }
        }
        if width != self.outputs.width() {
            // Of two classes the second is the positive one.
            let rows = (answers.len() - first) / width;
            for row in 0..rows {
                answers[first + row] = answers[first + row * width + 1];
            }
            answers.truncate(first + rows);
        }
    }

    /// Rows to measure against, prepared: those given or, where missing values are filled, a row of nothing but fills.
    fn against(&self) -> Option<(Vec<f64>, String)> {
        let width = self.inputs.len();
        match (self.background.len() / width, &self.preprocess) {
            (0, None) => None,
            (0, Some(_)) => {
                let row = self.prepared(&vec![f64::NAN; width]);
                Some((row, "a row in which every input is missing".to_owned()))
            }
            (rows, _) => {
                let text = format!("the {rows} recorded rows of the package");
                Some((self.prepared(&self.background), text))
            }
        }
    }

    fn of_trees(&self, row: &[f64]) -> Option<Contributions> {
        let (background, against) = self.against()?;
        let row = self.prepared(row);
        let (parts, bias, of) = match &self.estimator {
            Estimator::Forest(forest) => {
                let (parts, bias) = forest.contributions(&row, &background);
                (parts, bias, Quantity::Output)
            }
            Estimator::Onnx(Program::Trees(trees), activation) => {
                let (parts, bias) = trees.contributions(&row, &background)?;
                let of = match (trees.scores(), activation) {
                    (of, Activation::None) => of,
                    (Quantity::Output, Activation::Sigmoid) => Quantity::LogOdds,
                    _ => Quantity::Score,
                };
                (parts, bias, of)
            }
            _ => return None,
        };
        let scores = bias.len();
        let attribution = |(score, output): (usize, &String)| Attribution {
            output: output.clone(),
            bias: bias[score],
            inputs: (0..self.inputs.len())
                .map(|input| parts.get(input * scores + score).copied().unwrap_or(0.0))
                .collect(),
        };
        let names = self.outputs.names();
        // One score is the last class's; of two, binary outputs have the second.
        let outputs = match (scores, names.len()) {
            (scores, names_len) if scores == names_len => {
                names.iter().enumerate().map(attribution).collect()
            }
            (1, _) => names
                .last()
                .map(|name| attribution((0, name)))
                .into_iter()
                .collect(),
            (2, 1) => names
                .first()
                .map(|name| attribution((1, name)))
                .into_iter()
                .collect(),
            _ => return None,
        };
        Some(Contributions {
            method: format!("exact Shapley values of the trees against {against}"),
            of,
            outputs,
        })
    }

    fn of_logistic(&self, logistic: &Logistic, row: &[f64]) -> Contributions {
        let row = self.prepared(row);
        let parts = row.iter().zip(logistic.coefficients());
        Contributions {
            method: "coefficient times distance from the training mean".to_owned(),
            of: Quantity::LogOdds,
            outputs: vec![Attribution {
                output: self.outputs.names()[0].clone(),
                bias: logistic.intercept(),
                inputs: parts.map(|(value, weight)| value * weight).collect(),
            }],
        }
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

fn check_outputs(outputs: &Outputs) -> Result<(), Error> {
    let names = outputs.names();
    let least = match outputs {
        Outputs::Classes(_) => 2,
        Outputs::Binary(_) | Outputs::Values(_) => 1,
    };
    if !(least..=OUTPUTS_MAX).contains(&names.len()) {
        return Err(Error::Outputs(names.len()));
    }
    let mut seen = std::collections::HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(Error::OutputTwice(twice.clone())),
        None => Ok(()),
    }
}

impl Model for Scorer {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        let width = self.inputs.len();
        assert!(
            rows.len().is_multiple_of(width),
            "{} values are not a whole number of rows of {width}",
            rows.len()
        );
        outputs.reserve(rows.len() / width * self.outputs.width());
        let block_values = BLOCK_ROWS * width;
        let mut prepared = Vec::new();
        for block in rows.chunks(block_values) {
            let first = outputs.len();
            match &self.preprocess {
                None => self.estimator.score(block, outputs),
                Some(preprocess) => {
                    preprocess.apply(block, &mut prepared);
                    self.estimator.score(&prepared, outputs);
                }
            }
            if let Estimator::Onnx(program, activation) = &self.estimator {
                self.conclude(*activation, program.width(), first, outputs);
            }
        }
    }

    fn cost(&self) -> Cost {
        match &self.estimator {
            Estimator::Onnx(Program::Network(network), _)
                if network.multiply_adds() > MULTIPLY_ADDS_CHEAP_MAX =>
            {
                Cost::Expensive
            }
            _ => Cost::Cheap,
        }
    }

    fn contributions(&self, row: &[f64]) -> Option<Contributions> {
        if row.len() != self.inputs.len() {
            return None;
        }
        match &self.estimator {
            Estimator::Logistic(logistic) => Some(self.of_logistic(logistic, row)),
            _ => self.of_trees(row),
        }
    }
}
