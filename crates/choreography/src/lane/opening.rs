//! Partitions on their way to be opened.

use std::time::{Duration, Instant};

use super::abandoned::{Abandoned, HELD_UP_AFTER};
use crate::{Backoff, consumer::COMMITTED_WAIT, gates::ClosedGate};

/// Waits between questions to a store that fails.
pub(super) const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// Waits between seeks that the client does not begin: mostly it does not read the partition yet, for some milliseconds.
const SEEK_AGAIN_FIRST: Duration = Duration::from_millis(5);
const SEEK_AGAIN_MAX: Duration = Duration::from_millis(500);

/// A partition on its way to be opened.
pub(super) struct OpeningGate {
    pub gate: ClosedGate,
    pub next: Option<i64>,
    /// Of the last record before it, where that is known.
    pub epoch: Option<i32>,
    pub is_restored: bool,
    /// When its restore last came further.
    pub moved_at: Instant,
    /// Of a restore that fails: that of another partition goes on.
    pub backoff: Backoff,
    pub restore_at: Instant,
}

impl OpeningGate {
    /// Of a partition that goes on at an offset, behind a record of this epoch, as far as they are known.
    pub fn new(gate: ClosedGate, (next, epoch): (Option<i64>, Option<i32>)) -> Self {
        OpeningGate {
            gate,
            next,
            epoch,
            is_restored: false,
            moved_at: Instant::now(),
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            restore_at: Instant::now(),
        }
    }
}

/// Partitions on their way to be opened.
pub(super) struct Claims {
    /// What the store is asked about now; empty where it is not.
    pub asked: Vec<ClosedGate>,
    /// Those whose start offsets were asked for last, without an answer.
    pub unanswered: Vec<i32>,
    /// Those whose start offsets are known.
    pub opening: Vec<OpeningGate>,
    /// A seek was refused and is to be retried.
    pub seek_pending: bool,
    pub seek_at: Instant,
    pub backoff: Backoff,
    pub seeks: Backoff,
    pub again_at: Instant,
    pub abandoned: Abandoned,
}

impl Default for Claims {
    fn default() -> Self {
        Claims {
            asked: Vec::new(),
            unanswered: Vec::new(),
            opening: Vec::new(),
            seek_pending: false,
            seek_at: Instant::now(),
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            seeks: Backoff::new(SEEK_AGAIN_FIRST, SEEK_AGAIN_MAX),
            again_at: Instant::now(),
            abandoned: Abandoned::default(),
        }
    }
}

impl Claims {
    /// How long the group's offsets are waited for. The first time not for long: where they are being committed by a lane that is
    /// gone, something is to be done about it.
    pub fn patience(&self) -> Duration {
        match self.unanswered.is_empty() {
            true => HELD_UP_AFTER,
            false => COMMITTED_WAIT,
        }
    }

    /// Nothing waits.
    pub fn are_done(&self) -> bool {
        self.unanswered.is_empty() && self.opening.iter().all(|it| it.is_restored)
    }

    /// The partitions that wait for something, perhaps for the end of another lane's transaction.
    pub fn held_up(&self) -> Vec<i32> {
        let mut held_up = self.unanswered.clone();
        let restoring = self.opening.iter().filter(|it| !it.is_restored);
        // One is restored after the other: while one of them comes further, the others wait for it.
        if restoring
            .clone()
            .all(|it| it.moved_at.elapsed() >= HELD_UP_AFTER)
        {
            held_up.extend(restoring.map(|it| it.gate.partition));
        }
        held_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_while_a_partition_waits_whether_it_is_held_up_or_not() {
        let mut claims = Claims::default();
        assert!(claims.are_done() && claims.held_up().is_empty());
        claims.unanswered.push(3);
        assert_eq!(claims.held_up(), [3]);
        assert!(!claims.are_done());
    }
}
