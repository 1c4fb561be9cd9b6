//! Where a partition's rows are kept: a cache of the changelog, which can be lost at any time but must never be wrong.

use std::{
    collections::BTreeMap,
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use quadrille_state::{Identity, Stores};
use quadrille_telemetry::metrics::StateUsage;

use super::{disk, pending::Pending};

/// A partition's rows as of a changelog offset.
pub(crate) trait Rows: Send {
    /// All rows whose keys begin with `prefix`, in their order.
    ///
    /// # Errors
    /// The rows cannot be read: nothing that was read may be used.
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault>;

    /// The key of the first row that is not before `from`.
    ///
    /// # Errors
    /// As [`Rows::scan`].
    fn first_from(&self, from: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// The key to go on from behind this many rows, deleted ones among them, from `from` on; None: there are no more.
    ///
    /// # Errors
    /// As [`Rows::scan`].
    fn skip(&self, from: &[u8], rows: usize) -> Result<Option<Vec<u8>>, Fault>;

    /// Applies changes that are durable in the changelog; `next` is the offset behind them. Where there is no room on the disk they
    /// are kept in memory.
    ///
    /// # Errors
    /// The rows are damaged.
    fn apply(&mut self, changes: &Pending, next: i64) -> Result<(), Fault>;

    /// The changelog's offset that the rows stand for; None: they stand for nothing yet.
    fn next_offset(&self) -> Option<i64>;

    /// What they take, but for stores on disk.
    fn usage(&self) -> StateUsage {
        StateUsage::default()
    }

    /// To be called now and then, whether changes come or not.
    ///
    /// # Errors
    /// As [`Rows::apply`].
    fn tend(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// The changelog has nothing from [`Rows::next_offset`] on.
    fn caught_up(&mut self) {}

    /// Brings to disk what is in memory alone. Where that fails, more is read again from the changelog.
    fn persist(&mut self) {}
}

/// Why rows cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// They are to be restored from the changelog.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// They are right, and the disk does not give them now.
    #[error("the store cannot be read now: {0}")]
    Unread(String),
}

/// Rows that were found to lack something: whoever reads them is told to restore them.
pub(crate) struct Broken(pub Fault);

impl Rows for Broken {
    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault> {
        Err(self.0.clone())
    }

    fn first_from(&self, _: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Err(self.0.clone())
    }

    fn skip(&self, _: &[u8], _: usize) -> Result<Option<Vec<u8>>, Fault> {
        Err(self.0.clone())
    }

    fn apply(&mut self, _: &Pending, _: i64) -> Result<(), Fault> {
        Err(self.0.clone())
    }

    fn next_offset(&self) -> Option<i64> {
        None
    }
}

/// Of a row in a map, beside its bytes: two slots of a node that is two thirds full, and the allocator's headers, roughly.
pub(super) const ROW_OVERHEAD: usize = 112;

/// An event more makes a row some 25 bytes longer.
const ROW_STEP: usize = 64;

/// Rows in memory alone.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    rows: BTreeMap<Box<[u8]>, Vec<u8>>,
    bytes: usize,
    next: Option<i64>,
}

impl Rows for Memory {
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault> {
        let from = (Included(prefix), Unbounded);
        for (key, value) in self.rows.range::<[u8], _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            each(key, value);
        }
        Ok(())
    }

    fn first_from(&self, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut rows = self.rows.range::<[u8], _>((Included(from), Unbounded));
        Ok(rows.next().map(|(key, _)| key.to_vec()))
    }

    fn skip(&self, from: &[u8], rows: usize) -> Result<Option<Vec<u8>>, Fault> {
        let mut behind = self.rows.range::<[u8], _>((Included(from), Unbounded));
        Ok(behind.nth(rows).map(|(key, _)| key.to_vec()))
    }

    fn apply(&mut self, changes: &Pending, next: i64) -> Result<(), Fault> {
        for (key, value) in changes.iter() {
            let size = |row: &Vec<u8>| ROW_OVERHEAD + key.len() + row.capacity();
            let Some(value) = value else {
                let before = self.rows.remove(key);
                self.bytes -= before.map_or(0, |before| size(&before));
                continue;
            };
            // Most rows are there already, and grow: no key is made for them, and memory only now and then.
            let row = match self.rows.get_mut(key) {
                Some(row) => {
                    self.bytes -= size(row);
                    row
                }
                None => self.rows.entry(key.into()).or_default(),
            };
            row.clear();
            row.reserve_exact(value.len().next_multiple_of(ROW_STEP));
            row.extend_from_slice(value);
            self.bytes += size(row);
        }
        self.next = Some(next);
        Ok(())
    }

    fn usage(&self) -> StateUsage {
        StateUsage {
            rows: self.bytes,
            ..StateUsage::default()
        }
    }

    fn next_offset(&self) -> Option<i64> {
        self.next
    }
}

/// Opens the rows of partitions.
#[derive(Clone)]
pub(crate) enum Opener {
    Memory,
    Disk {
        stores: Stores,
        identity: Arc<Identity>,
    },
}

/// Rows cannot be kept where the settings say.
#[derive(Debug, thiserror::Error)]
#[error("QUADRILLE_STATE_DIR: {0}")]
pub(crate) struct OpenError(#[from] quadrille_state::Error);

impl OpenError {
    /// It may go better later: another lane of this process has the store open, or the disk is full.
    pub fn may_pass(&self) -> bool {
        use quadrille_state::Error;
        matches!(
            self.0,
            Error::AlreadyOpen { .. } | Error::Io { .. } | Error::Folder { .. }
        )
    }
}

impl Opener {
    /// The rows of a partition as they were kept, or none.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(&self, partition: i32) -> Result<Box<dyn Rows>, OpenError> {
        match self {
            Opener::Memory => Ok(Box::new(Memory::default())),
            Opener::Disk { stores, identity } => disk::open(stores, identity, partition),
        }
    }

    /// Deletes the rows of a partition: they stand for nothing.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn discard(&self, partition: i32) -> Result<(), OpenError> {
        match self {
            Opener::Memory => Ok(()),
            Opener::Disk { stores, identity } => Ok(stores.discard(&identity.pipeline, partition)?),
        }
    }
}
