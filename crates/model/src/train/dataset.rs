//! What is learned from: named inputs, rows and labels, and whether anything can be learned from them.

use super::Error;
use crate::{preprocess, scorer};

/// Labelled rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub inputs: Vec<String>,
    /// Row-major, n × inputs, each in its input's unit; NaN is missing.
    pub rows: Vec<f64>,
    /// One for each row: 1 for the positive class, 0 for the other.
    pub labels: Vec<f64>,
}

impl Dataset {
    /// Checks that a model can be cross-validated in `folds` parts and fitted.
    ///
    /// # Errors
    /// The first obstacle, with its remedy.
    pub(super) fn check(&self, folds: usize) -> Result<(), Error> {
        scorer::check_inputs(&self.inputs).map_err(Error::Inputs)?;
        let width = self.inputs.len();
        let count = self.labels.len();
        if Some(self.rows.len()) != count.checked_mul(width) {
            return Err(Error::Shape {
                rows: count,
                expected: count.saturating_mul(width),
                found: self.rows.len(),
            });
        }
        if let Some(at) = self
            .labels
            .iter()
            .position(|&label| label != 0.0 && label != 1.0)
        {
            let label = self.labels[at];
            return Err(Error::Label { row: at + 1, label });
        }
        if let Some(at) = self.rows.iter().position(|value| value.is_infinite()) {
            return Err(Error::Infinite {
                input: self.inputs[at % width].clone(),
                row: at / width + 1,
            });
        }
        self.check_classes(folds)?;
        let missing = |column: &usize| {
            self.rows
                .iter()
                .skip(*column)
                .step_by(width)
                .all(|value| value.is_nan())
        };
        match (0..width).find(missing) {
            None => Ok(()),
            Some(column) => Err(Error::AllMissing {
                input: self.inputs[column].clone(),
            }),
        }
    }

    fn check_classes(&self, folds: usize) -> Result<(), Error> {
        for label in [0.0, 1.0] {
            let count = self.labels.iter().filter(|&&other| other == label).count();
            let rows = self.labels.len();
            if count == 0 && rows > 0 {
                let label = 1.0 - label;
                return Err(Error::OneClass { rows, label });
            }
            if count < folds {
                return Err(Error::TooFew {
                    count,
                    label,
                    folds,
                });
            }
        }
        Ok(())
    }

    /// The rows whose number `keep` accepts.
    pub(super) fn filter(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept = || (0..self.labels.len()).filter(|&row| keep(row));
        let width = self.inputs.len();
        Self {
            inputs: self.inputs.clone(),
            rows: kept()
                .flat_map(|row| &self.rows[row * width..(row + 1) * width])
                .copied()
                .collect(),
            labels: kept().map(|row| self.labels[row]).collect(),
        }
    }

    /// At most `count` rows, evenly spread.
    pub(super) fn spread(&self, count: usize) -> Vec<f64> {
        let rows = self.labels.len();
        let step = rows.div_ceil(count).max(1);
        self.filter(|row| row % step == 0).rows
    }

    /// Gives a column its name.
    pub(super) fn explain(&self, reason: preprocess::Error) -> Error {
        match reason {
            preprocess::Error::AllMissing { column } => Error::AllMissing {
                input: self.inputs[column].clone(),
            },
            preprocess::Error::Unusable { column, .. } => Error::Preprocess {
                input: self.inputs[column].clone(),
                reason,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(rows: &[f64], labels: &[f64]) -> Dataset {
        Dataset {
            inputs: vec!["glucose".into(), "age".into()],
            rows: rows.to_vec(),
            labels: labels.to_vec(),
        }
    }

    fn complaint(data: &Dataset) -> String {
        data.check(2).unwrap_err().to_string()
    }

    #[test]
    fn sound_data_pass() {
        let rows = [1.0, f64::NAN, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert!(data(&rows, &[0.0, 1.0, 0.0, 1.0]).check(2).is_ok());
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let rows = [1.0; 8];
        let labels = [0.0, 1.0, 0.0, 1.0];
        assert!(complaint(&data(&rows[1..], &labels)).contains("4 labels need 8 values"));
        assert!(
            complaint(&data(&rows, &[0.0, 1.0, 2.0, 1.0])).contains("row 3 (counting from 1) is 2")
        );
        assert!(complaint(&data(&rows, &[1.0; 4])).contains("all 4 rows have the label 1"));
        assert!(complaint(&data(&rows, &[1.0, 1.0, 1.0, 0.0])).contains("use at most 1 folds"));
        assert!(complaint(&data(&[], &[])).contains("too few"));
        let holes = [1.0, f64::NAN].repeat(4);
        assert!(
            complaint(&data(&holes, &labels))
                .contains("\"age\" has no value in any row; remove it")
        );
        let mut endless = rows;
        endless[5] = f64::INFINITY;
        assert!(complaint(&data(&endless, &labels)).contains("\"age\" of row 3"));
        let mut twice = data(&rows, &labels);
        twice.inputs[1] = "glucose".into();
        assert!(complaint(&twice).contains("\"glucose\" is there twice"));
    }
}
