//! A prediction as it is stored: no SQL, no protocol, no Kafka.

use jiff::Timestamp;

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
pub enum Error {
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
    pub fn check(&self) -> Result<(), Error> {
        if self.id.is_empty() {
            return Err(Error::NoId);
        }
        let numbers = self.outputs.iter().chain([&self.probability]);
        if let Some(value) = numbers.copied().find(|it| !it.is_finite()) {
            return Err(Error::NotFinite { value });
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
                return Err(Error::TooLong {
                    field,
                    bytes: text.len(),
                    bytes_max,
                });
            }
            if text.contains('\0') {
                return Err(Error::Nul { field });
            }
        }
        for (field, ms) in [
            ("event_time", self.event_time_ms),
            ("predicted_at", self.predicted_at_ms),
        ] {
            if !(TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) {
                return Err(Error::Time { field, ms });
            }
        }
        Ok(())
    }
}

/// Which routes predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// The routes that answer: one prediction per id.
    #[default]
    Live,
    /// Shadow routes, which score everything and answer nothing: one prediction per id and variant.
    Shadow,
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
    fn the_whole_range_of_times_can_be_written() {
        assert_eq!(rfc3339(TIME_MS_MIN), "0001-01-01T00:00:00.000Z");
        assert!(rfc3339(TIME_MS_MAX).starts_with("9999-12-30T"));
        assert_eq!(rfc3339(1_700_000_000_001), "2023-11-14T22:13:20.001Z");
    }
}
