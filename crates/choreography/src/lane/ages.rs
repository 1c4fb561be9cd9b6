//! How old the records of a batch are when it is committed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Incoming;

/// How long ago the records of a batch were produced.
pub(super) struct Ages {
    pub oldest: Option<Duration>,
    /// Records older than the objective.
    pub late: usize,
}

impl Ages {
    pub fn of(incoming: &[Incoming<'_>], objective: Option<Duration>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        let in_time = objective.map_or(i64::MIN, |objective| now - objective.as_millis() as i64);
        let (mut oldest, mut late) = (i64::MAX, 0);
        for produced in incoming.iter().filter_map(|record| record.timestamp_ms) {
            oldest = oldest.min(produced);
            late += usize::from(produced < in_time);
        }
        let oldest = (oldest != i64::MAX).then(|| now.saturating_sub(oldest).max(0));
        Ages {
            oldest: oldest.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            late,
        }
    }
}
