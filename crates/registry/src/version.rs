//! Versions in the order people mean: runs of digits compare as numbers.

use std::cmp::Ordering;

/// Compares versions: `9` comes before `10`, `1.9` before `1.10`, `1` before `1a`.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (piece, left_rest) = piece(left);
        let (other, right_rest) = self::piece(right);
        let order = match (number(piece), number(other)) {
            (Some(number), Some(other)) => {
                // Without leading zeros the longer number is the greater.
                (number.len(), number).cmp(&(other.len(), other))
            }
            _ => piece.cmp(other),
        };
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    // Versions that differ only in leading zeros are still different.
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The first run of digits, or of anything else.
fn piece(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits);
    text.split_at(end.unwrap_or(text.len()))
}

/// The digits without leading zeros, if that is what they are.
fn number(piece: &str) -> Option<&str> {
    let digits = piece.starts_with(|c: char| c.is_ascii_digit());
    digits.then(|| piece.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        for (before, after) in [
            ("9", "10"),
            ("1.9", "1.10"),
            ("1", "1a"),
            ("v2", "v10"),
            ("99999999999999999998", "99999999999999999999"),
        ] {
            assert_eq!(
                compare_versions(before, after),
                Ordering::Less,
                "{before} {after}"
            );
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[0-2a.]{0,6}", b in "[0-2a.]{0,6}", c in "[0-2a.]{0,6}") {
            let compare = |a: &str, b: &str| compare_versions(a, b);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b).is_eq(), a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
