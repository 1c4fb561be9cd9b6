//! The values that the label's column of training data has, to be shown where none of them is the one the pipeline names.

use std::collections::BTreeMap;

use crate::quote::{nearest, quote};
use crate::spec::{Label, Truth};

/// Different values that are counted, each for itself: a column of more is not one of classes.
pub const LABEL_VALUES_MAX: usize = 1_000;

/// Values that a message lists.
const SHOWN_MAX: usize = 8;

/// How often each value occurs; an empty one is no label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelValues {
    counts: BTreeMap<String, u64>,
    /// Rows of the values beyond [`LABEL_VALUES_MAX`].
    others: u64,
}

impl LabelValues {
    pub(super) fn count(&mut self, value: &str) {
        if let Some(count) = self.counts.get_mut(value) {
            *count += 1;
        } else if self.counts.len() < LABEL_VALUES_MAX {
            self.counts.insert(value.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    /// The values and how many rows have each, the commonest first.
    pub fn most(&self) -> Vec<(&str, u64)> {
        let counts = self.counts.iter().map(|(value, rows)| (&**value, *rows));
        let mut most: Vec<(&str, u64)> = counts.collect();
        most.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        most
    }

    /// Which of two classes is in no row, and what there is instead; none where both are.
    pub(super) fn lacking(&self, label: &Label) -> Option<String> {
        let Truth::Two { positive, negative } = &label.truth else {
            return None;
        };
        let sides = [("positive", positive), ("negative", negative)];
        let is_there = |text: &str| self.counts.contains_key(text.trim());
        let (side, wanted) = *sides.iter().find(|(_, text)| !is_there(text))?;
        // With others uncounted nothing is known.
        if self.others > 0 || self.counts.is_empty() {
            return None;
        }
        let there = self.most();
        let taken = |value: &str| sides.iter().any(|(_, text)| text.trim() == value);
        let values = there.iter().map(|(value, _)| *value);
        let free: Vec<&str> = values
            .filter(|value| !value.is_empty() && !taken(value))
            .collect();
        let meant = match free[..] {
            [only] => Some(only),
            _ => nearest(wanted, free.iter().copied()),
        };
        let fix = match meant {
            Some(meant) => format!("did you mean {side} = {}?", quote(meant)),
            None if free.is_empty() => "bring rows of both classes".to_owned(),
            None => format!("write one of them as {side} in [label] of the pipeline file"),
        };
        let mut shown: Vec<String> = there.iter().take(SHOWN_MAX).map(shown).collect();
        if there.len() > SHOWN_MAX {
            shown.push(format!("… and {} more", there.len() - SHOWN_MAX));
        }
        Some(format!(
            "no row of the training data has {side} = {} in the label's column {}; its values are {}; {fix}",
            quote(wanted),
            quote(&label.field),
            shown.join(", ")
        ))
    }
}

fn shown((value, rows): &(&str, u64)) -> String {
    let rows = match rows {
        1 => "1 row".to_owned(),
        rows => format!("{rows} rows"),
    };
    match value.is_empty() {
        true => format!("(empty) in {rows}"),
        false => format!("{} in {rows}", quote(value)),
    }
}
