//! The slowest average rate at which a body may arrive, or a response be read.

use std::time::Duration;

/// After a time to begin: 8 MiB take 17 minutes then.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 8 << 10;

/// How long `bytes` may take at this rate, including the time to begin.
pub(super) fn allowed(bytes: u64, begin: Duration, bytes_per_second: u64) -> Duration {
    begin.saturating_add(Duration::from_millis(
        bytes.saturating_mul(1_000) / bytes_per_second,
    ))
}
