//! What deciding from each threshold on would bring: precision and recall, the area under them, and where an F-score is highest.
//!
//! As scikit-learn defines them: `average_precision_score`, `precision_recall_fscore_support`, `fbeta_score`; what it calls 0 with a
//! warning (a precision where nothing was decided for the class) is none here.

use serde::Serialize;

use super::{Confusion, Error, check};

/// Digits of a threshold, most; beyond them the probability itself is taken.
const DIGITS_MAX: i32 = 15;

/// How well one class is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassScores {
    /// Rows that truly are of the class.
    pub rows: u64,
    /// Share (0 to 1) of the rows decided for the class that are of it; None if none was.
    pub precision: Option<f64>,
    /// Share (0 to 1) of the class's rows that were decided for it; None if there are none.
    pub recall: Option<f64>,
    /// Harmonic mean of both, 0 to 1; None if the class neither occurs nor was decided for.
    pub f1: Option<f64>,
}

/// What follows from one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AtThreshold {
    /// A probability at or above it counts as the positive class.
    pub threshold: f64,
    pub confusion: Confusion,
    /// Share of rows (0 to 1) decided rightly.
    pub accuracy: f64,
    pub positive: ClassScores,
    pub negative: ClassScores,
}

/// The probabilities of a set of rows as thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Different probabilities, the highest first.
    steps: Vec<Step>,
    positives: u64,
    negatives: u64,
}

/// Rows of at least this probability.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    probability: f64,
    true_positives: u64,
    false_positives: u64,
}

impl ClassScores {
    fn of(hits: u64, decided: u64, rows: u64) -> Self {
        let share = |of: u64| (of > 0).then(|| hits as f64 / of as f64);
        let sum = decided + rows;
        ClassScores {
            rows,
            precision: share(decided),
            recall: share(rows),
            f1: (sum > 0).then(|| 2.0 * hits as f64 / sum as f64),
        }
    }
}

impl AtThreshold {
    /// What these counts come to.
    pub fn of(threshold: f64, confusion: Confusion) -> Self {
        let Confusion {
            true_positives: tp,
            false_positives: fp,
            true_negatives: tn,
            false_negatives: r#fn,
        } = confusion;
        AtThreshold {
            threshold,
            confusion,
            accuracy: (tp + tn) as f64 / (tp + fp + tn + r#fn) as f64,
            positive: ClassScores::of(tp, tp + fp, tp + r#fn),
            negative: ClassScores::of(tn, tn + r#fn, tn + fp),
        }
    }

    /// The weighted harmonic mean of the positive class's precision and recall: recall counts `beta` times as much.
    pub fn f_beta(&self, beta: f64) -> f64 {
        let Confusion {
            true_positives,
            false_positives,
            false_negatives,
            ..
        } = self.confusion;
        let hits = (1.0 + beta * beta) * true_positives as f64;
        let all = hits + beta * beta * false_negatives as f64 + false_positives as f64;
        if all > 0.0 { hits / all } else { 0.0 }
    }
}

impl Thresholds {
    /// Of `probabilities` (0..=1) against `labels` (0 or 1), one for each row.
    ///
    /// # Errors
    /// As [`super::evaluate`].
    pub fn new(probabilities: &[f64], labels: &[f64]) -> Result<Self, Error> {
        check(probabilities, labels)?;
        let mut rows: Vec<(f64, bool)> = (probabilities.iter())
            .zip(labels)
            .map(|(probability, label)| (*probability, *label > 0.5))
            .collect();
        rows.sort_by(|one, other| other.0.total_cmp(&one.0));
        let (mut true_positives, mut false_positives) = (0, 0);
        // Rows of one probability are decided alike: no threshold lies between them.
        let steps = rows.chunk_by(|one, other| one.0 == other.0).map(|ties| {
            let positive = ties.iter().filter(|(_, positive)| *positive).count() as u64;
            true_positives += positive;
            false_positives += ties.len() as u64 - positive;
            Step {
                probability: ties[0].0,
                true_positives,
                false_positives,
            }
        });
        let steps = steps.collect();
        if true_positives == 0 || false_positives == 0 {
            return Err(Error::OneClass);
        }
        Ok(Thresholds {
            steps,
            positives: true_positives,
            negatives: false_positives,
        })
    }

    /// The area under precision over recall, as a sum of steps (average precision). Guessing has the share of the positive class.
    pub fn average_precision(&self) -> f64 {
        let mut found = 0;
        let steps = self.steps.iter().map(|step| {
            let more = step.true_positives - found;
            found = step.true_positives;
            let decided = (step.true_positives + step.false_positives) as f64;
            more as f64 / self.positives as f64 * (step.true_positives as f64 / decided)
        });
        steps.sum()
    }

    /// What deciding from `threshold` on brings.
    pub fn at(&self, threshold: f64) -> AtThreshold {
        let mut lowest_first = self.steps.iter().rev();
        let step = lowest_first.find(|step| step.probability >= threshold);
        AtThreshold::of(threshold, self.confusion(step))
    }

    /// The threshold of the highest F-score, and of equal ones the highest: the fewest rows are decided for the positive class.
    /// It is written as briefly as it can be without changing any row's decision.
    pub fn best(&self, beta: f64) -> AtThreshold {
        let scored = |at: usize| {
            let step = &self.steps[at];
            AtThreshold::of(step.probability, self.confusion(Some(step))).f_beta(beta)
        };
        let mut best = (0, scored(0));
        for at in 1..self.steps.len() {
            let score = scored(at);
            if score > best.1 {
                best = (at, score);
            }
        }
        let step = &self.steps[best.0];
        let below = self.steps.get(best.0 + 1).map(|it| it.probability);
        let threshold = shortest(below.unwrap_or(f64::NEG_INFINITY), step.probability);
        AtThreshold::of(threshold, self.confusion(Some(step)))
    }

    fn confusion(&self, step: Option<&Step>) -> Confusion {
        let (tp, fp) = step.map_or((0, 0), |it| (it.true_positives, it.false_positives));
        Confusion {
            true_positives: tp,
            false_positives: fp,
            true_negatives: self.negatives - fp,
            false_negatives: self.positives - tp,
        }
    }
}

/// The number of fewest decimals above `below` and up to `most`.
fn shortest(below: f64, most: f64) -> f64 {
    for digits in 0..=DIGITS_MAX {
        let unit = 10_f64.powi(digits);
        let rounded = (most * unit).floor() / unit;
        if rounded > below && rounded <= most {
            return rounded;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Six rows of four probabilities; of the two at 0.4 one is positive.
    const PROBABILITIES: [f64; 6] = [0.9, 0.8, 0.4, 0.4, 0.35, 0.1];
    const LABELS: [f64; 6] = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0];

    fn thresholds() -> Thresholds {
        Thresholds::new(&PROBABILITIES, &LABELS).unwrap()
    }

    fn close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-12,
            "{found} is not {expected}"
        );
    }

    #[test]
    fn average_precision_takes_ties_together_as_a_hand_computes_it() {
        // Recall and precision from 0.9 on: 1/3, 1; 0.8: 1/3, 1/2; 0.4 (both rows): 2/3, 2/4; 0.35: 1, 3/5; 0.1: 1, 3/6.
        // scikit-learn 1.9.1: average_precision_score(LABELS, PROBABILITIES) = 0.7
        close(
            thresholds().average_precision(),
            1.0 / 3.0 + 1.0 / 3.0 * 0.5 + 1.0 / 3.0 * 0.6,
        );
        // Where all are tied it is the share of positives, whatever the order of rows.
        let tied = Thresholds::new(&[0.5; 4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
        close(tied.average_precision(), 0.25);
        let perfect = Thresholds::new(&[0.9, 0.8, 0.2], &[1.0, 1.0, 0.0]).unwrap();
        close(perfect.average_precision(), 1.0);
    }

    #[test]
    fn each_class_has_precision_recall_and_f1_of_its_own() {
        let at = thresholds().at(0.4);
        // Decided positive: 0.9, 0.8, 0.4, 0.4, of which two are; of the other two one is negative.
        assert_eq!(at.confusion.true_positives, 2);
        assert_eq!(at.confusion.false_positives, 2);
        close(at.positive.precision.unwrap(), 0.5);
        close(at.positive.recall.unwrap(), 2.0 / 3.0);
        close(at.positive.f1.unwrap(), 4.0 / 7.0);
        close(at.negative.precision.unwrap(), 0.5);
        close(at.negative.recall.unwrap(), 1.0 / 3.0);
        close(at.negative.f1.unwrap(), 2.0 / 5.0);
        close(at.accuracy, 0.5);
        close(at.f_beta(1.0), at.positive.f1.unwrap());
        // (1 + 4) · 2 / (5 · 2 + 4 · 1 + 2)
        close(at.f_beta(2.0), 10.0 / 16.0);
        // Above all probabilities nothing is decided for the class, so there is no precision.
        let none = thresholds().at(0.95);
        assert_eq!(none.positive.precision, None);
        assert_eq!(
            (none.positive.recall, none.positive.f1),
            (Some(0.0), Some(0.0))
        );
        assert_eq!(none.f_beta(2.0), 0.0);
    }

    #[test]
    fn the_best_threshold_is_the_highest_of_the_best_and_short() {
        // F1 from 0.9 on: 2/4; 0.8: 2/5; 0.4: 4/7; 0.35: 6/8; 0.1: 6/9.
        let best = thresholds().best(1.0);
        assert_eq!(best.threshold, 0.3);
        close(best.f_beta(1.0), 0.75);
        // Precision alone: the first row is right.
        let sure = thresholds().best(0.01);
        assert_eq!(sure.threshold, 0.9);
        // Where all are to be found, and none can be told apart.
        let tied = Thresholds::new(&[0.5; 4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
        assert_eq!(tied.best(1.0).threshold, 0.0);
        // 1 is a threshold too.
        let certain = Thresholds::new(&[1.0, 0.999], &[1.0, 0.0]).unwrap();
        assert_eq!(certain.best(1.0).threshold, 1.0);
    }

    #[test]
    fn what_is_no_probability_or_has_one_class_is_refused() {
        assert_eq!(Thresholds::new(&[0.5], &[1.0]), Err(Error::OneClass));
        assert_eq!(Thresholds::new(&[], &[]), Err(Error::OneClass));
        assert_eq!(
            Thresholds::new(&[1.5, 0.0], &[1.0, 0.0]),
            Err(Error::OutOfRange(0))
        );
    }

    proptest! {
        #[test]
        fn no_other_threshold_has_a_higher_score_and_a_short_one_decides_alike(
            rows in prop::collection::vec(((0..40u8).prop_map(|p| f64::from(p) / 39.0), any::<bool>()), 2..60),
            beta in 0.1..5.0,
        ) {
            let (probabilities, labels): (Vec<f64>, Vec<f64>) =
                rows.iter().map(|&(p, y)| (p, f64::from(u8::from(y)))).unzip();
            let Ok(thresholds) = Thresholds::new(&probabilities, &labels) else { return Ok(()) };
            let best = thresholds.best(beta);
            prop_assert_eq!(best, thresholds.at(best.threshold));
            prop_assert_eq!(best.confusion, Confusion::count(&probabilities, &labels, best.threshold));
            for threshold in &probabilities {
                prop_assert!(thresholds.at(*threshold).f_beta(beta) <= best.f_beta(beta) + 1e-12);
            }
        }
    }
}
