//! Who has a partition's rows in this process: a lane that owns the partition, or the standby, which keeps up with what the owner in
//! another replica writes. The rows go from one to the other as they are, so that a lane reads only what came last, and requests
//! are answered from them all the while.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    committed::{Committed, SharedCommitted, lock},
    follow::Follow,
    rows::{Fault, OpenError, Opener},
    shared::Shared,
};

/// Which partitions a replica keeps up with that it does not own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standby {
    #[default]
    None,
    All,
}

/// A lane, among those of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneToken(u64);

/// Rows on their way to the end of their changelog.
pub(crate) struct Standing {
    pub committed: SharedCommitted,
    pub follow: Follow,
    /// Tells it from what the standby had of the partition before.
    pub generation: u64,
    /// While a lane restores them.
    pub restoring: Option<Restoring>,
}

/// That a lane restores a partition, as long as this is there.
pub(crate) struct Restoring(Arc<AtomicUsize>);

impl Restoring {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Restoring(Arc::clone(count))
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of a partition in this process.
pub(crate) enum Slot {
    Free,
    Lane(LaneToken),
    Standing(Box<Standing>),
}

impl Slot {
    fn is_of(&self, lane: LaneToken) -> bool {
        matches!(self, Slot::Lane(id) if *id == lane)
    }
}

/// Why a partition's rows cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// They are to be discarded.
    #[error(transparent)]
    Rows(#[from] Fault),
}

/// Of one pipeline. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Standbys(Arc<Inner>);

struct Inner {
    standby: Standby,
    opener: Opener,
    shared: Shared,
    /// By partition.
    slots: Vec<Mutex<Slot>>,
    count: AtomicU64,
    /// Partitions that lanes restore now.
    restoring: Arc<AtomicUsize>,
}

impl Standbys {
    pub fn new(standby: Standby, opener: Opener, shared: Shared, partitions: i32) -> Self {
        let partitions = usize::try_from(partitions).unwrap_or_default();
        Standbys(Arc::new(Inner {
            standby,
            opener,
            shared,
            slots: (0..partitions).map(|_| Mutex::new(Slot::Free)).collect(),
            count: AtomicU64::new(0),
            restoring: Arc::default(),
        }))
    }

    fn count(&self) -> u64 {
        self.0.count.fetch_add(1, Ordering::Relaxed)
    }

    pub fn lane(&self) -> LaneToken {
        LaneToken(self.count())
    }

    pub fn partitions(&self) -> std::ops::Range<i32> {
        0..i32::try_from(self.0.slots.len()).unwrap_or(i32::MAX)
    }

    /// Whether lanes restore partitions, and so need disk, memory and CPU more than standbys do.
    pub fn are_lanes_restoring(&self) -> bool {
        self.0.restoring.load(Ordering::Relaxed) > 0
    }

    pub fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Locked for no longer than a few groups are applied. None where the topic has no such partition.
    pub fn slot(&self, partition: i32) -> Option<MutexGuard<'_, Slot>> {
        let slot = self.0.slots.get(usize::try_from(partition).ok()?)?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rows as they are kept, or none.
    ///
    /// # Errors
    /// They cannot be had.
    pub fn open(&self, partition: i32) -> Result<Standing, NotTaken> {
        let rows = self.0.opener.open(partition)?;
        Ok(Standing {
            follow: Follow::over(&*rows)?,
            committed: Committed::over(rows),
            generation: self.count(),
            restoring: None,
        })
    }

    /// A lane takes a partition's rows, from the standby where that has them.
    ///
    /// # Errors
    /// They cannot be had. The standby leaves the partition alone all the same, until the lane gives it back.
    pub fn take(&self, partition: i32, lane: LaneToken) -> Result<Standing, NotTaken> {
        let taken = self
            .slot(partition)
            .map(|mut slot| mem::replace(&mut *slot, Slot::Lane(lane)));
        let restoring = Some(Restoring::begin(&self.0.restoring));
        let Some(Slot::Standing(mut standing)) = taken else {
            let standing = self.open(partition)?;
            return Ok(Standing {
                restoring,
                ..standing
            });
        };
        let fault = lock(&standing.committed).fault.clone();
        if let Some(fault) = fault {
            self.shared().remove(partition, &standing.committed);
            return Err(fault.into());
        }
        standing.follow.rewind();
        standing.restoring = restoring;
        Ok(*standing)
    }

    /// A lane gives up what it owned, after [`Shared::release`]. Where another lane waits for the partition it is that one's, and the
    /// rows are let go.
    pub fn give_back(&self, partition: i32, lane: LaneToken, committed: SharedCommitted) {
        let follow = match self.0.standby {
            Standby::None => None,
            Standby::All => Follow::left_by_owner(&*lock(&committed).rows).ok(),
        };
        self.put(partition, lane, committed, follow);
    }

    /// A lane gives up what it was restoring.
    pub fn give_back_unrestored(&self, partition: i32, lane: LaneToken, standing: Standing) {
        let Standing {
            committed,
            mut follow,
            ..
        } = standing;
        let follow = match (self.0.standby, follow.is_exact()) {
            (Standby::None, _) => None,
            (Standby::All, true) => {
                follow.rewind();
                Some(follow)
            }
            (Standby::All, false) => Follow::over(&*lock(&committed).rows).ok(),
        };
        self.put(partition, lane, committed, follow);
    }

    fn put(
        &self,
        partition: i32,
        lane: LaneToken,
        committed: SharedCommitted,
        follow: Option<Follow>,
    ) {
        let shared = &self.0.shared;
        let is_damaged = lock(&committed).fault.is_some();
        if let Some(follow) = follow.filter(|_| !is_damaged)
            && let Some(mut slot) = self.slot(partition)
            && slot.is_of(lane)
        {
            match follow.is_exact() {
                true => shared.stand_by(partition, &committed),
                false => shared.remove(partition, &committed),
            }
            *slot = Slot::Standing(Box::new(Standing {
                committed,
                follow,
                generation: self.count(),
                restoring: None,
            }));
            return;
        }
        shared.remove(partition, &committed);
        if !is_damaged {
            lock(&committed).rows.persist();
        }
        // Closed before another may open them.
        drop(committed);
        if let Some(slot) = self.slot(partition)
            && slot.is_of(lane)
            && is_damaged
            && let Err(error) = self.discard(partition)
        {
            // Whoever opens it finds the damage again.
            tracing::debug!(partition, %error, "damaged state not deleted");
        }
        self.free(partition, lane);
    }

    /// A lane has lost a partition, whatever it had of it.
    pub fn free(&self, partition: i32, lane: LaneToken) {
        if let Some(mut slot) = self.slot(partition)
            && slot.is_of(lane)
        {
            *slot = Slot::Free;
        }
    }

    /// A lane has ended.
    pub fn release(&self, lane: LaneToken) {
        for partition in self.partitions() {
            self.free(partition, lane);
        }
    }

    /// Deletes a partition's rows, which stand for nothing.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn discard(&self, partition: i32) -> Result<(), OpenError> {
        self.0.opener.discard(partition)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::state::{
        layout::{PROGRESS, Progress},
        life::{Life, Moment},
        pending::Pending,
        rows::{Memory, Rows},
        shared::Holder,
    };

    fn standbys(standby: Standby) -> Standbys {
        let shared = Shared::new(standby, watch::Sender::new(0));
        Standbys::new(standby, Opener::Memory, shared, 2)
    }

    /// As an owner leaves its rows, after a batch.
    fn owned() -> SharedCommitted {
        let (mut rows, mut changes) = (Memory::default(), Pending::default());
        let progress = Progress {
            input_next: 5,
            number: 3,
            rows: 1,
        };
        changes.push(&PROGRESS, Some(&progress.write_stored(9)));
        rows.apply(&changes, 9).unwrap();
        Committed::over(Box::new(rows))
    }

    fn is_free(standbys: &Standbys) -> bool {
        matches!(*standbys.slot(1).unwrap(), Slot::Free)
    }

    #[test]
    fn what_an_owner_leaves_is_answered_from_until_the_next_one_has_it() {
        let standbys = standbys(Standby::All);
        let (lane, shared) = (standbys.lane(), standbys.shared().clone());
        standbys.take(1, lane).unwrap();
        let committed = owned();
        let holder = Holder {
            lane: 0,
            life: Arc::new(Life::new(Duration::from_secs(6), Moment::now())),
        };
        shared.insert(1, &committed, &holder);
        shared.release(1, &committed);
        assert!(shared.held().is_empty() && shared.standing().len() == 1);
        standbys.give_back(1, lane, Arc::clone(&committed));
        assert!(shared.held().is_empty());
        assert_eq!(shared.standing().into_keys().collect::<Vec<_>>(), [1]);
        // The next one takes the same rows, which are asked while it restores them, and when it gives up.
        let other = standbys.lane();
        assert!(!standbys.are_lanes_restoring());
        let taken = standbys.take(1, other).unwrap();
        assert!(Arc::ptr_eq(&taken.committed, &committed));
        assert_eq!(shared.standing().len(), 1);
        assert!(standbys.are_lanes_restoring());
        standbys.give_back_unrestored(1, other, taken);
        assert!(!standbys.are_lanes_restoring());
        assert_eq!(shared.standing().len(), 1);
        let taken = standbys.take(1, other).unwrap();
        shared.insert(1, &taken.committed, &holder);
        assert_eq!((shared.held().len(), shared.standing().len()), (1, 0));
    }

    #[test]
    fn a_lane_that_noticed_late_does_not_take_the_partition_from_another_one() {
        let standbys = standbys(Standby::All);
        let (late, lane) = (standbys.lane(), standbys.lane());
        standbys.take(1, late).unwrap();
        let taken = standbys.take(1, lane).unwrap();
        standbys.give_back(1, late, owned());
        standbys.release(late);
        assert!(!is_free(&standbys) && standbys.shared().standing().is_empty());
        standbys.give_back_unrestored(1, lane, taken);
        let is_standing = matches!(*standbys.slot(1).unwrap(), Slot::Standing(_));
        assert!(
            is_standing && standbys.shared().standing().is_empty(),
            "it knows nothing yet"
        );
    }

    #[test]
    fn damaged_rows_go_neither_to_the_standby_nor_to_a_lane() {
        let standbys = standbys(Standby::All);
        let (lane, shared) = (standbys.lane(), standbys.shared().clone());
        let fault = Fault::Damaged("a row".to_owned());
        standbys.take(1, lane).unwrap();
        let committed = owned();
        lock(&committed).fault = Some(fault.clone());
        shared.release(1, &committed);
        standbys.give_back(1, lane, committed);
        assert!(is_free(&standbys) && shared.standing().is_empty());
        standbys.take(1, lane).unwrap();
        let committed = owned();
        standbys.give_back(1, lane, Arc::clone(&committed));
        lock(&committed).fault = Some(fault.clone());
        let taken = standbys.take(1, lane);
        assert!(matches!(taken, Err(NotTaken::Rows(found)) if found == fault));
        assert!(shared.standing().is_empty());
        assert_eq!(Arc::strong_count(&committed), 1);
        standbys.free(1, lane);
        assert!(is_free(&standbys));
    }

    #[test]
    fn without_standbys_nothing_is_kept_open() {
        let standbys = standbys(Standby::None);
        let lane = standbys.lane();
        standbys.take(1, lane).unwrap();
        let committed = owned();
        standbys.give_back(1, lane, Arc::clone(&committed));
        assert!(is_free(&standbys) && standbys.shared().standing().is_empty());
        assert_eq!(Arc::strong_count(&committed), 1);
        let taken = standbys.take(1, lane).unwrap();
        standbys.give_back_unrestored(1, lane, taken);
        assert!(is_free(&standbys));
    }
}
