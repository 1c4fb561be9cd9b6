//! Between the messages of `quadrille.v1` and [`Prediction`].

use prost_types::Timestamp;
use quadrille_proto::v1;

use crate::prediction::{Error, Prediction};

impl Prediction {
    /// `headline` picks the number that stands for all outputs.
    ///
    /// # Errors
    /// What a database could not hold.
    pub(crate) fn of(
        message: v1::Prediction,
        headline: impl FnOnce(&[f64]) -> f64,
    ) -> Result<Self, Error> {
        if message.outputs.is_empty() {
            return Err(Error::NoOutput);
        }
        let prediction = Prediction {
            probability: headline(&message.outputs),
            outputs: message.outputs,
            id: message.id,
            key: message.key,
            event_time_ms: message.event_time_ms,
            decision: message.decision,
            model: message.model,
            version: message.version,
            variant: message.variant,
            config_hash: message.config_hash,
            input_topic: message.input_topic,
            input_partition: message.input_partition,
            input_offset: message.input_offset,
            predicted_at_ms: message.predicted_at_ms,
        };
        prediction.check()?;
        Ok(prediction)
    }
}

impl From<Prediction> for v1::StoredPrediction {
    fn from(stored: Prediction) -> Self {
        v1::StoredPrediction {
            id: stored.id,
            key: stored.key,
            probability: stored.probability,
            decision: stored.decision,
            model: stored.model,
            version: stored.version,
            variant: stored.variant,
            event_time: Some(timestamp(stored.event_time_ms)),
            predicted_at: Some(timestamp(stored.predicted_at_ms)),
            config_hash: stored.config_hash,
            input_topic: stored.input_topic,
            input_partition: stored.input_partition,
            input_offset: stored.input_offset,
            shadow: false,
            outputs: stored.outputs,
        }
    }
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp {
        seconds: ms.div_euclid(1000),
        // 0 to 999,000,000.
        nanos: ms.rem_euclid(1000) as i32 * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::Prediction {
        v1::Prediction {
            id: "r-1".into(),
            outputs: vec![0.5],
            ..v1::Prediction::default()
        }
    }

    #[test]
    fn a_prediction_that_no_database_could_hold_is_refused_with_the_reason() {
        let refused = |change: fn(&mut v1::Prediction)| {
            let mut message = message();
            change(&mut message);
            Prediction::of(message, |outputs| outputs[0])
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(|m| m.id.clear()).contains("no id"));
        assert!(refused(|m| m.outputs.clear()).contains("no output"));
        assert!(refused(|m| m.outputs = vec![f64::NAN]).contains("NaN"));
        // Not only the one that stands for all.
        assert!(refused(|m| m.outputs.push(f64::INFINITY)).contains("inf"));
        assert!(refused(|m| m.id = "x".repeat(1025)).contains("id has 1025 bytes"));
        assert!(refused(|m| m.key = "a\0b".into()).contains("key holds a NUL"));
        assert!(refused(|m| m.event_time_ms = i64::MAX).contains("event_time"));
        assert!(refused(|m| m.predicted_at_ms = i64::MIN).contains("predicted_at"));
    }

    #[test]
    fn times_before_1970_keep_their_milliseconds() {
        assert_eq!(
            timestamp(-1),
            Timestamp {
                seconds: -1,
                nanos: 999_000_000
            }
        );
        assert_eq!(
            timestamp(1_001),
            Timestamp {
                seconds: 1,
                nanos: 1_000_000
            }
        );
    }
}
