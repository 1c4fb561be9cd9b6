//! How much is compressed or decompressed before other tasks have their turn.

use std::task::{Context, Poll};

/// A millisecond or two of work.
const TURN_BYTES: usize = 256 << 10;

/// What was done in this turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    bytes: usize,
}

impl Turn {
    pub fn worked(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Pending once where enough was done; the task is called again at once, after those that wait.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.bytes < TURN_BYTES {
            return Poll::Ready(());
        }
        self.bytes = 0;
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
