//! Log lines that any request may cause, at most one per second, with how often it happened: a storm of requests must not
//! become one of lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const LOG_EVERY: Duration = Duration::from_secs(1);

/// Of one kind of line.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl LogLimit {
    pub const fn new() -> Self {
        LogLimit(Mutex::new(State {
            unlogged: 0,
            logged_at: None,
        }))
    }

    /// It happened once more; how often since the last line, where it is time for another one.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unlogged += 1;
        let since = state
            .logged_at
            .map(|logged| now.saturating_duration_since(logged));
        since.is_none_or(|it| it >= LOG_EVERY).then(|| {
            state.logged_at = Some(now);
            std::mem::take(&mut state.unlogged)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_logged_once_a_second_with_its_count() {
        let (limit, now) = (LogLimit::new(), Instant::now());
        let at = |ms| limit.due(now + Duration::from_millis(ms));
        let lines: Vec<_> = [0, 1, 500, 999, 1_000, 1_001, 9_000].map(at).into();
        let expected = [Some(1), None, None, None, Some(4), None, Some(2)];
        assert_eq!(lines, expected);
    }
}
