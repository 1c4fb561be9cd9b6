//! What happens to a row before a backend sees it: missing values are filled, and values may be standardised.
//!
//! Learned in training, kept in the package's manifest, and applied in inference, so that several models can read the same
//! feature vectors.

use serde::{Deserialize, Serialize};

/// Standardised values are held within this, so that no sum of theirs overflows into an infinity or NaN.
const STANDARDISED_MAX: f64 = 1e100;

/// What can be wrong with preprocessing, learned or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `column` counts from 0.
    #[error("column {column} has no values at all, so there is nothing to fill it with")]
    AllMissing { column: usize },
    #[error(
        "column {column}: {what} is {value}, which is not usable; are the values of a sane size?"
    )]
    Unusable {
        column: usize,
        what: &'static str,
        value: f64,
    },
}

/// What a missing value is filled with: a statistic of the values present in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Imputation {
    #[default]
    Median,
    Mean,
}

/// Whether values are brought to mean 0 and standard deviation 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    AsIs,
    Standard,
}

/// Preprocessing of whole rows, one [`Column`] for each input, in the order of the inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    pub imputation: Imputation,
    pub columns: Vec<Column>,
}

/// Preprocessing of one input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Takes the place of a missing value, in the input's own unit.
    pub fill: f64,
    /// None: the value is used as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
}

/// `(value - mean) / deviation`, in the input's own unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    pub mean: f64,
    pub deviation: f64,
}

impl Preprocess {
    /// Learns from `rows` (row-major, n × `width`; what is not finite is missing).
    ///
    /// # Errors
    /// A column without a single value, or with values so large that their mean overflows.
    pub fn fit(
        rows: &[f64],
        width: usize,
        imputation: Imputation,
        scaling: Scaling,
    ) -> Result<Self, Error> {
        let mut columns = Vec::with_capacity(width);
        for column in 0..width {
            let mut present: Vec<f64> = rows
                .iter()
                .skip(column)
                .step_by(width)
                .copied()
                .filter(|value| value.is_finite())
                .collect();
            if present.is_empty() {
                return Err(Error::AllMissing { column });
            }
            let missing = rows.len() / width - present.len();
            let fill = match imputation {
                Imputation::Median => median(&mut present),
                Imputation::Mean => mean(&present),
            };
            let scale = match scaling {
                Scaling::AsIs => None,
                Scaling::Standard => {
                    present.extend(std::iter::repeat_n(fill, missing));
                    Some(Scale::fit(&present))
                }
            };
            columns.push(Column { fill, scale });
        }
        let fitted = Self {
            imputation,
            columns,
        };
        fitted.validate()?;
        Ok(fitted)
    }

    /// Checks what may have come from a file: fills and means finite, deviations finite and above 0.
    ///
    /// # Errors
    /// The first value that is not usable.
    pub fn validate(&self) -> Result<(), Error> {
        let unusable = |column, what, value| {
            Err(Error::Unusable {
                column,
                what,
                value,
            })
        };
        for (index, column) in self.columns.iter().enumerate() {
            if !column.fill.is_finite() {
                return unusable(index, "the fill", column.fill);
            }
            let Some(scale) = column.scale else { continue };
            if !scale.mean.is_finite() {
                return unusable(index, "the mean", scale.mean);
            }
            if !scale.deviation.is_finite() || scale.deviation <= 0.0 {
                return unusable(index, "the deviation", scale.deviation);
            }
        }
        Ok(())
    }

    /// Whether every column is standardised, which also bounds every value that comes out.
    pub fn is_standardising(&self) -> bool {
        self.columns.iter().all(|column| column.scale.is_some())
    }

    /// Replaces what is in `prepared` by the preprocessed `rows` (row-major, n × columns). All that comes out is finite.
    pub fn apply(&self, rows: &[f64], prepared: &mut Vec<f64>) {
        prepared.clear();
        prepared.reserve(rows.len());
        for row in rows.chunks_exact(self.columns.len().max(1)) {
            prepared.extend(
                row.iter()
                    .zip(&self.columns)
                    .map(|(&value, column)| column.apply(value)),
            );
        }
    }
}

impl Column {
    #[inline]
    fn apply(&self, value: f64) -> f64 {
        let value = if value.is_finite() { value } else { self.fill };
        match self.scale {
            None => value,
            Some(Scale { mean, deviation }) => {
                ((value - mean) / deviation).clamp(-STANDARDISED_MAX, STANDARDISED_MAX)
            }
        }
    }
}

impl Scale {
    /// Mean and population standard deviation of `values`; a constant column gets the deviation 1, so it becomes 0.
    fn fit(values: &[f64]) -> Self {
        let mean = mean(values);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / values.len() as f64).sqrt();
        // The mean of equal values may be off by rounding: what is left then is noise, not spread.
        let noise = f64::EPSILON * mean.abs() * 8.0;
        Self {
            mean,
            deviation: if deviation > noise { deviation } else { 1.0 },
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median; of an even number of values the mean of the two in the middle. Sorts `values`.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        values[middle - 1] / 2.0 + values[middle] / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn the_median_fills_what_is_missing() {
        // Two columns: 1, 3, 10, missing and missing, 4, 6, missing.
        let rows = [1.0, NAN, 3.0, 4.0, 10.0, 6.0, NAN, NAN];
        let fitted = Preprocess::fit(&rows, 2, Imputation::Median, Scaling::AsIs).unwrap();
        let mut prepared = vec![99.0];
        fitted.apply(&rows, &mut prepared);
        assert_eq!(prepared, [1.0, 5.0, 3.0, 4.0, 10.0, 6.0, 3.0, 5.0]);
    }

    #[test]
    fn the_mean_fills_what_is_missing_when_asked_for() {
        let fitted = Preprocess::fit(&[1.0, NAN, 5.0], 1, Imputation::Mean, Scaling::AsIs).unwrap();
        assert_eq!(fitted.columns[0].fill, 3.0);
    }

    #[test]
    fn standardised_training_rows_have_mean_zero_and_deviation_one() {
        let rows = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let fitted = Preprocess::fit(&rows, 1, Imputation::Median, Scaling::Standard).unwrap();
        assert_eq!(
            fitted.columns[0].scale,
            Some(Scale {
                mean: 5.0,
                deviation: 2.0
            })
        );
        let mut prepared = Vec::new();
        fitted.apply(&rows, &mut prepared);
        assert_eq!(prepared, [-1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn a_constant_column_becomes_zero() {
        for constant in [0.1, 1e9 / 3.0, 0.0] {
            let rows = [constant; 7];
            let fitted = Preprocess::fit(&rows, 1, Imputation::Mean, Scaling::Standard).unwrap();
            let mut prepared = Vec::new();
            fitted.apply(&rows, &mut prepared);
            assert!(prepared.iter().all(|value| value.abs() < 1e-6));
        }
    }

    #[test]
    fn infinities_count_as_missing_and_nothing_infinite_comes_out() {
        let fitted =
            Preprocess::fit(&[1.0, 2.0, 3.0], 1, Imputation::Median, Scaling::Standard).unwrap();
        let mut prepared = Vec::new();
        fitted.apply(
            &[f64::INFINITY, f64::NEG_INFINITY, NAN, f64::MAX, f64::MIN],
            &mut prepared,
        );
        assert_eq!(prepared[..3], [0.0; 3]);
        assert!(prepared.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_column_without_values_is_an_error_that_names_it() {
        let error = Preprocess::fit(&[1.0, NAN, 2.0, NAN], 2, Imputation::Mean, Scaling::AsIs);
        assert!(matches!(error, Err(Error::AllMissing { column: 1 })));
    }

    #[test]
    fn a_deviation_of_zero_from_a_file_is_refused() {
        let mut fitted =
            Preprocess::fit(&[1.0, 2.0], 1, Imputation::Mean, Scaling::Standard).unwrap();
        fitted.columns[0].scale = Some(Scale {
            mean: 0.0,
            deviation: 0.0,
        });
        assert!(matches!(
            fitted.validate(),
            Err(Error::Unusable {
                what: "the deviation",
                ..
            })
        ));
    }
}
