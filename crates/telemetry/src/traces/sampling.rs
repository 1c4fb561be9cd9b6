//! The sampler: `OTEL_TRACES_SAMPLER`.

use opentelemetry::TraceId;

/// The sampler for traces without a decision yet, as `OTEL_TRACES_SAMPLER` names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the parent's decision is followed.
    pub(super) parent_based: bool,
    /// The share of traces that begin here to sample, 0 to 1.
    pub(super) ratio: f64,
}

impl Sampling {
    /// # Errors
    /// Names the setting and what it may be.
    pub fn parse(sampler: &str, argument: &str) -> Result<Self, String> {
        let ratio = || match argument.trim() {
            "" => Ok(1.0),
            text => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(format!(
                    "OTEL_TRACES_SAMPLER_ARG is {text:?}; it must be a number from 0 to 1"
                )),
            },
        };
        let (parent_based, ratio) = match sampler.trim() {
            "" | "parentbased_always_on" => (true, 1.0),
            "parentbased_always_off" => (true, 0.0),
            "parentbased_traceidratio" => (true, ratio()?),
            "always_on" => (false, 1.0),
            "always_off" => (false, 0.0),
            "traceidratio" => (false, ratio()?),
            other => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is {other:?}; it must be always_on, always_off, traceidratio or one of \
                     these after parentbased_"
                ));
            }
        };
        Ok(Sampling {
            parent_based,
            ratio,
        })
    }

    /// Whether a trace of this id that begins here is sampled: the same everywhere, as the ratio samplers of
    /// OpenTelemetry decide by the id's last bytes.
    pub(super) fn takes(&self, trace: TraceId) -> bool {
        let bytes = trace.to_bytes();
        let mut last = [0; 8];
        last.copy_from_slice(&bytes[8..]);
        let place = (u64::from_be_bytes(last) >> 1) as f64 / (1u64 << 63) as f64;
        place < self.ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_read_as_opentelemetry_names_them() {
        let ratio = |sampler, argument| Sampling::parse(sampler, argument).unwrap().ratio;
        assert_eq!(ratio("", ""), 1.0);
        assert_eq!(ratio("parentbased_traceidratio", "0.25"), 0.25);
        assert_eq!(ratio("always_off", ""), 0.0);
        let wrong = Sampling::parse("traceidratio", "2").unwrap_err();
        assert!(wrong.contains("OTEL_TRACES_SAMPLER_ARG"), "{wrong}");
        let wrong = Sampling::parse("sometimes", "").unwrap_err();
        assert!(wrong.contains("OTEL_TRACES_SAMPLER"), "{wrong}");
    }
}
