//! The order in which rows came, by a column of it: times, or numbers.

use crate::invalid::{Invalid, InvalidKind};
use crate::quote::quote;
use crate::time::parse_rfc3339;

/// When a row came, as its cell says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrived {
    /// A whole number, or a time's milliseconds.
    Whole(i64),
    Number(f64),
}

pub(super) fn read(column: &str, cell: &str) -> Result<Arrived, Invalid> {
    const FIX: &str = "write a number, or a time as in 2026-01-31T12:00:00Z: rows are replayed in the order of this column";
    if let Ok(whole) = cell.parse() {
        return Ok(Arrived::Whole(whole));
    }
    match cell.parse::<f64>() {
        Ok(number) if number.is_finite() => return Ok(Arrived::Number(number)),
        _ => {}
    }
    match parse_rfc3339(column, cell) {
        Ok(time_ms) => Ok(Arrived::Whole(time_ms)),
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

/// Puts rows into the order in which they came; equal ones stay as they are.
pub(super) fn sort(order: &mut [usize], arrived: &[Arrived]) {
    let whole = |it: &Arrived| match it {
        Arrived::Whole(whole) => Some(*whole),
        Arrived::Number(_) => None,
    };
    // Whole numbers beyond 2^53, such as nanoseconds, are not all numbers with a point.
    match arrived.iter().map(whole).collect::<Option<Vec<i64>>>() {
        Some(whole) => order.sort_by_key(|at| whole[*at]),
        None => {
            let number = |at: usize| match arrived[at] {
                Arrived::Whole(whole) => whole as f64,
                Arrived::Number(number) => number,
            };
            order.sort_by(|one, other| number(*one).total_cmp(&number(*other)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(cells: &[&str]) -> Vec<usize> {
        let arrived: Vec<Arrived> = cells.iter().map(|it| read("at", it).unwrap()).collect();
        let mut order: Vec<usize> = (0..cells.len()).collect();
        sort(&mut order, &arrived);
        order
    }

    #[test]
    fn rows_are_sorted_by_times_and_numbers_of_any_size_and_stay_where_they_are_equal() {
        assert_eq!(sorted(&["3", "1", "2", "1"]), [1, 3, 2, 0]);
        assert_eq!(sorted(&["2.5", "-1", "2"]), [1, 2, 0]);
        let nanos = ["1769860800000000001", "1769860800000000000"];
        assert_eq!(sorted(&nanos), [1, 0]);
        let times = ["2026-01-31T12:00:00+01:00", "2026-01-31T10:59:59.999Z"];
        assert_eq!(sorted(&times), [1, 0]);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let class = |cell| read("at", cell).unwrap_err().class();
        assert_eq!(
            ["", "soon", "NaN"].map(class),
            ["missing_field", "bad_time", "bad_time"]
        );
    }
}
