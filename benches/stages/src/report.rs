//! Measuring a round, and the statistics and tables of many.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{broker::Broker, process};

/// A running measurement of this process.
///
/// Wall time counts from the first record handled; CPU time from before the clients were made, so
/// that what they fetched ahead is counted.
pub struct Meter {
    first: OnceLock<Instant>,
    cpu: Duration,
    broker_cpu: Option<Duration>,
}

impl Meter {
    pub fn start(broker: &Broker) -> anyhow::Result<Self> {
        Ok(Meter {
            first: OnceLock::new(),
            cpu: process::cpu_of(std::process::id())?,
            broker_cpu: broker.cpu(),
        })
    }

    /// To be called before each batch; the first call counts.
    pub fn first_record(&self) {
        self.first.get_or_init(Instant::now);
    }

    /// To be called when all is committed.
    pub fn finish(&self, broker: &Broker, records: u64) -> anyhow::Result<Measured> {
        let first = self.first.get().context("no record was handled")?;
        let seconds = first.elapsed().as_secs_f64();
        let millions = records as f64 / 1e6;
        let cpu = process::cpu_of(std::process::id())?.saturating_sub(self.cpu);
        let broker_cpu = broker.cpu().zip(self.broker_cpu);
        Ok(Measured {
            per_second: records as f64 / seconds,
            cpu_per_million: cpu.as_secs_f64() / millions,
            broker_per_million: broker_cpu
                .map(|(now, then)| now.saturating_sub(then).as_secs_f64() / millions),
        })
    }
}

/// One round of one contender.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub per_second: f64,
    /// CPU seconds.
    pub cpu_per_million: f64,
    /// CPU seconds of the broker, where it runs here.
    pub broker_per_million: Option<f64>,
}

/// The middle value; of an even number the mean of the two in the middle. NaN of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The value that `share` of the sorted ones do not exceed: nearest rank, no interpolation.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// The broker's CPU seconds per million, the median of rounds; a dash where it runs elsewhere.
pub fn broker_text(measured: &[Measured]) -> String {
    let values: Vec<f64> = measured
        .iter()
        .filter_map(|m| m.broker_per_million)
        .collect();
    match values.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.2}", median(values)),
    }
}

/// "met" or "missed", for the last column.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=1_000).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(500));
        assert_eq!(percentile(&sorted, 0.999), Duration::from_millis(999));
        assert_eq!(percentile(&sorted, 1.0), Duration::from_millis(1_000));
        assert_eq!(percentile(&sorted[..1], 0.99), Duration::from_millis(1));
    }
}
