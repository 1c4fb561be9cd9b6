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
mod outputs;
pub mod package;
pub mod preprocess;
mod scorer;
pub mod train;

pub use contributions::{Attribution, Contributions, Quantity};
pub use outputs::{Labels, NotANumber, Outputs};
pub use package::Package;

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

/// The most inputs a model may have, so that a package cannot ask for absurd rows.
pub const INPUTS_MAX: usize = 4_096;

/// The most values in a row of outputs.
pub const OUTPUTS_MAX: usize = 4_096;

/// The most rows that a package records: enough to notice a wrong model, few enough to be scored at every load.
pub const WARM_UP_ROWS_MAX: usize = 32;
