//! A lane that waits for its pieces.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::engine::batch::pending::{Answer, Pending};

/// How long it waits before it looks whether the queue moves, and shows that it lives if so.
pub(super) const WAKES_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Lane<'a> {
    /// Batches that have been scored.
    pub(super) scored: &'a AtomicU64,
    /// Batches that had been scored when it showed last that it lives.
    pub(super) seen: u64,
    pub(super) alive: &'a mut dyn FnMut(),
}

impl Lane<'_> {
    /// Shows that it lives if the queue moves. One whose threads stand still is for who watches the lanes.
    pub(super) fn looks(&mut self) {
        let scored = self.scored.load(Ordering::Relaxed);
        if self.seen != scored {
            self.seen = scored;
            (self.alive)();
        }
    }

    pub(super) fn take(&mut self, mut answer: Pending) -> Answer {
        loop {
            match answer.wait(Instant::now() + WAKES_EVERY) {
                Some(answer) => return answer,
                None => self.looks(),
            }
        }
    }
}
