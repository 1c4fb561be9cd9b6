//! Features that look back, and the state they need: `[state]` and the kinds of `[[features]]` that see earlier records.

use serde::{Serialize, Serializer};

use super::as_duration;
use crate::time::duration_text;

/// Events of a key that are kept at most, unless the file says otherwise.
pub(crate) const EVENTS_MAX_DEFAULT: u32 = 10_000;

/// `[state]`: what is kept of a key's records, and which of them emit a vector.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StateSpec {
    #[serde(rename = "lateness", serialize_with = "as_duration")]
    pub lateness_ms: i64,
    pub late: Late,
    #[serde(
        rename = "forget_after",
        serialize_with = "as_optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub forget_after_ms: Option<i64>,
    pub events_max: u32,
    /// Which records emit a vector; all, where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emit: Option<FilterSpec>,
    /// The records after which nothing before them is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<FilterSpec>,
}

/// What becomes of a record that comes later than `lateness` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It ends as a dead letter.
    DeadLetter,
    /// It is counted and passed over.
    Absorb,
}

/// A field's value is one of a few.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FilterSpec {
    pub field: String,
    pub is: Vec<Wanted>,
}

/// A value that a filter asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(crate) enum Wanted {
    /// Of a boolean.
    Truth(bool),
    /// Of a category.
    Category(String),
}

/// A feature that looks back over the records of its key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LookBack {
    #[serde(flatten)]
    pub function: Function,
    /// The field that it is computed over; a few functions need none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(flatten)]
    pub window: Window,
    #[serde(rename = "current", skip_serializing_if = "Current::is_seen")]
    pub current: Current,
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterSpec>,
}

/// What is computed of the events seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Function {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Median,
    #[serde(rename = "stddev")]
    StdDev,
    Rate {
        #[serde(rename = "per", serialize_with = "as_duration")]
        per_ms: i64,
    },
    Ewma {
        #[serde(rename = "half_life", serialize_with = "as_duration")]
        half_life_ms: i64,
    },
    Last,
    Lag {
        n: u32,
    },
    TimeSince,
    Distinct,
}

impl Function {
    /// As the file has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Function::Count => "count",
            Function::Sum => "sum",
            Function::Mean => "mean",
            Function::Min => "min",
            Function::Max => "max",
            Function::Median => "median",
            Function::StdDev => "stddev",
            Function::Rate { .. } => "rate",
            Function::Ewma { .. } => "ewma",
            Function::Last => "last",
            Function::Lag { .. } => "lag",
            Function::TimeSince => "time_since",
            Function::Distinct => "distinct",
        }
    }
}

/// The events that are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Window {
    Newest {
        newest: u32,
    },
    /// By their age: at least `from`, less than `to`.
    Time {
        #[serde(rename = "from", serialize_with = "as_duration")]
        from_ms: i64,
        #[serde(rename = "to", serialize_with = "as_duration")]
        to_ms: i64,
    },
    All {},
}

/// Whether a feature sees the record that it is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    Seen,
    Excluded,
}

impl Current {
    fn is_seen(&self) -> bool {
        *self == Current::Seen
    }
}

impl Serialize for Current {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.is_seen())
    }
}

fn as_optional_duration<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match ms {
        Some(ms) => serializer.serialize_str(&duration_text(*ms)),
        None => serializer.serialize_none(),
    }
}
