//! What may happen for each request and is logged at most once a second, with how often it happened: a storm of questions
//! must not become one of lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const TOLD_EVERY: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug)]
pub(crate) struct Told(Mutex<State>);

#[derive(Debug)]
struct State {
    untold: u64,
    told_at: Option<Instant>,
}

impl Told {
    pub const fn new() -> Self {
        Told(Mutex::new(State {
            untold: 0,
            told_at: None,
        }))
    }

    /// It happened once more; how often since the last line, where it is time for another one.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        let since = state
            .told_at
            .map(|told| now.saturating_duration_since(told));
        since.is_none_or(|it| it >= TOLD_EVERY).then(|| {
            state.told_at = Some(now);
            std::mem::take(&mut state.untold)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_told_once_a_second_with_its_count() {
        let (told, now) = (Told::new(), Instant::now());
        let at = |ms| told.due(now + Duration::from_millis(ms));
        let lines: Vec<_> = [0, 1, 500, 999, 1_000, 1_001, 9_000].map(at).into();
        let expected = [Some(1), None, None, None, Some(4), None, Some(2)];
        assert_eq!(lines, expected);
    }
}
