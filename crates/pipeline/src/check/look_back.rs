//! Features that see the records before: their field, window and filter.

use toml::de::DeValue;

use super::duration;
use super::sources::{Sources, Wants};
use super::state::{State, filter, positive, whole};
use crate::error::Error;
use crate::keys::EVENTS_MAX_MAX;
use crate::spec::{Current, FilterSpec, Function, LookBack, RecordSpec, Window};
use crate::table::{At, Table};
use crate::time::duration_text;

pub(super) fn read(
    table: &mut Table<'_>,
    kind: &str,
    sources: &Sources<'_>,
    state: Option<&State<'_>>,
) -> Result<LookBack, Error> {
    let Some(state) = state else {
        let reason = format!("{kind} looks back, and the file has no [state]");
        let fix = "add `[state]`, which says how long records of a key are waited for and kept; empty, it has its defaults";
        return Err(table.spot.error(reason, fix));
    };
    let wants = match kind {
        "sum" | "mean" | "min" | "max" | "median" | "stddev" | "ewma" => Wants::Number,
        _ => Wants::One,
    };
    let field = match kind {
        "count" | "rate" | "time_since" => sources.field_if_there(table, kind, wants)?,
        _ => Some(sources.field(table, kind, wants)?),
    };
    let window = window(table, kind, state)?;
    let function = function(table, kind, state)?;
    let current = table.take("current").map(At::boolean).transpose()?;
    Ok(LookBack {
        function,
        field,
        window,
        current: match current {
            Some(false) => Current::Excluded,
            Some(true) | None => Current::Seen,
        },
        filter: condition(table, sources.record)?,
    })
}

fn condition(table: &mut Table<'_>, record: &RecordSpec) -> Result<Option<FilterSpec>, Error> {
    (table.take("where"))
        .map(|it| filter(it, record))
        .transpose()
}

fn function(table: &mut Table<'_>, kind: &str, state: &State<'_>) -> Result<Function, Error> {
    Ok(match kind {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "mean" => Function::Mean,
        "min" => Function::Min,
        "max" => Function::Max,
        "median" => Function::Median,
        "stddev" => Function::StdDev,
        "rate" => Function::Rate {
            per_ms: positive(table.need("per", "per = \"1h\"")?)?,
        },
        "ewma" => Function::Ewma {
            half_life_ms: positive(table.need("half_life", "half_life = \"30d\"")?)?,
        },
        "last" => Function::Last,
        "lag" => Function::Lag {
            n: lag(table, state)?,
        },
        "time_since" => Function::TimeSince,
        _ => Function::Distinct,
    })
}

fn lag(table: &mut Table<'_>, state: &State<'_>) -> Result<u32, Error> {
    match table.take("n") {
        Some(n) => kept(n, state),
        None => Ok(1),
    }
}

/// A number of events that a key's history holds.
fn kept<'a>(value: At<'a, DeValue<'a>>, state: &State<'_>) -> Result<u32, Error> {
    let spot = value.spot.clone();
    let number = whole(value, EVENTS_MAX_MAX)?;
    let max = state.spec.events_max;
    if number >= max {
        let reason = format!("{number} records are not kept: state.events_max is {max}");
        return Err(spot.error(reason, "raise events_max, or ask for fewer"));
    }
    Ok(number)
}

fn window(table: &mut Table<'_>, kind: &str, state: &State<'_>) -> Result<Window, Error> {
    let from = table.take("from");
    let to = match kind {
        "rate" => Some(table.need("to", "to = \"1h\"")?),
        _ => table.take("to"),
    };
    let newest = table.take("newest");
    match (from, to, newest) {
        (None, None, None) if matches!(kind, "median" | "distinct") => {
            let reason = format!("{kind} over all history would have to keep all of it");
            let fix = "bound the window: add `to = \"30d\"` or `newest = 100`";
            Err(table.spot.error(reason, fix))
        }
        (None, None, None) => Ok(Window::All {}),
        (None, None, Some(newest)) => Ok(Window::Newest {
            newest: kept(newest, state)?,
        }),
        (_, _, Some(newest)) => {
            let fix = "keep newest, or from and to";
            Err(newest
                .spot
                .error("is a second window beside from and to", fix))
        }
        (Some(from), None, None) => {
            let fix = "add `to`, the age at which the window ends, as in `to = \"7d\"`";
            Err(from.spot.error("opens a window that has no end", fix))
        }
        (from, Some(to), None) => {
            let from_ms = from.map(duration).transpose()?.unwrap_or_default();
            let spot = to.spot.clone();
            let to_ms = positive(to)?;
            if to_ms <= from_ms {
                let reason = format!(
                    "{} is not more than from ({})",
                    duration_text(to_ms),
                    duration_text(from_ms)
                );
                let fix = "the window is of records older than from and younger than to: swap or widen them";
                return Err(spot.error(reason, fix));
            }
            if let (Some(forget), Some(after_ms)) = (&state.forget, state.spec.forget_after_ms)
                && after_ms < to_ms.saturating_add(state.spec.lateness_ms)
            {
                let reason = format!(
                    "is shorter than the window of {}, {}, and lateness together",
                    table.spot.path,
                    duration_text(to_ms)
                );
                let fix = "a key would be forgotten while a record that comes late has others in its window: forget later";
                return Err(forget.error(reason, fix));
            }
            Ok(Window::Time { from_ms, to_ms })
        }
    }
}
