//! The committed state of all partitions that a replica holds or stands by for, for requests and for the reports that lead them here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use quadrille_pipeline::State;
use quadrille_registry::HeldPartitions;
use quadrille_service::fields::now_ms;
use tokio::sync::watch;

use super::{
    committed::SharedCommitted,
    life::{Life, Moment},
    past::{self, Past, Unread},
    standby::Standby,
};

/// By partition, of one pipeline. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    standby: Standby,
    places: Mutex<Places>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Places {
    /// Of each partition the one that came last is at the end. A lane that was frozen notices late that another lane of this process has
    /// its partition.
    held: BTreeMap<i32, Vec<Held>>,
    standing: BTreeMap<i32, Standing>,
}

/// Kept up with, as of a place in the input that it knows.
struct Standing {
    committed: SharedCommitted,
    since_ms: i64,
}

/// A lane of this replica.
#[derive(Clone)]
pub(crate) struct Holder {
    pub lane: u32,
    pub life: Arc<Life>,
}

#[derive(Clone)]
struct Held {
    committed: SharedCommitted,
    since_ms: i64,
    by: Holder,
}

/// A partition that this replica can answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub partition: i32,
    pub since_ms: i64,
    pub lane: u32,
}

impl Shared {
    /// `changes` counts when partitions come and go.
    pub fn new(standby: Standby, changes: watch::Sender<u64>) -> Self {
        Shared(Arc::new(Inner {
            standby,
            places: Mutex::default(),
            changes,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        let places = self.0.places.lock();
        places.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// A partition is restored by a lane.
    pub fn insert(&self, partition: i32, committed: &SharedCommitted, by: &Holder) {
        let held = Held {
            committed: Arc::clone(committed),
            since_ms: now_ms(),
            by: by.clone(),
        };
        let mut places = self.lock();
        places.held.entry(partition).or_default().push(held);
        places.standing.remove(&partition);
        drop(places);
        self.changed();
    }

    /// A partition is not held, or no longer, but its state is known as of some place of its input.
    pub fn stand_by(&self, partition: i32, committed: &SharedCommitted) {
        let mut places = self.lock();
        let is_known = |it: &Standing| Arc::ptr_eq(&it.committed, committed);
        if places.standing.get(&partition).is_some_and(is_known) {
            return;
        }
        let standing = Standing {
            committed: Arc::clone(committed),
            since_ms: now_ms(),
        };
        places.standing.insert(partition, standing);
        places.forget_held(partition, committed);
        drop(places);
        self.changed();
    }

    /// The lane that held this state has lost the partition. What it committed is right as of where it ended.
    pub fn release(&self, partition: i32, committed: &SharedCommitted) {
        match self.0.standby {
            Standby::None => self.remove(partition, committed),
            Standby::All => self.stand_by(partition, committed),
        }
    }

    /// This state of a partition is not to be asked any more.
    pub fn remove(&self, partition: i32, committed: &SharedCommitted) {
        let mut places = self.lock();
        let was_held = places.forget_held(partition, committed);
        let standing = places.standing.get(&partition);
        let was_standing = standing.is_some_and(|it| Arc::ptr_eq(&it.committed, committed));
        if was_standing {
            places.standing.remove(&partition);
        }
        drop(places);
        if was_held || was_standing {
            self.changed();
        }
    }

    /// What this replica can answer for as the owner.
    pub fn held(&self) -> Vec<Holding> {
        let places = self.lock();
        let newest = places.held.iter().filter_map(|(partition, of_partition)| {
            let held = of_partition.last()?;
            Some(Holding {
                partition: *partition,
                since_ms: held.since_ms,
                lane: held.by.lane,
            })
        });
        newest.collect()
    }

    /// What it can answer for as a standby, since when.
    pub fn standing(&self) -> HeldPartitions {
        let places = self.lock();
        let standing = places.standing.iter();
        standing.map(|(at, it)| (*at, it.since_ms)).collect()
    }

    /// A partition that is here, restored, and surely not another replica's by now.
    fn of(&self, partition: i32, now: Moment) -> Result<Held, Unread> {
        let places = self.lock();
        let held = places.held.get(&partition);
        let held = held.and_then(|it| it.last().cloned());
        drop(places);
        let held = held.ok_or(Unread::NotHeld)?;
        match held.by.life.is_certain(now) {
            true => Ok(held),
            false => Err(Unread::Silent),
        }
    }

    /// A key's history as of the last commit. Blocks while that is applied, and while the store reads.
    ///
    /// # Errors
    /// It cannot be had here, or not now.
    pub fn read(&self, partition: i32, key: &[u8], state: &State) -> Result<Past, Unread> {
        let held = self.of(partition, Moment::now())?;
        let past = past::read(&held.committed, state, key)?;
        // It may have been frozen meanwhile, and have lost the partition.
        let now = self.of(partition, Moment::now())?;
        match Arc::ptr_eq(&now.committed, &held.committed) {
            true => Ok(past),
            false => Err(Unread::Silent),
        }
    }

    /// A key's history as of a place in the input that need not be the last one. Blocks as [`Shared::read`] does.
    ///
    /// # Errors
    /// It cannot be had here, or not now.
    pub fn read_standing(&self, partition: i32, key: &[u8], state: &State) -> Result<Past, Unread> {
        let places = self.lock();
        let standing = places.standing.get(&partition).map(|it| &it.committed);
        // A lane that was silent may not be the owner any more; what it committed is right as of where it ended.
        let held = places.held.get(&partition).and_then(|it| it.last());
        let held = held.map(|it| &it.committed);
        let held = held.filter(|_| self.0.standby == Standby::All);
        let committed = standing.or(held).cloned().ok_or(Unread::NotHeld)?;
        drop(places);
        past::read_standing(&committed, state, key)
    }
}

impl Places {
    /// Whether it was held with this state.
    fn forget_held(&mut self, partition: i32, committed: &SharedCommitted) -> bool {
        let Some(held) = self.held.get_mut(&partition) else {
            return false;
        };
        let before = held.len();
        held.retain(|it| !Arc::ptr_eq(&it.committed, committed));
        let was_held = held.len() < before;
        if held.is_empty() {
            self.held.remove(&partition);
        }
        was_held
    }
}
