//! Recorded rows and answers: what a package must reproduce wherever it is loaded.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::{Model, WARM_UP_ROWS_MAX};

/// The tolerance of rows that this library records.
pub const TOLERANCE: f64 = 1e-9;

/// The most numbers of all recorded inputs together that this library writes: a manifest is sent in one message.
const VALUES_MAX: usize = 8_192;

/// Rows that are scored at every load, and the answers there must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// How far an output may be off: absolute, or relative for outputs above 1.
    pub tolerance: f64,
    /// At most [`WARM_UP_ROWS_MAX`].
    pub rows: Vec<WarmUpRow>,
}

/// A row and what the model answered to it, or the library that it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUpRow {
    /// In the order of the model's inputs; null is missing.
    pub inputs: Vec<Option<f64>>,
    /// In the order of the model's outputs.
    pub outputs: Vec<f64>,
}

/// An answer that is not the recorded one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "row {row} (counting from 1), output {output:?}: {expected} was recorded, the model answers {got} (tolerance {tolerance})"
)]
pub struct Mismatch {
    pub row: usize,
    pub output: String,
    pub expected: f64,
    pub got: f64,
    pub tolerance: f64,
}

impl WarmUp {
    /// Records what `model` answers to the first of `rows` (row-major), but for those without a prediction.
    pub(crate) fn record(model: &dyn Model, rows: &[f64]) -> Self {
        let width = model.inputs().len();
        let most = WARM_UP_ROWS_MAX.min(VALUES_MAX / width).max(1);
        let rows = &rows[..rows.len().min(most * width)];
        let mut answers = Vec::new();
        model.score(rows, &mut answers);
        let answers = answers.chunks_exact(model.outputs().width());
        let row = |(row, outputs): (&[f64], &[f64])| WarmUpRow {
            inputs: row.iter().map(|it| it.is_finite().then_some(*it)).collect(),
            outputs: outputs.to_vec(),
        };
        WarmUp {
            tolerance: TOLERANCE,
            rows: rows
                .chunks_exact(width)
                .zip(answers)
                .filter(|(_, outputs)| outputs.iter().all(|it| it.is_finite()))
                .map(row)
                .collect(),
        }
    }

    /// The inputs, row-major; NaN is missing.
    pub(super) fn inputs(&self) -> Vec<f64> {
        let inputs = self.rows.iter().flat_map(|row| &row.inputs);
        inputs.map(|it| it.unwrap_or(f64::NAN)).collect()
    }

    /// Checks that rows and answers have the model's widths.
    pub(super) fn check_shape(&self, model: &dyn Model) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::WarmUpRows(reason));
        if self.rows.len() > WARM_UP_ROWS_MAX {
            return wrong(format!(
                "there are {}; at most {WARM_UP_ROWS_MAX} are allowed",
                self.rows.len()
            ));
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return wrong(format!(
                "the tolerance is {}; it must be 0 to 1",
                self.tolerance
            ));
        }
        let (inputs, outputs) = (model.inputs().len(), model.outputs().width());
        for (row, number) in self.rows.iter().zip(1..) {
            if (row.inputs.len(), row.outputs.len()) != (inputs, outputs) {
                let (has_in, has_out) = (row.inputs.len(), row.outputs.len());
                return wrong(format!(
                    "row {number} has {has_in} inputs and {has_out} outputs; the model has {inputs} and {outputs}"
                ));
            }
        }
        Ok(())
    }

    /// Scores the rows together and compares. What is recorded are numbers, so what it compares with are ones too.
    pub(super) fn check(&self, model: &dyn Model) -> Result<(), Error> {
        let mut answers = Vec::new();
        model.score(&self.inputs(), &mut answers);
        let names = model.outputs().names();
        let rows = self.rows.iter().zip(answers.chunks_exact(names.len()));
        for ((row, answers), number) in rows.zip(1..) {
            for ((name, &expected), &got) in names.iter().zip(&row.outputs).zip(answers) {
                let allowed = self.tolerance * expected.abs().max(1.0);
                // NaN is within nothing.
                let within = (got - expected).abs() <= allowed;
                if !within {
                    let (row, output) = (number, name.clone());
                    let tolerance = self.tolerance;
                    return Err(Error::WarmUp(Mismatch {
                        row,
                        output,
                        expected,
                        got,
                        tolerance,
                    }));
                }
            }
            (model.outputs().check(answers)).map_err(|answer| Error::NoProbability {
                row: number,
                answer,
            })?;
        }
        Ok(())
    }
}
