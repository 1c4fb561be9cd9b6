//! Which settings make sense.

use crate::definition::{Aggregate, Filter, Function, Settings, Window};

/// As many as a feature vector may sensibly have of one key.
const AGGREGATES_MAX: usize = 256;
/// So that a bucket's row stays far below the limit of a row.
const COLUMNS_MAX: usize = 1024;
/// Values that one filter compares with, one after the other.
const FILTER_VALUES_MAX: usize = 64;
/// 1,000 years: sums of such durations do not overflow.
const DURATION_MS_MAX: i64 = 1000 * 366 * 86_400_000;
/// Some GB of one key: beyond it a limit has no meaning.
const EVENTS_MAX: usize = 1 << 24;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} aggregates: at most {AGGREGATES_MAX} are computed per key")]
    Aggregates(usize),
    #[error("{0} columns: at most {COLUMNS_MAX} are kept per event")]
    Columns(usize),
    #[error("aggregate {aggregate} uses column {column}, but events have {columns}")]
    NoColumn {
        aggregate: usize,
        column: usize,
        columns: usize,
    },
    #[error("aggregate {0} needs a column: only count, rate and time since work without")]
    ColumnNeeded(usize),
    #[error(
        "aggregate {0}: a window of time starts at 0 or more and ends later than it starts, within 1,000 years"
    )]
    Time(usize),
    #[error("aggregate {0}: a window of the newest 0 events is empty for ever; use 1 or more")]
    Newest(usize),
    #[error("aggregate {0}: lag 0 is the newest value; use `last`, or a lag of 1 or more")]
    Lag(usize),
    #[error(
        "aggregate {0}: median and distinct need every value, so their window is bounded: a time, or the newest n"
    )]
    Unbounded(usize),
    #[error("aggregate {0}: a rate needs a window of time")]
    Rate(usize),
    #[error(
        "aggregate {0}: an EWMA is over all history; its half-life says how long values matter"
    )]
    Ewma(usize),
    #[error(
        "aggregate {0}: a rate's unit and a half-life are longer than 0 and at most 1,000 years"
    )]
    Duration(usize),
    #[error("aggregate {0}: a filter compares with 1 to {FILTER_VALUES_MAX} finite values")]
    Filter(usize),
    #[error("lateness is {0} ms; it must be 0 or more, and at most 1,000 years")]
    Lateness(i64),
    #[error("keys are forgotten after {0} ms; it must be more than 0 and at most 1,000 years")]
    ForgetAfter(i64),
    #[error("at most {0} events are kept per key; the limit must be from 1 to {EVENTS_MAX}")]
    EventsMax(usize),
    #[error(
        "what a key keeps of its past could take {bytes} bytes in one row, more than {max}: use fewer columns or aggregates, or smaller n"
    )]
    Row { bytes: usize, max: usize },
}

impl Error {
    /// Which aggregate it is about, in the order of the settings; None if it is about them all.
    pub fn aggregate(&self) -> Option<usize> {
        match *self {
            Error::NoColumn { aggregate, .. }
            | Error::ColumnNeeded(aggregate)
            | Error::Time(aggregate)
            | Error::Newest(aggregate)
            | Error::Lag(aggregate)
            | Error::Unbounded(aggregate)
            | Error::Rate(aggregate)
            | Error::Ewma(aggregate)
            | Error::Duration(aggregate)
            | Error::Filter(aggregate) => Some(aggregate),
            Error::Aggregates(_)
            | Error::Columns(_)
            | Error::Lateness(_)
            | Error::ForgetAfter(_)
            | Error::EventsMax(_)
            | Error::Row { .. } => None,
        }
    }
}

pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    if settings.aggregates.len() > AGGREGATES_MAX {
        return Err(Error::Aggregates(settings.aggregates.len()));
    }
    if settings.columns > COLUMNS_MAX {
        return Err(Error::Columns(settings.columns));
    }
    if !(0..=DURATION_MS_MAX).contains(&settings.lateness_ms) {
        return Err(Error::Lateness(settings.lateness_ms));
    }
    if let Some(after) = settings.forget_after_ms
        && !is_duration(after)
    {
        return Err(Error::ForgetAfter(after));
    }
    if !(1..=EVENTS_MAX).contains(&settings.events_max) {
        return Err(Error::EventsMax(settings.events_max));
    }
    for (number, aggregate) in settings.aggregates.iter().enumerate() {
        check_columns(number, aggregate, settings.columns)?;
        check_window(number, aggregate)?;
        check_function(number, aggregate)?;
    }
    Ok(())
}

fn is_duration(ms: i64) -> bool {
    (1..=DURATION_MS_MAX).contains(&ms)
}

fn check_columns(number: usize, aggregate: &Aggregate, columns: usize) -> Result<(), Error> {
    let filtered = aggregate.filter.as_ref().map(|filter| filter.column);
    if let Some(column) = aggregate
        .column
        .into_iter()
        .chain(filtered)
        .find(|c| *c >= columns)
    {
        return Err(Error::NoColumn {
            aggregate: number,
            column,
            columns,
        });
    }
    match &aggregate.filter {
        Some(Filter { values, .. })
            if !(1..=FILTER_VALUES_MAX).contains(&values.len())
                || values.iter().any(|v| !v.is_finite()) =>
        {
            Err(Error::Filter(number))
        }
        _ => Ok(()),
    }
}

fn check_window(number: usize, aggregate: &Aggregate) -> Result<(), Error> {
    match aggregate.window {
        Window::Newest(0) => Err(Error::Newest(number)),
        Window::Time { from_ms, to_ms }
            if from_ms < 0 || from_ms >= to_ms || to_ms > DURATION_MS_MAX =>
        {
            Err(Error::Time(number))
        }
        _ => Ok(()),
    }
}

fn check_function(number: usize, aggregate: &Aggregate) -> Result<(), Error> {
    let needs_column = !matches!(
        aggregate.function,
        Function::Count | Function::Rate { .. } | Function::TimeSince
    );
    if needs_column && aggregate.column.is_none() {
        return Err(Error::ColumnNeeded(number));
    }
    match (aggregate.function, aggregate.window) {
        (Function::Lag(0), _) => Err(Error::Lag(number)),
        (Function::Median | Function::Distinct, Window::All) => Err(Error::Unbounded(number)),
        (Function::Rate { per_ms }, _) if !is_duration(per_ms) => Err(Error::Duration(number)),
        (Function::Ewma { half_life_ms }, _) if !is_duration(half_life_ms) => {
            Err(Error::Duration(number))
        }
        (Function::Rate { .. }, Window::All | Window::Newest(_)) => Err(Error::Rate(number)),
        (Function::Ewma { .. }, Window::Newest(_) | Window::Time { .. }) => {
            Err(Error::Ewma(number))
        }
        _ => Ok(()),
    }
}
