//! What is learned from: named inputs, rows and labels, and whether anything can be learned from them.

use super::{Error, folds};
use crate::{preprocess, scorer};

/// Keeps the random numbers of synthetic rows apart from those of folds.
const SYNTHETIC: u64 = 0x73_79_6e_74 << 32;

/// Labelled rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Names of the inputs, in the order of a row.
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

    /// At most `count` rows that are in no data: each value is drawn for itself from what its column has, between the
    /// ranks, and is missing as often. The outermost hundredths are left out: who has the highest value of all is known.
    pub(super) fn synthetic(&self, count: usize, seed: u64) -> Vec<f64> {
        let width = self.inputs.len();
        let count = count.min(self.labels.len());
        let mut rows = vec![f64::NAN; count * width];
        for column in 0..width {
            let values = self.rows.iter().skip(column).step_by(width);
            let mut sorted: Vec<f64> = values.copied().filter(|it| !it.is_nan()).collect();
            sorted.sort_by(f64::total_cmp);
            let present = sorted.len() as f64 / self.labels.len().max(1) as f64;
            let whole = sorted.iter().all(|value| value.fract() == 0.0);
            let mut random = folds::random(seed, SYNTHETIC ^ column as u64);
            for row in 0..count {
                let (is_present, at) = (random.fraction() < present, random.fraction());
                let value = quantile(&sorted, 0.01 + 0.98 * at);
                if is_present {
                    rows[row * width + column] = if whole { value.round() } else { value };
                }
            }
        }
        rows
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

/// Between the two nearest ranks; NaN where there is none.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => {
            let part = place.fract();
            low * (1.0 - part) + high * part
        }
        _ => f64::NAN,
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
    fn synthetic_rows_have_each_columns_distribution_and_are_nobodys() {
        let width = 2;
        let rows: Vec<f64> = (0..500)
            .flat_map(|row| {
                let glucose = 80.0 + f64::from(row) / 7.0;
                let age = if row % 4 == 0 {
                    f64::NAN
                } else {
                    f64::from(20 + row % 50)
                };
                [glucose, age]
            })
            .collect();
        let labels: Vec<f64> = (0..500).map(|row| f64::from(row % 2)).collect();
        let data = data(&rows, &labels);
        let made = data.synthetic(200, 1);
        assert_eq!(made.len(), 200 * width);
        let real = |row: &[f64]| {
            rows.chunks(width)
                .any(|it| it[0] == row[0] && it[1] == row[1])
        };
        assert!(!made.chunks(width).any(real));
        let glucose: Vec<f64> = made.iter().copied().step_by(width).collect();
        let mean = glucose.iter().sum::<f64>() / 200.0;
        assert!((mean - 115.6).abs() < 6.0, "{mean}");
        assert!(glucose.iter().all(|it| (80.0..151.3).contains(it)));
        let ages = made.iter().skip(1).step_by(width);
        let missing = ages.clone().filter(|it| it.is_nan()).count();
        assert!((25..75).contains(&missing), "{missing}");
        assert!(ages.filter(|it| !it.is_nan()).all(|it| it.fract() == 0.0));
        let bits = |rows: &[f64]| rows.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&made), bits(&data.synthetic(200, 1)));
        assert_ne!(bits(&made), bits(&data.synthetic(200, 2)));
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
