//! A partition whose start is not checked yet: what is known of it, and when it is looked at again.

use std::time::{Duration, Instant};

use super::rules::{ExpectedRecord, TRIES_MAX};

/// How long a partition is left alone whose log still looks shorter than what is committed, or which begins too early
/// again and again: other partitions go on meanwhile, and Kafka is not asked without a pause.
const COOLDOWN: Duration = Duration::from_secs(1);

/// What is known of a partition whose start is not checked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::consumer) struct PendingCheck {
    /// What has to come.
    pub expected: Option<ExpectedRecord>,
    /// How often the client began before what is committed, although the log has it.
    pub early: u32,
    /// How often the client was sent to where the log begins to differ from what was handled.
    pub searches: u32,
    /// Since when.
    pub diverged_since: Option<Instant>,
    /// What its gate is closed for.
    pub cooldown: Option<Cooldown>,
}

/// A partition that is left alone before it is looked at again, and where it is sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consumer) struct Cooldown {
    pub until: Instant,
    pub next: i64,
}

impl PendingCheck {
    /// It began before what is committed, which the log (of this end, where Kafka said it) has. Sent there often enough,
    /// it is left alone first.
    pub fn began_early(self, committed: i64, end: Option<i64>) -> Self {
        let early = self.early.saturating_add(1);
        // Whatever it looked like before: if it looks shorter again, that is news.
        let (searches, diverged_since) = match end {
            Some(_) => (0, None),
            None => (self.searches, self.diverged_since),
        };
        PendingCheck {
            early,
            searches,
            diverged_since,
            cooldown: Cooldown::after(early, committed),
            ..self
        }
    }

    /// Its log looks shorter than what is committed; `first` is the record that came. Looked for often enough, it comes
    /// again where it lies, after a while: further on records would be passed over.
    pub fn looks_shorter(self, first: i64) -> Self {
        let searches = self.searches.saturating_add(1);
        PendingCheck {
            searches,
            diverged_since: self.diverged_since.or_else(|| Some(Instant::now())),
            cooldown: Cooldown::after(searches, first),
            ..self
        }
    }
}

impl Cooldown {
    fn after(times: u32, next: i64) -> Option<Self> {
        (times > TRIES_MAX).then(|| Cooldown {
            until: Instant::now() + COOLDOWN,
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_begins_too_early_again_and_again_is_sent_on_after_a_rest() {
        let mut check = PendingCheck::default();
        for _ in 0..TRIES_MAX {
            check = check.began_early(10, Some(20));
            assert_eq!(check.cooldown, None);
        }
        for end in [Some(20), None] {
            check = PendingCheck {
                cooldown: None,
                ..check
            }
            .began_early(10, end);
            assert_eq!(check.cooldown.map(|cooldown| cooldown.next), Some(10));
        }
    }

    #[test]
    fn a_log_that_has_what_is_committed_after_all_is_looked_at_anew_if_it_looks_shorter_again() {
        let shorter = PendingCheck::default().looks_shorter(7).looks_shorter(7);
        assert_eq!(shorter.searches, 2);
        let unknown = shorter.began_early(10, None);
        let looked = |check: PendingCheck| (check.searches, check.diverged_since);
        assert_eq!(looked(unknown), looked(shorter));
        assert_eq!(looked(shorter.began_early(10, Some(10))), (0, None));
    }

    #[test]
    fn a_log_that_still_looks_shorter_comes_again_from_the_same_record_after_a_rest() {
        let mut check = PendingCheck::default();
        for _ in 0..TRIES_MAX {
            check = check.looks_shorter(7);
            assert_eq!(check.cooldown, None);
        }
        let since = check.diverged_since;
        check = check.looks_shorter(7);
        assert_eq!(check.cooldown.map(|cooldown| cooldown.next), Some(7));
        assert!(since.is_some() && check.diverged_since == since);
    }
}
