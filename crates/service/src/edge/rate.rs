//! How quickly a body has to come and an answer has to be taken, on average.

use std::time::Duration;

/// Once there was time to begin: 8 MiB take 17 minutes then.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 8 << 10;

/// How long so many bytes may take at this rate, after the time to begin.
pub(super) fn allowed(bytes: u64, begin: Duration, bytes_per_second: u64) -> Duration {
    begin.saturating_add(Duration::from_millis(
        bytes.saturating_mul(1_000) / bytes_per_second,
    ))
}
