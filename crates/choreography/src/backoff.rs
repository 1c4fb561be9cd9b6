//! How long to wait before the next attempt: exponential, capped, jittered.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The waits of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// `first`: the longest first wait; `max`: the longest of all.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Backoff {
            first,
            max,
            attempt: 0,
        }
    }

    /// Attempts made so far.
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Counts an attempt and returns the wait before the next: random, from half to the whole of `first × 2ⁿ`, or of the maximum
    /// if that is less.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.attempt.min(16));
        self.attempt = self.attempt.saturating_add(1);
        let whole = self.first.saturating_mul(factor).min(self.max);
        // A fresh RandomState is seeded by the system: enough for jitter.
        let random = RandomState::new().hash_one(self.attempt) as u32;
        whole.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// Begins a new series, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_fall_below_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for whole_ms in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next_wait().as_millis();
            assert!(
                (whole_ms / 2..=whole_ms).contains(&wait),
                "{wait} of {whole_ms}"
            );
        }
        assert_eq!(backoff.attempts(), 7);
    }
}
