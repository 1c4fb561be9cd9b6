//! Models: the trait, its backends, packages on disk, and training.
//!
//! The way of a model: [`train::train`] turns a [`train::Dataset`] into a [`train::Trained`], which becomes a
//! [`Package`] (a manifest and an artefact, both plain bytes), which a service loads and asks for its [`Model`].
//!
//! What this crate does not know: pipelines, features, messages, Kafka, clocks. It gets names, rows and labels, and gives
//! probabilities. It has no async and no threads, and no other crate knows smartcore. Nothing that comes out of a package's
//! files may panic: files are bounded, checked against their hash and validated before the first row is scored.

#![forbid(unsafe_code)]

pub mod forest;
pub mod logistic;
pub mod metrics;
pub mod package;
pub mod preprocess;
mod scorer;
pub mod train;

use package::Labels;
pub use package::Package;

/// Something that scores rows.
///
/// Small and synchronous on purpose: who calls it decides about threads, batches and queues.
pub trait Model: Send + Sync + std::fmt::Debug {
    /// The names of the inputs, in the order in which a row holds them.
    fn inputs(&self) -> &[String];

    /// What a row of outputs holds.
    fn outputs(&self) -> &Outputs;

    /// Appends to `outputs` a row for each row: row-major, n × `outputs().width()`.
    ///
    /// `rows` is row-major, n × `inputs().len()`. NaN means missing, and so does an infinity; the model fills it as it
    /// learned in training.
    ///
    /// # Panics
    /// When `rows` is not a whole number of rows: that is a mistake of the caller, not of the data.
    fn score(&self, rows: &[f64], outputs: &mut Vec<f64>);
}

/// What a model's answer to one row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// The most inputs a model may have, so that a package cannot ask for absurd rows.
pub const INPUTS_MAX: usize = 4_096;
