//! How far something long is, on standard error: one kind of meter for each thing that takes long.

mod letters;
mod sending;
mod training;

use std::time::{Duration, Instant};

pub use letters::Letters;
pub use sending::{Counts, EVERY, Sending};
pub use training::Training;

/// When the next line is due where lines are all there is to show.
#[derive(Debug)]
struct Lines {
    every: Duration,
    next: Instant,
}

impl Lines {
    fn every(every: Duration) -> Self {
        Lines {
            every,
            next: Instant::now() + every,
        }
    }

    /// Whether it is time; then the next one is due one interval from now.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }
}
