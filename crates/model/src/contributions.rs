//! Why a model answered what it did: how much each input has to do with it.

/// The parts of one row's answer, by input.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// How they were found, for people.
    pub method: String,
    /// What bias and parts sum to.
    pub of: Quantity,
    /// One for each output that has parts; of two classes only the positive one has.
    pub outputs: Vec<Attribution>,
}

/// What an [`Attribution`] sums to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// The output itself.
    Output,
    /// The logarithm of p / (1 - p) of the output p.
    LogOdds,
    /// The score before the model's last transform, a softmax for example.
    Score,
}

/// The parts of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// The output's name.
    pub output: String,
    /// The part of no input, in the unit of [`Contributions::of`].
    pub bias: f64,
    /// One part for each of the model's inputs, in its order and in the same unit; negative ones speak against the output.
    pub inputs: Vec<f64>,
}

impl Attribution {
    /// Bias and parts together.
    pub fn total(&self) -> f64 {
        self.bias + self.inputs.iter().sum::<f64>()
    }
}
