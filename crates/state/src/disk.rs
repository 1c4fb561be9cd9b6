//! One store's rows on disk: all that is known about lsm-tree. Its panics end here: they are damage.

use std::{
    any::Any,
    fs,
    io::{self, ErrorKind},
    ops::Bound,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Arc,
};

use lsm_tree::{
    AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, IterGuardImpl, SeqNo,
    SequenceNumberCounter, UserKey, UserValue,
    compaction::Leveled,
    config::{BlockSizePolicy, PinningPolicy},
};

use crate::{
    identity::Identity,
    memory::{Row, Sealed},
    verify,
};

/// The key of the row that says what the store stands for. Rows' keys are longer: it is the first of all.
pub(crate) const STAMP_KEY: &[u8] = &[0];

/// Flushes that a read may have to look through before they are merged.
const FLUSHES_MERGED: u8 = 4;
/// Flushes behind which the next flush waits for the merge.
pub(crate) const FLUSHES_MAX: usize = 12;
/// Bounds what one merge below the flushes rewrites, and so its time.
const TABLE_BYTES: u64 = 16 << 20;
/// Read at once, and what a cache evicts.
const BLOCK_BYTES: u32 = 4 << 10;

#[derive(Debug)]
pub(crate) enum Failure {
    Damaged(String),
    Io(io::Error),
}

/// What the stores of a process share.
#[derive(Clone)]
pub(crate) struct Caches {
    pub blocks: Arc<Cache>,
    pub files: Arc<DescriptorTable>,
}

pub(crate) struct Disk {
    tree: AnyTree,
    seqno: SequenceNumberCounter,
}

/// Rows of a range in order, tombstones left out.
type Range = Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send>;

/// What lsm-tree says is damage, except where the system refused something.
fn failure(error: lsm_tree::Error) -> Failure {
    match error {
        lsm_tree::Error::Io(error) => io_failure(error),
        error => Failure::Damaged(format!("{error:?}")),
    }
}

pub(crate) fn io_failure(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::NotFound
        | ErrorKind::InvalidData
        | ErrorKind::InvalidInput => Failure::Damaged(error.to_string()),
        _ => Failure::Io(error),
    }
}

fn guarded<T>(call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, Failure> {
    match panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(failure),
        Err(panic) => Err(Failure::Damaged(panic_message(panic.as_ref()))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic").to_string()
}

impl Disk {
    /// Makes the folder if there is none. What is in it is checked as far as it is read: the lists of tables, and every
    /// table's own list of parts. Blocks of rows have checksums that are checked when they are read.
    pub fn open(folder: &Path, caches: &Caches) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(Failure::Io)?;
        verify::folder(folder)?;
        let seqno = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        // Parts of an index or a filter come and go through the cache, as blocks of rows do: the budget holds for all. Only
        // a table's list of such parts stays in memory.
        let config = Config::new(folder, seqno.clone(), visible.clone())
            .use_cache(caches.blocks.clone())
            .use_descriptor_table(Some(caches.files.clone()))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            .index_block_partitioning_policy(PinningPolicy::all(true))
            .filter_block_partitioning_policy(PinningPolicy::all(true))
            .index_block_pinning_policy(PinningPolicy::all(false))
            .filter_block_pinning_policy(PinningPolicy::all(false));
        let tree = guarded(|| {
            let tree = config.open()?;
            // Rows written from now on are newer than those that are there.
            if let Some(highest) = tree.get_highest_seqno() {
                seqno.set(highest + 1);
                visible.set(highest + 1);
            }
            Ok(tree)
        })?;
        Ok(Self { tree, seqno })
    }

    pub fn is_empty(&self) -> bool {
        self.tree.table_count() == 0
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<UserValue>, Failure> {
        guarded(|| self.tree.get(key, SeqNo::MAX))
    }

    /// Of this moment, however long it is read.
    pub fn range(&self, range: &(Bound<&[u8]>, Bound<&[u8]>)) -> Result<DiskRows, Failure> {
        let rows = guarded(|| Ok(self.tree.range::<&[u8], _>(*range, SeqNo::MAX, None)))?;
        Ok(DiskRows(rows))
    }

    /// All of it, with what the store then stands for, or nothing. On disk when it returns.
    pub fn write(
        &self,
        identity: &Identity,
        partition: i32,
        sealed: &Sealed,
    ) -> Result<(), Failure> {
        let stamp = identity.row(partition, sealed.stamp);
        guarded(|| {
            let mut ingestion = self.tree.ingestion()?;
            ingestion.write(STAMP_KEY, stamp)?;
            for (key, value) in sealed.rows.iter() {
                match value {
                    Some(value) => ingestion.write(key.clone(), value.clone())?,
                    None => ingestion.write_tombstone(key.clone())?,
                }
            }
            ingestion.finish()
        })
    }

    /// Flushes not merged yet.
    pub fn flushes(&self) -> usize {
        self.tree.l0_run_count()
    }

    pub fn is_merge_due(&self) -> bool {
        self.flushes() >= usize::from(FLUSHES_MERGED)
    }

    /// Merges some tables, if that is due; whether anything was done. Takes as long as it takes to rewrite all flushes and
    /// the level below (five tables' size or so), or one table and what it overlaps.
    pub fn merge_once(&self) -> Result<bool, Failure> {
        let strategy = Leveled::default()
            .with_l0_threshold(FLUSHES_MERGED)
            .with_table_target_size(TABLE_BYTES);
        guarded(|| {
            let before = self.tree.current_version().id();
            // Nobody reads as of an earlier moment by number: an iterator keeps its tables itself.
            self.tree.compact(Arc::new(strategy), self.seqno.get())?;
            Ok(self.tree.current_version().id() != before)
        })
    }

    pub fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// What stays in memory outside the cache.
    pub fn pinned_bytes(&self) -> usize {
        self.tree.pinned_block_index_size() + self.tree.pinned_filter_size()
    }
}

pub(crate) struct DiskRows(Range);

impl DiskRows {
    pub fn next_row(&mut self) -> Result<Option<(UserKey, UserValue)>, Failure> {
        guarded(|| self.0.next().map(Guard::into_inner).transpose())
    }
}

/// The newest of both, in order, up to (not including) `end` if there is one. Stops after `rows_max` rows, with the key of
/// the next.
pub(crate) fn merge(
    memory: Vec<Row>,
    end: Option<UserKey>,
    mut disk: Option<DiskRows>,
    rows_max: usize,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<Option<UserKey>, Failure> {
    let mut next_on_disk = || match &mut disk {
        Some(rows) => rows.next_row(),
        None => Ok(None),
    };
    let mut memory = memory.into_iter().peekable();
    let mut on_disk = next_on_disk()?;
    let mut rows = 0;
    loop {
        let from_memory = match (memory.peek(), &on_disk) {
            (Some((key, _)), Some((other, _))) => key <= other,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return Ok(end),
        };
        let (key, value) = if from_memory {
            let Some((key, value)) = memory.next() else {
                return Ok(end);
            };
            if on_disk.as_ref().is_some_and(|(other, _)| *other == key) {
                on_disk = next_on_disk()?;
            }
            (key, value)
        } else {
            let Some((key, value)) = on_disk else {
                return Ok(end);
            };
            on_disk = next_on_disk()?;
            (key, Some(value))
        };
        if end.as_ref().is_some_and(|end| key >= *end) {
            return Ok(end);
        }
        if let Some(value) = value.filter(|_| &*key != STAMP_KEY) {
            if rows == rows_max {
                return Ok(Some(key));
            }
            each(&key, &value);
            rows += 1;
        }
    }
}

#[cfg(test)]
mod tests;
