//! The committed state of all partitions that a replica holds, for requests and for the reports that lead them here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use quadrille_pipeline::State;
use quadrille_service::fields::now_ms;
use tokio::sync::watch;

use super::{
    life::{Life, Moment},
    partition::SharedCommitted,
    past::{self, Past, Unread},
};

/// By partition, of one pipeline. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    /// Of each partition the one that came last is at the end. A lane that was frozen notices late that another lane of this process has
    /// its partition.
    held: Mutex<BTreeMap<i32, Vec<Held>>>,
    changes: watch::Sender<u64>,
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
    pub fn new(changes: watch::Sender<u64>) -> Self {
        Shared(Arc::new(Inner {
            held: Mutex::default(),
            changes,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Vec<Held>>> {
        let held = self.0.held.lock();
        held.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A partition is restored by a lane.
    pub fn insert(&self, partition: i32, committed: &SharedCommitted, by: &Holder) {
        let held = Held {
            committed: Arc::clone(committed),
            since_ms: now_ms(),
            by: by.clone(),
        };
        self.lock().entry(partition).or_default().push(held);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// The lane that inserted this state of the partition does not hold it any more.
    pub fn remove(&self, partition: i32, committed: &SharedCommitted) {
        let mut held = self.lock();
        let Some(of_partition) = held.get_mut(&partition) else {
            return;
        };
        of_partition.retain(|it| !Arc::ptr_eq(&it.committed, committed));
        if of_partition.is_empty() {
            held.remove(&partition);
        }
        drop(held);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// What this replica can answer for.
    pub fn held(&self) -> Vec<Holding> {
        let held = self.lock();
        let newest = held.iter().filter_map(|(partition, of_partition)| {
            let held = of_partition.last()?;
            Some(Holding {
                partition: *partition,
                since_ms: held.since_ms,
                lane: held.by.lane,
            })
        });
        newest.collect()
    }

    /// A partition that is here, restored, and surely not another replica's by now.
    fn of(&self, partition: i32, now: Moment) -> Result<Held, Unread> {
        let held = self
            .lock()
            .get(&partition)
            .and_then(|it| it.last().cloned());
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
}
