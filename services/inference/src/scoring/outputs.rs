//! What a model's scores stand for: the outputs that are offered, their classes, and the class that is decided for. Pure.

use std::cmp::Ordering;

use quadrille_model::Outputs;
use quadrille_pipeline::Pipeline;

/// The probabilities of classes: [N, classes], or [N, 1], the positive one's, where there are two.
pub(crate) const PROBABILITIES: &str = "probabilities";
/// The class that is decided for: [N]. Of two it is the positive one from the pipeline's threshold on, so that it says the
/// same as the decision; a model that is asked by its own name knows no threshold, and the likelier one is meant.
pub(crate) const LABEL: &str = "label";
/// A regression's values: [N, values].
pub(crate) const VALUES: &str = "values";
/// What the pipeline calls that class: [N].
pub(crate) const DECISION: &str = "decision";

/// The outputs of a model; `decides`: a pipeline stands before it.
pub(crate) fn offered(outputs: &Outputs, decides: bool) -> &'static [&'static str] {
    match (outputs, decides) {
        (Outputs::Binary(_), true) => &[PROBABILITIES, LABEL, DECISION],
        (Outputs::Binary(_) | Outputs::Classes(_), _) => &[PROBABILITIES, LABEL],
        (Outputs::Values(_), _) => &[VALUES],
    }
}

/// What an index of the numbers stands for.
pub(crate) fn labels(outputs: &Outputs) -> Vec<&str> {
    match outputs {
        Outputs::Binary(labels) => vec![&labels.negative, &labels.positive],
        Outputs::Classes(names) | Outputs::Values(names) => {
            names.iter().map(String::as_str).collect()
        }
    }
}

/// The probability from which on the positive one of two classes is decided for.
pub(crate) fn threshold(pipeline: Option<&Pipeline>) -> f64 {
    pipeline.and_then(Pipeline::threshold).unwrap_or(0.5)
}

/// The name of the class that is decided for; of equally likely ones the first.
pub(crate) fn class<'a>(outputs: &'a Outputs, threshold: f64, row: &[f64]) -> &'a str {
    match outputs {
        Outputs::Binary(labels) => match row.first() {
            Some(probability) if *probability >= threshold => &labels.positive,
            _ => &labels.negative,
        },
        Outputs::Classes(names) | Outputs::Values(names) => {
            let best = row.iter().enumerate().reduce(|best, next| {
                let larger = next.1 > best.1;
                if larger { next } else { best }
            });
            let name = best.and_then(|(at, _)| names.get(at));
            name.map_or("", String::as_str)
        }
    }
}

/// A row's largest numbers with their index and label, the largest first. Of a binary classifier both classes are there, of a
/// tie the positive one first: it is the label, see [`class`].
pub(crate) fn ranked(outputs: &Outputs, row: &[f64]) -> Vec<(usize, f64)> {
    let mut ranked: Vec<(usize, f64)> = match (outputs, row.first()) {
        (Outputs::Binary(_), Some(positive)) => vec![(1, *positive), (0, 1.0 - positive)],
        _ => row.iter().copied().enumerate().collect(),
    };
    ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    ranked
}

#[cfg(test)]
mod tests {
    use quadrille_model::package::Labels;

    use super::*;

    #[test]
    fn of_two_equally_likely_classes_the_label_comes_first() {
        let outputs = Outputs::Binary(Labels {
            negative: "no".to_owned(),
            positive: "yes".to_owned(),
        });
        let first = |score| {
            let (at, _) = ranked(&outputs, &[score])[0];
            (labels(&outputs)[at], class(&outputs, 0.5, &[score]))
        };
        assert_eq!(first(0.5), ("yes", "yes"));
        assert_eq!(first(0.49), ("no", "no"));
        assert_eq!(first(0.51), ("yes", "yes"));
    }
}
