//! How much a task compresses or decompresses before it yields to others.

use std::task::{Context, Poll};

/// A millisecond or two of work.
const BUDGET_BYTES: usize = 256 << 10;

/// The work done since the task last yielded.
#[derive(Debug, Default)]
pub(super) struct Budget {
    bytes: usize,
}

impl Budget {
    pub fn spend(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Pending once the budget is spent; the task is woken at once, and runs after those that wait.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.bytes < BUDGET_BYTES {
            return Poll::Ready(());
        }
        self.bytes = 0;
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
