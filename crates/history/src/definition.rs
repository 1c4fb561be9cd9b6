//! What is kept of a key and what is computed from it.

mod check;
mod fingerprint;
pub(crate) mod plan;

pub use crate::definition::check::Error;
use crate::{
    codec,
    definition::{check::check, fingerprint::fingerprint, plan::Plan},
};

/// Half of what Kafka takes in one message unless it is told otherwise.
const ROW_BYTES_MAX: usize = 512 << 10;

/// What a [`Definition`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Values that each event has.
    pub columns: usize,
    /// A look gives one number for each, in this order.
    pub aggregates: Vec<Aggregate>,
    /// An event may be as much older than the key's newest; one that is even older is [`Pushed::Late`](crate::Pushed::Late).
    pub lateness_ms: i64,
    /// A key whose newest event is this much older than the pushed one starts empty.
    pub forget_after_ms: Option<i64>,
    /// Events that a key may have within reach of its windows and of lateness; one more is [`Pushed::Full`](crate::Pushed::Full).
    pub events_max: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    pub function: Function,
    /// Of the values, by index. An event whose value is missing does not count. None only for functions of events: count, rate
    /// and time since.
    pub column: Option<usize>,
    pub window: Window,
    /// Only these events count.
    pub filter: Option<Filter>,
    pub current: Current,
}

/// What is computed over the events of a window. Over none of them, count, distinct, rate and sum are 0 and the others NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    Count,
    /// Exact, rounded once, whatever the order of the events. Here and in mean, standard deviation and EWMA, a value beyond
    /// ±1e150 counts as missing: its square could overflow.
    Sum,
    /// The sum, rounded, divided by the number of values.
    Mean,
    Min,
    Max,
    /// Exact; of an even number, the mean of the two in the middle. Its window is bounded.
    Median,
    /// Of the sample (n − 1), from exact sums; NaN of fewer than two. Squares of values closer to 0 than 1e-140 lose precision.
    StdDev,
    /// Events per `per_ms`, of a window of time.
    Rate {
        per_ms: i64,
    },
    /// The mean of all history, each value weighing half as much as one that is `half_life_ms` newer.
    Ewma {
        half_life_ms: i64,
    },
    Last,
    /// The n-th newest before the newest.
    Lag(u32),
    /// Seconds from the newest event before the current one to the look.
    TimeSince,
    /// Different values. Its window is bounded.
    Distinct,
}

/// Which events are seen, from the place of the look backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    All,
    /// The newest n that count.
    Newest(u32),
    /// Those whose age is at least `from_ms` and below `to_ms`.
    Time {
        from_ms: i64,
        to_ms: i64,
    },
}

/// A column equals one of these values.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    pub column: usize,
    pub values: Vec<f64>,
}

/// Whether the event that is looked at counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Current {
    Seen,
    Excluded,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Definition {
    settings: Settings,
    plan: Plan,
    fingerprint: [u8; 8],
}

impl Definition {
    pub fn new(settings: Settings) -> Result<Self, Error> {
        check(&settings)?;
        let plan = Plan::new(&settings);
        let bytes = codec::row_bytes_max(&settings, &plan);
        if bytes > ROW_BYTES_MAX {
            return Err(Error::Row {
                bytes,
                max: ROW_BYTES_MAX,
            });
        }
        Ok(Definition {
            fingerprint: fingerprint(&settings),
            plan,
            settings,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Of the settings and of the rows' format: rows of another one say nothing here.
    pub fn fingerprint(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// No row of a key is longer.
    pub fn row_bytes_max(&self) -> usize {
        codec::row_bytes_max(&self.settings, &self.plan)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether a key whose newest event is at `newest_ms` is empty at `time_ms`.
    pub(crate) fn forgets(&self, newest_ms: i64, time_ms: i64) -> bool {
        let after = self.settings.forget_after_ms;
        after.is_some_and(|after_ms| time_ms.saturating_sub(newest_ms) >= after_ms)
    }
}
