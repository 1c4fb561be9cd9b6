//! A handle to a request that is held back.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::lock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum State {
    #[default]
    Awaited,
    Here,
    Released,
    Answered,
}

/// Holds one request. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<(Mutex<State>, Condvar)>);

impl Held {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks until a request is held.
    #[must_use]
    pub fn came(&self, within: Duration) -> bool {
        self.reaches(State::Here, within)
    }

    /// Forwards it to the broker; also one that arrives later.
    pub fn release(&self) {
        self.advance(State::Released);
    }

    /// Blocks until the broker has answered the released request.
    #[must_use]
    pub fn is_answered(&self, within: Duration) -> bool {
        self.reaches(State::Answered, within)
    }

    pub(super) fn here(&self) {
        self.advance(State::Here);
    }

    pub(super) fn answered(&self) {
        self.advance(State::Answered);
    }

    pub(super) fn wait_released(&self) {
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        while *state < State::Released {
            state = changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn advance(&self, to: State) {
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        *state = to.max(*state);
        changed.notify_all();
    }

    fn reaches(&self, wanted: State, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        while *state < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}
