//! What is stored and what may be asked of it: no SQL, no protocol, no Kafka.

use jiff::Timestamp;
use quadrille_pipeline::quote::quote;

/// The longest id and the longest key, in bytes. An index entry of PostgreSQL holds pipeline, key,
/// time and id, and must stay under 2,704 bytes; a longer one would fail its whole batch for ever.
pub const ID_BYTES_MAX: usize = 1024;
/// The longest of the other texts, in bytes; topic names end at 249.
pub const NAME_BYTES_MAX: usize = 255;

/// Event times are in the years 1 to 9999, as in protobuf's `Timestamp`, in milliseconds.
const TIME_MS_MIN: i64 = -62_135_596_800_000;
const TIME_MS_MAX: i64 = 253_402_207_200_000;

/// One prediction as it is stored.
///
/// Made from a message by [`Prediction::of`], which refuses what a database cannot hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Unique in its pipeline.
    pub id: String,
    /// The entity it is about.
    pub key: String,
    pub event_time_ms: i64,
    /// Of the positive class, or of the one decided for; for a regression the first value.
    pub probability: f64,
    /// All of the model's, in its order.
    pub outputs: Vec<f64>,
    pub decision: String,
    pub model: String,
    pub version: String,
    /// The route that answered; empty before routes had names.
    pub variant: String,
    pub config_hash: Vec<u8>,
    /// Where the scored feature vector lies.
    pub input_topic: String,
    pub input_partition: i32,
    pub input_offset: i64,
    pub predicted_at_ms: i64,
}

/// Why a prediction cannot be stored, now or later: a reason to dead-letter it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Invalid {
    #[error("the prediction has no id")]
    NoId,
    #[error("the prediction has no output")]
    NoOutput,
    #[error("the output is {value}: only a finite number can be stored")]
    NotFinite { value: f64 },
    #[error("{field} has {bytes} bytes, more than the {bytes_max} that can be indexed")]
    TooLong {
        field: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    #[error("{field} holds a NUL character, which PostgreSQL cannot store")]
    Nul { field: &'static str },
    #[error("{field} of {ms} ms since 1970 is outside the years 1 to 9999")]
    Time { field: &'static str, ms: i64 },
}

impl Prediction {
    /// Whether both databases can hold it.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.id.is_empty() {
            return Err(Invalid::NoId);
        }
        let numbers = self.outputs.iter().chain([&self.probability]);
        if let Some(value) = numbers.copied().find(|it| !it.is_finite()) {
            return Err(Invalid::NotFinite { value });
        }
        for (field, text, bytes_max) in [
            ("id", &self.id, ID_BYTES_MAX),
            ("key", &self.key, ID_BYTES_MAX),
            ("decision", &self.decision, NAME_BYTES_MAX),
            ("model", &self.model, NAME_BYTES_MAX),
            ("version", &self.version, NAME_BYTES_MAX),
            ("variant", &self.variant, NAME_BYTES_MAX),
            ("input_topic", &self.input_topic, NAME_BYTES_MAX),
        ] {
            if text.len() > bytes_max {
                return Err(Invalid::TooLong {
                    field,
                    bytes: text.len(),
                    bytes_max,
                });
            }
            if text.contains('\0') {
                return Err(Invalid::Nul { field });
            }
        }
        for (field, ms) in [
            ("event_time", self.event_time_ms),
            ("predicted_at", self.predicted_at_ms),
        ] {
            if !(TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) {
                return Err(Invalid::Time { field, ms });
            }
        }
        Ok(())
    }

    pub fn position(&self, kind: Kind) -> Position {
        Position {
            event_time_ms: self.event_time_ms,
            id: self.id.clone(),
            variant: match kind {
                Kind::Live => String::new(),
                Kind::Shadow => self.variant.clone(),
            },
        }
    }
}

/// How many predictions a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(u16);

impl Limit {
    pub const MAX: u16 = 1000;

    pub fn new(limit: i64) -> Result<Self, BadRequest> {
        match u16::try_from(limit) {
            Ok(limit @ 1..=Self::MAX) => Ok(Limit(limit)),
            _ => Err(BadRequest::Limit {
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

/// The place of a prediction in its pipeline's order, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub event_time_ms: i64,
    pub id: String,
    /// Of shadows, which predict an id each; else empty.
    pub variant: String,
}

/// Whose predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Of the routes that answer: one an id.
    #[default]
    Live,
    /// Of the routes that score everything and answer nothing: one an id and variant.
    Shadow,
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
    pub kind: Kind,
    pub limit: Limit,
    /// Where the page before ended.
    pub after: Option<Position>,
}

impl Filter {
    pub fn check(&self) -> Result<(), BadRequest> {
        for (field, text) in [("key", &self.key), ("decision", &self.decision)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(BadRequest::Nul { field });
            }
        }
        match (self.from_ms, self.to_ms) {
            (Some(from), Some(to)) if from >= to => Err(BadRequest::EmptyRange),
            _ => Ok(()),
        }
    }
}

/// One page, newest event time first, then by descending id, and variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub predictions: Vec<Prediction>,
    /// Where the next page starts, if there is one.
    pub next: Option<Position>,
}

impl Page {
    /// From up to one row more than the limit, which only says that there is a next page.
    pub fn of(mut predictions: Vec<Prediction>, filter: &Filter) -> Self {
        let limit = filter.limit.get();
        let more = predictions.len() > limit;
        predictions.truncate(limit);
        let next = if more {
            predictions.last().map(|last| last.position(filter.kind))
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

/// A question that cannot be answered as it is; says which field to change and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
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

/// Milliseconds since 1970 as RFC 3339, in UTC.
pub fn rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        // Not reachable for a checked prediction; a number says more than nothing.
        Err(_) => ms.to_string(),
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
    fn the_whole_range_of_times_can_be_written() {
        assert_eq!(rfc3339(TIME_MS_MIN), "0001-01-01T00:00:00.000Z");
        assert!(rfc3339(TIME_MS_MAX).starts_with("9999-12-30T"));
        assert_eq!(rfc3339(1_700_000_000_001), "2023-11-14T22:13:20.001Z");
    }

    #[test]
    fn limits_are_1_to_1000() {
        assert!(Limit::new(1).is_ok() && Limit::new(1000).is_ok());
        for wrong in [0, -1, 1001, i64::MAX] {
            assert_eq!(
                Limit::new(wrong),
                Err(BadRequest::Limit {
                    given: wrong.to_string()
                })
            );
        }
    }
}
