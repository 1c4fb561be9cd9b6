//! What may be asked of a store, and the answers: no SQL, no protocol, no Kafka.

use jiff::Timestamp;
use quadrille_pipeline::quote::{list, quote};

use crate::prediction::{Kind, Prediction};

/// How many predictions a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(u16);

impl Limit {
    pub const MAX: u16 = 1000;
    pub const ONE: Limit = Limit(1);

    pub fn new(limit: i64) -> Result<Self, Error> {
        match u16::try_from(limit) {
            Ok(limit @ 1..=Self::MAX) => Ok(Limit(limit)),
            _ => Err(Error::Limit {
                given: limit.to_string(),
            }),
        }
    }

    pub fn get(self) -> usize {
        self.0.into()
    }
}

impl Default for Limit {
    fn default() -> Self {
        Limit(100)
    }
}

/// Where a prediction stands in its pipeline's order, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub event_time_ms: i64,
    pub id: String,
    /// Of shadows, several of which may predict one id; else empty.
    pub variant: String,
}

impl Cursor {
    fn of(last: &Prediction, kind: Kind) -> Self {
        Cursor {
            event_time_ms: last.event_time_ms,
            id: last.id.clone(),
            variant: match kind {
                Kind::Live => String::new(),
                Kind::Shadow => last.variant.clone(),
            },
        }
    }
}

/// Which predictions of a pipeline to list. What is `None` does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub key: Option<String>,
    /// Inclusive.
    pub from_ms: Option<i64>,
    /// Exclusive.
    pub to_ms: Option<i64>,
    pub decision: Option<String>,
    /// No index serves it, which each prediction would pay for: of a rare variant's predictions a page is found by looking through
    /// those of a time range.
    pub variant: Option<String>,
    pub kind: Kind,
    pub limit: Limit,
    /// Where the page before ended.
    pub after: Option<Cursor>,
}

impl Filter {
    pub fn check(&self) -> Result<(), Error> {
        for (field, text) in [
            ("key", &self.key),
            ("decision", &self.decision),
            ("variant", &self.variant),
        ] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(Error::Nul { field });
            }
        }
        match (self.from_ms, self.to_ms) {
            (Some(from), Some(to)) if from >= to => Err(Error::EmptyRange),
            _ => Ok(()),
        }
    }
}

/// One page, newest event time first, then by descending id, and variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub predictions: Vec<Prediction>,
    /// Where the next page starts, if there is one.
    pub next: Option<Cursor>,
}

impl Page {
    /// From up to one row more than the limit, which only says that there is a next page.
    pub fn of(mut predictions: Vec<Prediction>, filter: &Filter) -> Self {
        let limit = filter.limit.get();
        let more = predictions.len() > limit;
        predictions.truncate(limit);
        let next = if more {
            predictions.last().map(|last| Cursor::of(last, filter.kind))
        } else {
            None
        };
        Page { predictions, next }
    }
}

/// What a pipeline has stored so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub stored: i64,
    /// Later predictions of an id that was stored already.
    pub duplicates: i64,
}

impl Count {
    /// From the one row of a sum.
    pub(crate) fn of(rows: &[(i64, i64)]) -> Self {
        let (stored, duplicates) = rows.first().copied().unwrap_or_default();
        Count { stored, duplicates }
    }
}

/// A request that cannot be answered as it is; says which field to change and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("limit must be a whole number from 1 to {max}, not {}", quote(given), max = Limit::MAX)]
    Limit { given: String },
    #[error("from must be before to (from is inclusive, to is exclusive)")]
    EmptyRange,
    #[error(
        "{field} must be a time like 2026-01-31T12:00:00Z (RFC 3339; write + as %2B in a URL), not {}",
        quote(given)
    )]
    Time { field: &'static str, given: String },
    #[error(
        "page_token is not one that was answered for this pipeline and these filters: pass \
         next_page_token unchanged and leave the filters as they were, or leave it out to start again"
    )]
    PageToken,
    #[error("unknown query parameter {}; known here: {known}", quote(name))]
    UnknownParameter { name: String, known: String },
    #[error("query parameter {} is given more than once", quote(name))]
    RepeatedParameter { name: String },
    #[error("the query string cannot be read: {reason}")]
    Query { reason: String },
    #[error("the path cannot be read: {reason}")]
    Path { reason: String },
    #[error("{field} holds a NUL character, which no stored prediction has")]
    Nul { field: &'static str },
    #[error("{field} must not be empty")]
    Empty { field: &'static str },
    #[error("no prediction of pipeline {pipeline} has the decision {}; its decisions are {}", quote(given), list(known.iter().map(String::as_str)))]
    UnknownDecision {
        pipeline: String,
        given: String,
        known: Vec<String>,
    },
    #[error("shadow must be true or false, not {}", quote(given))]
    Shadow { given: String },
}

/// The first whole millisecond that is not before `time`: event times are whole milliseconds, so
/// as a bound it lets through the same events as `time` itself.
pub fn ceil_ms(time: Timestamp) -> i64 {
    let ms = time.as_millisecond();
    // `as_millisecond` cuts towards zero: up before 1970, down after.
    if time.subsec_nanosecond() % 1_000_000 > 0 {
        ms + 1
    } else {
        ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_between_two_milliseconds_is_the_later_one_on_both_sides_of_1970() {
        for (time, ms) in [
            ("1970-01-01T00:00:00.0015Z", 2),
            ("1970-01-01T00:00:00.002Z", 2),
            ("1969-12-31T23:59:59.9985Z", -1),
            ("1969-12-31T23:59:59.998Z", -2),
        ] {
            assert_eq!(ceil_ms(time.parse().expect("a time")), ms, "{time}");
        }
    }

    #[test]
    fn limits_are_1_to_1000() {
        assert!(Limit::new(1).is_ok() && Limit::new(1000).is_ok());
        for wrong in [0, -1, 1001, i64::MAX] {
            assert_eq!(
                Limit::new(wrong),
                Err(Error::Limit {
                    given: wrong.to_string()
                })
            );
        }
    }
}
