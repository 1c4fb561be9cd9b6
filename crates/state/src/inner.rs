//! A store as its handles and the two threads of the process see it.

use std::{
    ops::Bound,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    Batch, Error, Identity, Name,
    budget::Budget,
    disk::{self, Disk, Failure},
    folders,
    memory::Memory,
    workers::MergeDue,
};

pub(crate) struct Inner {
    pub name: Name,
    /// Of the partition.
    folder: PathBuf,
    opened_ms: i64,
    identity: Identity,
    budget: Arc<Budget>,
    memory: RwLock<Memory>,
    /// Of rows in memory, as of the last change: which store to flush is chosen without its lock.
    held_bytes: AtomicUsize,
    damaged: OnceLock<String>,
    /// Held while rows are written to disk. Taken before `merging`, and both before `memory`.
    flushing: Mutex<()>,
    merging: Mutex<()>,
    merge_due: AtomicBool,
}

pub(crate) struct Parts<'a> {
    pub name: &'a Name,
    pub identity: &'a Identity,
    pub folder: PathBuf,
    pub opened_ms: i64,
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Inner {
    pub fn new(parts: Parts<'_>, budget: Arc<Budget>, memory: Memory) -> Self {
        Self {
            name: parts.name.clone(),
            folder: parts.folder,
            opened_ms: parts.opened_ms,
            identity: parts.identity.clone(),
            budget,
            memory: RwLock::new(memory),
            held_bytes: AtomicUsize::new(0),
            damaged: OnceLock::new(),
            flushing: Mutex::default(),
            merging: Mutex::default(),
            merge_due: AtomicBool::new(false),
        }
    }

    pub fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, Error> {
        let disk = {
            let memory = self.read()?;
            if let Some(value) = memory.get(key) {
                into.extend_from_slice(value.map_or(&[], |value| value));
                return Ok(value.is_some());
            }
            self.disk_of(&memory)?
        };
        if disk.is_empty() {
            return Ok(false);
        }
        let value = disk.get(key).map_err(|failure| self.error(failure))?;
        into.extend_from_slice(value.as_deref().unwrap_or_default());
        Ok(value.is_some())
    }

    pub fn range(
        &self,
        range: Bounds<'_>,
        rows_max: usize,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>, Error> {
        let fail = |failure| self.error(failure);
        // Both under one lock: rows of one batch are all there, or none.
        let (rows, end, disk) = {
            let memory = self.read()?;
            let disk = self.disk_of(&memory)?;
            let (rows, end) = memory.range(&range, rows_max);
            (rows, end, (!disk.is_empty()).then(|| disk.range(&range)))
        };
        let disk = disk.transpose().map_err(fail)?;
        let next = disk::merge(rows, end, disk, rows_max, each).map_err(fail)?;
        Ok(next.map(|key| key.to_vec()))
    }

    pub fn apply(&self, batch: &Batch, next_offset: i64) -> Result<(), Error> {
        batch.check()?;
        if self.budget.wait_for(batch.bytes()).is_err() {
            // Says what keeps rows from the disk, or makes room.
            self.persist()?;
        }
        let mut memory = self.write()?;
        self.disk_of(&memory)?;
        if let Some(stands_for) = memory.next_offset.filter(|offset| *offset > next_offset) {
            return Err(Error::Offset {
                store: self.name.clone(),
                stands_for,
                next_offset,
            });
        }
        let before = memory.active.bytes();
        for (key, value) in batch.changes() {
            memory.active.set(key, value);
        }
        memory.next_offset = Some(next_offset);
        let after = memory.active.bytes();
        self.held_bytes.store(memory.bytes(), Ordering::Relaxed);
        // Still under the lock: a flush would count these rows before they are counted here.
        self.budget.active_changed(before, after);
        Ok(())
    }

    pub fn next_offset(&self) -> Option<i64> {
        self.lock_read().next_offset
    }

    pub fn as_of_ms(&self) -> i64 {
        self.lock_read().as_of_ms
    }

    pub fn caught_up(&self, now_ms: i64) {
        let mut memory = self.lock_write();
        memory.as_of_ms = memory.as_of_ms.max(now_ms);
    }

    /// All that was applied before.
    pub fn persist(&self) -> Result<(), Error> {
        let _flushing = lock(&self.flushing);
        // What an earlier flush could not write, and then the rest.
        self.flush_sealed()?;
        self.seal()?;
        self.flush_sealed()
    }

    /// Writes what is in memory, or the older half of it; whether tables are to be merged.
    pub fn flush(&self) -> Result<MergeDue, Error> {
        let _flushing = lock(&self.flushing);
        self.seal()?;
        self.flush_sealed()?;
        let disk = self.disk_of(&*self.read()?)?;
        if disk.flushes() > disk::FLUSHES_MAX {
            self.merge_all()?;
        }
        if disk.is_merge_due() && !self.merge_due.swap(true, Ordering::AcqRel) {
            return Ok(MergeDue::Yes);
        }
        Ok(MergeDue::No)
    }

    /// Merges until nothing is due.
    pub fn merge_all(&self) -> Result<(), Error> {
        let _merging = lock(&self.merging);
        self.merge_due.store(false, Ordering::Release);
        loop {
            let disk = self.disk_of(&*self.read()?)?;
            if !disk.merge_once().map_err(|failure| self.error(failure))? {
                return Ok(());
            }
        }
    }

    /// Ends what the threads do with it, and forgets what is in memory. Later calls fail.
    pub fn close(&self) {
        // First, so that a merge that goes from table to table ends soon.
        let disk = self.lock_write().disk.take();
        let _flushing = lock(&self.flushing);
        let _merging = lock(&self.merging);
        self.forget();
        drop(disk);
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Bytes in memory (cache excepted) and on disk.
    pub fn usage(&self) -> (usize, u64) {
        let memory = self.lock_read();
        let disk = memory.disk.as_ref();
        let pinned = disk.map_or(0, |disk| disk.pinned_bytes());
        (
            memory.bytes() + pinned,
            disk.map_or(0, |disk| disk.disk_bytes()),
        )
    }

    fn seal(&self) -> Result<(), Error> {
        let mut memory = self.write()?;
        self.disk_of(&memory)?;
        let before = memory.active.bytes();
        memory.seal();
        if memory.active.bytes() < before {
            self.budget.sealed(before);
        }
        Ok(())
    }

    fn flush_sealed(&self) -> Result<(), Error> {
        let (sealed, disk) = {
            let memory = self.read()?;
            match memory.sealed.clone() {
                Some(sealed) => (sealed, self.disk_of(&memory)?),
                None => return Ok(()),
            }
        };
        disk.write(&self.identity, self.name.partition, &sealed)
            .map_err(|failure| self.error(failure))?;
        let mut memory = self.lock_write();
        // Unless it was closed or found damaged meanwhile.
        if memory.sealed.take().is_some() {
            memory.persisted = Some(sealed.stamp);
            self.budget.freed(sealed.rows.bytes());
            self.held_bytes.store(memory.bytes(), Ordering::Relaxed);
        }
        drop(memory);
        // Without it the store is swept too early, which costs a restore.
        let _ = folders::touch(&self.folder, sealed.stamp.as_of_ms.max(self.opened_ms));
        tracing::debug!(store = %self.name, bytes = sealed.rows.bytes(), next_offset = sealed.stamp.next_offset, "keyed state flushed");
        Ok(())
    }

    fn error(&self, failure: Failure) -> Error {
        let store = self.name.clone();
        match failure {
            // It was closed while it was read.
            _ if self.lock_read().disk.is_none() && self.damaged.get().is_none() => {
                Error::Closed { store }
            }
            Failure::Io(source) => Error::Io { store, source },
            Failure::Damaged(why) => {
                let why = self.damaged.get_or_init(|| why).clone();
                // Its rows serve nothing any more, and others need the memory.
                self.forget();
                Error::Damaged { store, why }
            }
        }
    }

    fn forget(&self) {
        let mut memory = self.lock_write();
        let active = std::mem::take(&mut memory.active);
        self.held_bytes.store(0, Ordering::Relaxed);
        self.budget.active_changed(active.bytes(), 0);
        if let Some(sealed) = memory.sealed.take() {
            self.budget.freed(sealed.rows.bytes());
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.damaged.get() {
            None => Ok(()),
            Some(why) => Err(Error::Damaged {
                store: self.name.clone(),
                why: why.clone(),
            }),
        }
    }

    fn disk_of(&self, memory: &Memory) -> Result<Arc<Disk>, Error> {
        memory.disk.clone().ok_or_else(|| Error::Closed {
            store: self.name.clone(),
        })
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Memory>, Error> {
        self.check()?;
        Ok(self.lock_read())
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Memory>, Error> {
        self.check()?;
        Ok(self.lock_write())
    }

    fn lock_read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
