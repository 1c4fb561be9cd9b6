//! Rows on disk, by [`quadrille_state`].

use std::time::{SystemTime, UNIX_EPOCH};

use quadrille_state::{Batch, Identity, Opened, Store, Stores};

use super::{
    pending::Pending,
    rows::{Damaged, OpenError, Rows},
};

/// Rows of one partition.
struct Disk {
    store: Store,
    /// Used again for every batch.
    batch: Batch,
}

impl From<quadrille_state::Error> for Damaged {
    fn from(error: quadrille_state::Error) -> Self {
        Damaged(error.to_string())
    }
}

/// The rows of a partition, as far as they are there and can be used.
pub(super) fn open(
    stores: &Stores,
    identity: &Identity,
    partition: i32,
) -> Result<Box<dyn Rows>, OpenError> {
    let (store, opened) = stores.open(identity, partition, now_ms())?;
    match opened {
        Opened::Kept { next_offset } => {
            tracing::debug!(partition, next_offset, "state found on disk");
        }
        Opened::New => {}
        Opened::Discarded { why } => {
            tracing::info!(partition, %why, "the state on disk cannot be used; restoring it from the changelog");
        }
    }
    Ok(Box::new(Disk {
        store,
        batch: Batch::new(),
    }))
}

/// The wall clock, in ms since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}

impl Rows for Disk {
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Damaged> {
        Ok(self.store.scan(prefix, each)?)
    }

    fn first_from(&self, from: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let mut first = None;
        self.store
            .scan_from(from, 1, |key, _| first = Some(key.to_vec()))?;
        Ok(first)
    }

    fn apply(&mut self, changes: &Pending, next: i64) -> Result<(), Damaged> {
        self.batch.clear();
        for (key, row) in changes.iter() {
            match row {
                Some(row) => self.batch.put(key, row),
                None => self.batch.delete(key),
            }
        }
        Ok(self.store.apply(&self.batch, next)?)
    }

    fn next_offset(&self) -> Option<i64> {
        self.store.next_offset()
    }

    fn caught_up(&mut self) {
        self.store.caught_up(now_ms());
    }

    fn persist(&mut self) {
        if let Err(error) = self.store.persist() {
            tracing::warn!(%error, "state not brought to disk; more of it will be read from the changelog");
        }
    }
}
