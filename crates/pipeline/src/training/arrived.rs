//! The order in which rows came: by a column of it, times or numbers, or else by the times of their events.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::invalid::{Invalid, InvalidKind};
use crate::quote::quote;
use crate::time::rfc3339;

/// Digits behind the point that are kept exactly; as many as whole numbers of 64 bits leave room for.
const DIGITS_MAX: usize = 18;
const ONE: i128 = 10_i128.pow(DIGITS_MAX as u32);

/// When a row came, as its cell says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrived {
    /// A number or a time's milliseconds, in units of 10⁻¹⁸: neither nanoseconds nor numbers beyond 2⁵³ are rounded.
    Exact(i128),
    /// A number that is too long or too large for that.
    Rounded(f64),
}

impl Arrived {
    pub fn at_ms(ms: i64) -> Self {
        Arrived::Exact(i128::from(ms) * ONE)
    }

    pub fn at(time: Timestamp) -> Self {
        const NANOSECOND: i128 = ONE / 1_000_000;
        Arrived::Exact(time.as_nanosecond() * NANOSECOND)
    }

    fn rounded(self) -> f64 {
        match self {
            // In two steps, so that whole numbers stay whole.
            Arrived::Exact(exact) => (exact / ONE) as f64 + (exact % ONE) as f64 / ONE as f64,
            Arrived::Rounded(number) => number,
        }
    }
}

/// What a cell says of a row's arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub place: Arrived,
    /// Where it is a time and not a number, which may count anything: milliseconds since 1970.
    pub came_ms: Option<i64>,
}

impl From<Arrived> for Cell {
    fn from(place: Arrived) -> Self {
        Cell {
            place,
            came_ms: None,
        }
    }
}

pub(super) fn read(column: &str, cell: &str) -> Result<Cell, Invalid> {
    const FIX: &str = "write a number, or a time as in 2026-01-31T12:00:00Z: rows are replayed in the order of this column";
    if let Some(exact) = decimal(cell) {
        return Ok(Arrived::Exact(exact).into());
    }
    match cell.parse::<f64>() {
        Ok(number) if number.is_finite() => return Ok(Arrived::Rounded(number).into()),
        _ => {}
    }
    match rfc3339(column, cell) {
        Ok(time) => Ok(Cell {
            place: Arrived::at(time),
            came_ms: Some(time.as_millisecond()),
        }),
        Err(_) if cell.is_empty() => Err(Invalid::new(
            InvalidKind::MissingField,
            column,
            "is empty",
            FIX,
        )),
        Err(_) => {
            let reason = format!("{} is neither a number nor a time", quote(cell));
            Err(Invalid::new(InvalidKind::BadTime, column, reason, FIX))
        }
    }
}

/// Digits with or without a point, as they stand there.
fn decimal(cell: &str) -> Option<i128> {
    let unsigned = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true if text.is_empty() => Some(0),
        true => text.parse::<u64>().ok().map(i128::from),
        false => None,
    };
    if !unsigned.contains(|c: char| c.is_ascii_digit()) || fraction.len() > DIGITS_MAX {
        return None;
    }
    let unit = 10_i128.pow((DIGITS_MAX - fraction.len()) as u32);
    let size = digits(whole)? * ONE + digits(fraction)? * unit;
    Some(if cell.starts_with('-') { -size } else { size })
}

/// Rows as their turn comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turns {
    /// Indices of rows.
    pub order: Vec<usize>,
    /// The file has the newest row of each key first, so the lower of two equal ones came first; else the upper one did.
    pub newest_first: bool,
}

impl Turns {
    /// Of rows with their keys, as the file has them.
    pub fn of(rows: &[(&str, Arrived)]) -> Self {
        let places = places(rows.iter().map(|(_, arrived)| *arrived));
        let keys = rows.iter().map(|(key, _)| *key);
        let newest_first = are_newest_first(keys.zip(places.iter().copied()));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        if newest_first {
            order.reverse();
        }
        order.sort_by_key(|at| places[*at]);
        Turns {
            order,
            newest_first,
        }
    }
}

/// Numbers in the order of the rows' times.
fn places(arrived: impl Iterator<Item = Arrived> + Clone) -> Vec<i128> {
    let exact = arrived.clone().map(|it| match it {
        Arrived::Exact(exact) => Some(exact),
        Arrived::Rounded(_) => None,
    });
    exact.collect::<Option<Vec<i128>>>().unwrap_or_else(|| {
        // As `f64::total_cmp` orders them, but for the zeros, which are equal here.
        let ordered = |number: f64| {
            let bits = (number + 0.0).to_bits() as i64;
            bits ^ (((bits >> 63) as u64) >> 1) as i64
        };
        arrived.map(|it| ordered(it.rounded()).into()).collect()
    })
}

/// Whether the times of each key fall from row to row, or stay, and not all of them stay.
fn are_newest_first<'k>(rows: impl Iterator<Item = (&'k str, i128)>) -> bool {
    let (mut last, mut fall) = (HashMap::new(), false);
    for (key, place) in rows {
        match last.insert(key, place) {
            Some(before) if before < place => return false,
            Some(before) if before > place => fall = true,
            _ => {}
        }
    }
    fall
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(cells: &[(&str, &str)]) -> (Vec<usize>, bool) {
        let rows = cells
            .iter()
            .map(|(key, cell)| (*key, read("at", cell).unwrap().place));
        let turns = Turns::of(&rows.collect::<Vec<_>>());
        (turns.order, turns.newest_first)
    }

    /// Of one key.
    fn sorted(cells: &[&str]) -> Vec<usize> {
        let cells: Vec<(&str, &str)> = cells.iter().map(|cell| ("k", *cell)).collect();
        turns(&cells).0
    }

    #[test]
    fn rows_are_sorted_by_times_and_numbers_of_any_size_and_stay_where_they_are_equal() {
        assert_eq!(sorted(&["3", "1", "2", "1"]), [1, 3, 2, 0]);
        assert_eq!(sorted(&["2.5", "-1", "2"]), [1, 2, 0]);
        assert_eq!(sorted(&["1e300", "-2", "3.5", "-1e300"]), [3, 1, 2, 0]);
        let nanos = ["1769860800000000001", "1769860800000000000"];
        assert_eq!(sorted(&nanos), [1, 0]);
        let times = ["2026-01-31T12:00:00+01:00", "2026-01-31T10:59:59.999Z"];
        assert_eq!(sorted(&times), [1, 0]);
    }

    #[test]
    fn what_is_shorter_than_a_millisecond_is_in_order_too() {
        let times = [
            "2026-01-31T12:00:00.000300Z",
            "2026-01-31T12:00:00.000100002Z",
            "2026-01-31T12:00:00.000100001Z",
            "2026-01-31T13:00:00.0002+01:00",
        ];
        assert_eq!(sorted(&times), [2, 1, 3, 0]);
        let seconds = [
            "1769860800.000000300",
            "1769860800.000000100",
            "1769860800.0000002",
            "+1769860800",
        ];
        assert_eq!(sorted(&seconds), [3, 1, 2, 0]);
    }

    #[test]
    fn of_equal_rows_the_lower_one_came_first_where_the_file_has_the_newest_first() {
        assert_eq!(sorted(&["3", "2", "2", "1"]), [3, 2, 1, 0]);
        // Each key for itself, whatever the others do.
        let by_key = [
            ("a", "2"),
            ("a", "1"),
            ("a", "1"),
            ("b", "3"),
            ("b", "1"),
            ("c", "9"),
        ];
        assert_eq!(turns(&by_key), (vec![4, 2, 1, 0, 3, 5], true));
        let oldest_first = [("a", "1"), ("a", "1"), ("b", "1"), ("a", "2")];
        assert_eq!(turns(&oldest_first), (vec![0, 1, 2, 3], false));
        let all_equal = [("a", "1"), ("a", "1")];
        assert_eq!(turns(&all_equal), (vec![0, 1], false));
        let mixed = [("a", "2"), ("a", "1"), ("a", "1"), ("a", "3")];
        assert_eq!(turns(&mixed), (vec![1, 2, 0, 3], false));
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for (cell, class) in [
            ("", "missing_field"),
            ("soon", "bad_time"),
            ("NaN", "bad_time"),
            (".", "bad_time"),
            ("-", "bad_time"),
            ("1.2.3", "bad_time"),
        ] {
            assert_eq!(read("at", cell).unwrap_err().class(), class, "{cell:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_in_the_order_of_numbers(one: f64, other: f64) {
            prop_assume!(one.is_finite() && other.is_finite());
            let cells = [format!("{one}"), format!("{other:e}")];
            let expected = if other < one { [1, 0] } else { [0, 1] };
            prop_assert_eq!(sorted(&[&cells[0], &cells[1]]), expected);
        }

        #[test]
        fn whole_numbers_are_exact(number: i64) {
            prop_assert_eq!(read("at", &number.to_string()).unwrap().place, Arrived::at_ms(number));
            prop_assert_eq!(Arrived::at_ms(number).rounded(), number as f64);
        }
    }
}
