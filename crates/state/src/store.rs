//! One store, of a pipeline and a partition.

use std::{ops::Bound, sync::Arc};

use crate::{Batch, Error, Name, inner::Inner, stores::Process};

/// A handle; copies are cheap. When the last is dropped the store is closed, and what was not persisted is forgotten: the
/// changelog has it.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

pub(crate) struct Handle {
    pub inner: Arc<Inner>,
    /// Its threads work for this store.
    pub process: Arc<Process>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.close();
        self.process.registry.remove(&self.inner);
    }
}

impl Store {
    pub(crate) fn new(handle: Handle) -> Self {
        Self {
            handle: Arc::new(handle),
        }
    }

    pub fn name(&self) -> &Name {
        &self.handle.inner.name
    }

    /// Appends a row's value to `into`; false: there is no such row. Waits for at most a few reads from the disk.
    pub fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, Error> {
        self.handle.inner.get(key, into)
    }

    /// Rows whose keys begin with `prefix`, in the order of their keys, as of one moment between two batches.
    pub fn scan(&self, prefix: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let after = after_prefix(prefix);
        let end = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = (Bound::Included(prefix), end);
        self.handle.inner.range(range, usize::MAX, &mut each)?;
        Ok(())
    }

    /// At most `rows_max` rows from `key` on, and the key to go on from; `None`: these were the last. From an empty key on
    /// it visits every row.
    pub fn scan_from(
        &self,
        key: &[u8],
        rows_max: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>, Error> {
        let range = (Bound::Included(key), Bound::Unbounded);
        self.handle.inner.range(range, rows_max, &mut each)
    }

    /// All rows of the batch or none, in memory. The store then stands for all that the changelog has before `next_offset`,
    /// which never goes back. If the memory of all stores is used up it waits for a flush, and behind twelve flushes for a
    /// merge: some tenths of a second, longer if the disk is slow. If that fails (the disk is full) nothing is changed and
    /// the error says so; the store can be read, and applied to when there is room again.
    pub fn apply(&self, batch: &Batch, next_offset: i64) -> Result<(), Error> {
        self.handle.inner.apply(batch, next_offset)
    }

    /// What was applied last; `None`: nothing ever.
    pub fn next_offset(&self) -> Option<i64> {
        self.handle.inner.next_offset()
    }

    /// At `now_ms`, read before its end was, the changelog had nothing from [`Self::next_offset`] on. That is what a store's
    /// age counts from. Cheap: once per batch is fine.
    pub fn caught_up(&self, now_ms: i64) {
        self.handle.inner.caught_up(now_ms);
    }

    /// Since when, at the latest, the changelog may have deleted rows that this store has and will not hear of.
    pub fn as_of_ms(&self) -> i64 {
        self.handle.inner.as_of_ms()
    }

    /// All that was applied before is on disk when it returns. Takes as long as that is to write, and a few syncs.
    pub fn persist(&self) -> Result<(), Error> {
        self.handle.inner.persist()
    }

    /// Persists. Copies of the handle can go on; the store is closed when the last is dropped.
    pub fn close(self) -> Result<(), Error> {
        self.persist()
    }
}

/// The first key that is behind all those with this prefix.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}
