//! How good probabilities are, against what really happened. Pure arithmetic.

mod thresholds;

use std::fmt;

use serde::{Deserialize, Serialize};
pub use thresholds::{AtThreshold, ClassScores, Thresholds};

/// Calibration is looked at in this many equal steps of probability.
pub const CALIBRATION_BINS: usize = 10;

/// Log loss takes probabilities no nearer to 0 and 1 than this, as scikit-learn since 1.3, so that one sure mistake does not make it infinite.
const PROBABILITY_MARGIN: f64 = f64::EPSILON;

/// Why there are no metrics.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there are {probabilities} probabilities for {labels} labels")]
    Lengths { probabilities: usize, labels: usize },
    #[error("a probability or label is outside 0..=1 or not a number, at {0} (counting from 0)")]
    OutOfRange(usize),
    #[error("metrics need labels of both classes")]
    OneClass,
}

/// Metrics of a set of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub rows: u64,
    /// How many rows truly are of the positive class.
    pub positives: u64,
    /// Share of rows (0 to 1) on the right side of `threshold`.
    pub accuracy: f64,
    /// Area under the ROC curve, 0 to 1 (0.5 is chance): how often a positive row gets a higher probability than a negative one; a tie
    /// counts half.
    pub auc: f64,
    /// Mean negative natural logarithm of the probability given to what happened: 0 is perfect, ln 2 is a coin toss.
    pub log_loss: f64,
    /// Mean squared distance of probability and outcome: 0 (perfect) to 1.
    pub brier: f64,
    /// A probability at or above it counts as "positive".
    pub threshold: f64,
    pub confusion: Confusion,
    /// [`CALIBRATION_BINS`] equal steps from 0 to 1; a probability on an edge belongs to the upper one, 1 to the last.
    pub calibration: Vec<Bin>,
    /// Expected calibration error, 0 to 1: mean distance of predicted and observed share over the bins, weighted by rows.
    pub calibration_error: f64,
}

/// Counts of rows by truth and decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    pub true_positives: u64,
    pub false_positives: u64,
    pub true_negatives: u64,
    pub false_negatives: u64,
}

/// One step of the calibration table.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    pub rows: u64,
    /// Mean probability of the bin's rows; 0 when there are none.
    pub predicted: f64,
    /// Share of positives among the bin's rows; 0 when there are none.
    pub observed: f64,
}

/// Computes all metrics of `probabilities` (0..=1) against `labels` (0 or 1), one for each row.
///
/// # Errors
/// Lengths that differ, values out of range, or labels of one class only (the AUC does not exist then).
pub fn evaluate(probabilities: &[f64], labels: &[f64], threshold: f64) -> Result<Metrics, Error> {
    check(probabilities, labels)?;
    let auc = auc(probabilities, labels).ok_or(Error::OneClass)?;
    let confusion = Confusion::count(probabilities, labels, threshold);
    let calibration = calibrate(probabilities, labels);
    let rows = labels.len() as f64;
    let mean = |term: fn(f64, f64) -> f64| {
        let terms = probabilities.iter().zip(labels).map(|(&p, &y)| term(p, y));
        terms.sum::<f64>() / rows
    };
    Ok(Metrics {
        rows: labels.len() as u64,
        positives: confusion.true_positives + confusion.false_negatives,
        accuracy: (confusion.true_positives + confusion.true_negatives) as f64 / rows,
        auc,
        log_loss: mean(|p, y| {
            let given = if y > 0.5 { p } else { 1.0 - p };
            -given.clamp(PROBABILITY_MARGIN, 1.0).ln()
        }),
        brier: mean(|p, y| (p - y).powi(2)),
        threshold,
        confusion,
        calibration_error: calibration
            .iter()
            .map(|bin| bin.rows as f64 * (bin.predicted - bin.observed).abs() / rows)
            .sum(),
        calibration,
    })
}

/// Refuses what are no probabilities of labels.
fn check(probabilities: &[f64], labels: &[f64]) -> Result<(), Error> {
    if probabilities.len() != labels.len() {
        return Err(Error::Lengths {
            probabilities: probabilities.len(),
            labels: labels.len(),
        });
    }
    let good = |(p, y): (&f64, &f64)| (0.0..=1.0).contains(p) && (*y == 0.0 || *y == 1.0);
    if let Some(at) = probabilities
        .iter()
        .zip(labels)
        .position(|pair| !good(pair))
    {
        return Err(Error::OutOfRange(at));
    }
    Ok(())
}

/// The area under the ROC curve by ranks, ties sharing their mean rank; none when a class is absent.
pub fn auc(probabilities: &[f64], labels: &[f64]) -> Option<f64> {
    let mut rows: Vec<(f64, bool)> = probabilities
        .iter()
        .zip(labels)
        .map(|(&probability, &label)| (probability, label > 0.5))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rank_sum = 0.0;
    let mut before = 0;
    for ties in rows.chunk_by(|a, b| a.0 == b.0) {
        let rank = before as f64 + (ties.len() + 1) as f64 / 2.0;
        rank_sum += rank * ties.iter().filter(|(_, positive)| *positive).count() as f64;
        before += ties.len();
    }
    let positives = rows.iter().filter(|(_, positive)| *positive).count() as f64;
    let negatives = rows.len() as f64 - positives;
    let pairs = positives * negatives;
    (pairs > 0.0).then(|| (rank_sum - positives * (positives + 1.0) / 2.0) / pairs)
}

impl Confusion {
    fn count(probabilities: &[f64], labels: &[f64], threshold: f64) -> Self {
        let mut counts = Self::default();
        for (&probability, &label) in probabilities.iter().zip(labels) {
            *match (probability >= threshold, label > 0.5) {
                (true, true) => &mut counts.true_positives,
                (true, false) => &mut counts.false_positives,
                (false, false) => &mut counts.true_negatives,
                (false, true) => &mut counts.false_negatives,
            } += 1;
        }
        counts
    }
}

fn calibrate(probabilities: &[f64], labels: &[f64]) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); CALIBRATION_BINS];
    for (&probability, &label) in probabilities.iter().zip(labels) {
        let at = (probability * CALIBRATION_BINS as f64) as usize;
        let bin = &mut bins[at.min(CALIBRATION_BINS - 1)];
        bin.rows += 1;
        bin.predicted += probability;
        bin.observed += label;
    }
    for bin in bins.iter_mut().filter(|bin| bin.rows > 0) {
        bin.predicted /= bin.rows as f64;
        bin.observed /= bin.rows as f64;
    }
    bins
}

/// A plain-text report, some twenty lines of at most 72 columns, for people.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.positives as f64 / self.rows as f64;
        let commoner = share.max(1.0 - share);
        let Confusion {
            true_positives,
            false_positives,
            true_negatives,
            false_negatives,
        } = self.confusion;
        writeln!(
            f,
            "rows                {:>8}   {} positive ({:.1} %)",
            self.rows,
            self.positives,
            share * 100.0
        )?;
        writeln!(
            f,
            "AUC                 {:>8.4}   0.5 is guessing, 1 is perfect",
            self.auc
        )?;
        writeln!(
            f,
            "accuracy            {:>8.4}   at threshold {}; always the commoner class: {commoner:.4}",
            self.accuracy, self.threshold
        )?;
        writeln!(
            f,
            "log loss            {:>8.4}   lower is better",
            self.log_loss
        )?;
        writeln!(
            f,
            "Brier score         {:>8.4}   lower is better; always the base rate: {:.4}",
            self.brier,
            share * (1.0 - share)
        )?;
        writeln!(
            f,
            "calibration error   {:>8.4}   mean |predicted - observed|",
            self.calibration_error
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "                    predicted negative   predicted positive"
        )?;
        writeln!(
            f,
            "actually negative   {true_negatives:>18}   {false_positives:>18}"
        )?;
        writeln!(
            f,
            "actually positive   {false_negatives:>18}   {true_positives:>18}"
        )?;
        writeln!(f)?;
        write!(f, "probability      rows   predicted   observed")?;
        for (index, bin) in self.calibration.iter().enumerate() {
            let edge = |at: usize| at as f64 / self.calibration.len() as f64;
            write!(
                f,
                "\n{:.1} to {:.1}   {:>8}",
                edge(index),
                edge(index + 1),
                bin.rows
            )?;
            if bin.rows > 0 {
                write!(f, "   {:>9.4}   {:>8.4}", bin.predicted, bin.observed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROBABILITIES: [f64; 5] = [0.1, 0.4, 0.35, 0.8, 0.4];
    const LABELS: [f64; 5] = [0.0, 0.0, 1.0, 1.0, 1.0];

    fn close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-12,
            "{found} is not {expected}"
        );
    }

    #[test]
    fn metrics_equal_what_a_hand_computes() {
        let metrics = evaluate(&PROBABILITIES, &LABELS, 0.4).unwrap();
        // Of the six pairs (positive, negative): 0.35>0.1, 0.8>0.1, 0.4>0.1, 0.8>0.4 win, 0.4=0.4 half, 0.35<0.4 lost.
        close(metrics.auc, 4.5 / 6.0);
        close(metrics.accuracy, 3.0 / 5.0);
        close(metrics.brier, (0.01 + 0.16 + 0.4225 + 0.04 + 0.36) / 5.0);
        let product: f64 = 0.9 * 0.6 * 0.35 * 0.8 * 0.4;
        close(metrics.log_loss, -product.ln() / 5.0);
        assert_eq!((metrics.rows, metrics.positives), (5, 3));
        assert_eq!(
            metrics.confusion,
            Confusion {
                true_positives: 2,
                false_positives: 1,
                true_negatives: 1,
                false_negatives: 1
            }
        );
    }

    #[test]
    fn the_calibration_table_equals_what_a_hand_computes() {
        let metrics = evaluate(&PROBABILITIES, &LABELS, 0.5).unwrap();
        let filled: Vec<(usize, u64)> = metrics
            .calibration
            .iter()
            .enumerate()
            .filter(|(_, bin)| bin.rows > 0)
            .map(|(index, bin)| (index, bin.rows))
            .collect();
        assert_eq!(filled, [(1, 1), (3, 1), (4, 2), (8, 1)]);
        close(metrics.calibration[4].predicted, 0.4);
        close(metrics.calibration[4].observed, 0.5);
        close(
            metrics.calibration_error,
            (0.1 + 0.65 + 2.0 * 0.1 + 0.2) / 5.0,
        );
    }

    #[test]
    fn perfect_reversed_and_constant_answers_have_auc_one_zero_and_half() {
        let labels = [0.0, 1.0, 0.0, 1.0];
        assert_eq!(auc(&[0.1, 0.9, 0.2, 0.8], &labels), Some(1.0));
        assert_eq!(auc(&[0.9, 0.1, 0.8, 0.2], &labels), Some(0.0));
        assert_eq!(auc(&[0.3; 4], &labels), Some(0.5));
    }

    #[test]
    fn a_sure_mistake_costs_much_but_not_everything() {
        let metrics = evaluate(&[0.0, 1.0], &[1.0, 0.0], 0.5).unwrap();
        assert!(metrics.log_loss > 30.0 && metrics.log_loss.is_finite());
    }

    #[test]
    fn unusable_input_is_an_error() {
        let lengths = Error::Lengths {
            probabilities: 1,
            labels: 2,
        };
        assert_eq!(evaluate(&[0.5], &[0.0, 1.0], 0.5), Err(lengths));
        assert_eq!(
            evaluate(&[0.5, 0.6], &[1.0, 1.0], 0.5),
            Err(Error::OneClass)
        );
        assert_eq!(evaluate(&[], &[], 0.5), Err(Error::OneClass));
        assert_eq!(
            evaluate(&[0.5, f64::NAN], &[0.0, 1.0], 0.5),
            Err(Error::OutOfRange(1))
        );
        assert_eq!(
            evaluate(&[0.5, 0.5], &[0.0, 2.0], 0.5),
            Err(Error::OutOfRange(1))
        );
    }

    #[test]
    fn the_report_has_every_number_a_reader_needs() {
        let report = evaluate(&PROBABILITIES, &LABELS, 0.4).unwrap().to_string();
        for expected in [
            "3 positive (60.0 %)",
            "0.7500",
            "0.6000",
            "threshold 0.4",
            "0.4 to 0.5          2      0.4000     0.5000",
        ] {
            assert!(
                report.contains(expected),
                "{expected:?} is missing in\n{report}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_auc_by_ranks_is_the_share_of_pairs_won(
            rows in prop::collection::vec(((0..12u8).prop_map(|p| f64::from(p) / 11.0), any::<bool>()), 2..40),
        ) {
            let (probabilities, labels): (Vec<f64>, Vec<f64>) =
                rows.iter().map(|&(p, y)| (p, f64::from(u8::from(y)))).unzip();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (p, _) in rows.iter().filter(|row| row.1) {
                for (n, _) in rows.iter().filter(|row| !row.1) {
                    pairs += 1.0;
                    won += if p > n { 1.0 } else if p == n { 0.5 } else { 0.0 };
                }
            }
            match auc(&probabilities, &labels) {
                Some(auc) => prop_assert!((auc - won / pairs).abs() < 1e-12),
                None => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
