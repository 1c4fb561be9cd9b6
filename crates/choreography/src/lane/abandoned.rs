//! Transactions that a lane left open when it died, or in which it stands still. While one is open, what it wrote holds up the
//! readers of its topics, and its offsets hold up whoever asks for them: the restore of the partitions that another lane has now.
//! Kafka ends it by its timeout, and the scan after that, 10 to 20 s after it began. So whoever waits for it ends it: by another
//! producer of the same id, as the lane itself does when it begins again.
//!
//! A lane that is at work would be fenced as well. That costs it a session, and nothing else; but the group is asked before, and its
//! members are spared.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::Lane;
use crate::{Backoff, Handler, StageConfig, transaction::Successor};

/// A restore that has come no further for this long may be held up; where Kafka answers it takes some milliseconds.
pub(super) const HELD_UP_AFTER: Duration = Duration::from_millis(100);
/// Waits before it is looked at again what holds up a restore that goes on to be held up.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Each has a thread and a client of its own.
const AT_ONCE_MAX: usize = 8;
/// How often one is tried to be ended: by then Kafka has, or something else holds up the restore.
const TRIES_MAX: u32 = 5;

/// What a lane does about them.
pub(super) struct Abandoned {
    /// By the ids of whom they end.
    ending: BTreeMap<String, JoinHandle<()>>,
    /// How often the transactions of each id were to be ended since nothing was held up.
    tries: BTreeMap<String, u32>,
    backoff: Backoff,
    again_at: Instant,
}

impl Default for Abandoned {
    fn default() -> Self {
        Abandoned {
            ending: BTreeMap::new(),
            tries: BTreeMap::new(),
            backoff: Backoff::new(AGAIN_FIRST, AGAIN_MAX),
            again_at: Instant::now(),
        }
    }
}

impl<H: Handler> Lane<H> {
    /// Ends the transactions that may hold up the restore of these partitions. Does not wait for it. To be called between two polls.
    /// `are_done`: nothing is to be restored any more, and with the next partition it begins anew.
    pub(super) fn end_abandoned(&self, abandoned: &mut Abandoned, held_up: &[i32], are_done: bool) {
        if are_done {
            abandoned.forget();
        }
        // One that moves by fits and starts does not begin anew each time.
        let is_embedded = self.config.cluster.is_embedded();
        if held_up.is_empty() || is_embedded || Instant::now() < abandoned.again_at {
            return;
        }
        let own = self.config.lane_name(self.index);
        let claimants = held_up.iter().flat_map(|it| self.handler.claimants(*it));
        let ids = claimants.map(|lane| self.config.name_of(&lane));
        let ids = ids.filter(|id| *id != own && abandoned.may_try(id));
        let ids: BTreeSet<String> = ids.collect();
        let wait = match ids.is_empty() {
            // Reports may be on their way.
            true => HELD_UP_AFTER,
            false => abandoned.backoff.next_wait(),
        };
        abandoned.again_at = Instant::now() + wait;
        for id in abandoned.in_turn(ids) {
            abandoned.end(&self.config, &own, id);
        }
    }
}

impl Abandoned {
    /// Nothing is held up.
    fn forget(&mut self) {
        self.tries.clear();
        self.backoff.reset();
        self.again_at = Instant::now();
    }

    /// Those first that were tried the least: not all have room at once.
    fn in_turn(&self, ids: BTreeSet<String>) -> Vec<String> {
        let mut ids: Vec<String> = ids.into_iter().collect();
        ids.sort_by_key(|id| self.tries.get(id).copied().unwrap_or_default());
        ids
    }

    fn may_try(&self, id: &str) -> bool {
        self.tries.get(id).is_none_or(|tries| *tries < TRIES_MAX)
    }

    fn end(&mut self, config: &StageConfig, own: &str, id: String) {
        self.ending.retain(|_, thread| !thread.is_finished());
        // On a busy machine the first try may take longer than it is waited for.
        if self.ending.len() >= AT_ONCE_MAX || self.ending.contains_key(&id) {
            return;
        }
        let tries = self.tries.entry(id.clone()).or_default();
        *tries += 1;
        let successor = Successor {
            cluster: config.cluster.clone(),
            group: config.group.clone(),
            own: own.to_owned(),
            id: id.clone(),
            is_repeated: *tries > 1,
        };
        let thread = thread::Builder::new().name("end-transaction".to_owned());
        match thread.spawn(move || successor.end_transaction()) {
            Ok(thread) => {
                self.ending.insert(id, thread);
            }
            Err(error) => tracing::debug!(%error, "no thread to end a transaction on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_tried_yet_comes_first() {
        let mut abandoned = Abandoned::default();
        abandoned.tries.extend((0..8).map(|n| (n.to_string(), 1)));
        let ids = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(abandoned.in_turn(ids)[..3], ["8", "9", "0"]);
    }

    #[test]
    fn one_is_tried_a_few_times_and_again_once_something_else_is_held_up() {
        let mut abandoned = Abandoned::default();
        abandoned.tries.insert("a".to_owned(), TRIES_MAX - 1);
        abandoned.tries.insert("b".to_owned(), TRIES_MAX);
        assert!(abandoned.may_try("a") && abandoned.may_try("c"));
        assert!(!abandoned.may_try("b"));
        abandoned.forget();
        assert!(abandoned.may_try("b"));
    }
}
