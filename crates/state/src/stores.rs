//! All stores of a process, in one folder and one budget of memory.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lsm_tree::{Cache, DescriptorTable};

use crate::{
    Error, Identity, Name, Store,
    budget::Budget,
    disk::{self, Caches, Disk, Failure},
    folders,
    identity::{Stamp, Why},
    inner::{Inner, Parts},
    memory::Memory,
    store::Handle,
    workers::Workers,
};

/// Of all stores: a process has some hundreds of files open for other reasons, and limits begin at 1,024.
const FILES_OPEN_MAX: usize = 256;

#[derive(Debug, Clone)]
pub struct Settings {
    /// This process' own.
    pub folder: PathBuf,
    /// Of all stores together: half for rows that are not on disk yet, half for blocks that were read from it.
    pub memory_bytes: usize,
    /// A store that was last caught up longer ago begins anew. Well below the changelog's `delete.retention.ms`, a day by
    /// default: in what is between, the store must have caught up.
    pub age_max: Duration,
    /// What a killed process has to read again comes from this time, and its stores are older by no more.
    pub flush_every: Duration,
}

impl Settings {
    pub const AGE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
    /// A flush is a few syncs, and every fourth one merges: some MB, a hundred at most.
    pub const FLUSH_EVERY: Duration = Duration::from_secs(60);

    pub fn new(folder: impl Into<PathBuf>, memory_bytes: usize) -> Self {
        Self {
            folder: folder.into(),
            memory_bytes,
            age_max: Self::AGE_MAX,
            flush_every: Self::FLUSH_EVERY,
        }
    }
}

/// What a store that was just opened holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: the changelog is to be read from its beginning.
    New,
    /// Everything before this offset.
    Kept { next_offset: i64 },
    /// Nothing: what was there could not be used, and is gone.
    Discarded { why: Why },
}

/// Memory and disk in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Of all stores: rows, and blocks read from disk. At most [`Settings::memory_bytes`], and what one batch adds.
    pub memory_bytes: usize,
    /// Of stores that are open.
    pub disk_bytes: u64,
    pub stores: Vec<StoreUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUsage {
    pub name: Name,
    /// Without blocks read from disk, which are everybody's.
    pub memory_bytes: usize,
    pub disk_bytes: u64,
}

/// The stores of this process; copies are cheap.
#[derive(Clone)]
pub struct Stores {
    process: Arc<Process>,
}

/// Ends when the last handle of it and of its stores is dropped.
pub(crate) struct Process {
    settings: Settings,
    caches: Caches,
    budget: Arc<Budget>,
    pub registry: Arc<Registry>,
    /// No folder of a store is ever used twice: what still has one of its files open cannot harm a later store.
    next_generation: AtomicU64,
    _workers: Workers,
    /// Last: the folder is others' when the threads have ended.
    _lock: File,
}

/// Stores that are open.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<Name, Slot>>);

enum Slot {
    Opening,
    Open(Arc<Inner>),
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &Name) -> Result<(), Error> {
        let mut stores = self.lock();
        if stores.contains_key(name) {
            return Err(Error::AlreadyOpen {
                store: name.clone(),
            });
        }
        stores.insert(name.clone(), Slot::Opening);
        Ok(())
    }

    fn begin_discard(&self, name: &Name) -> Result<Option<Arc<Inner>>, Error> {
        match self.lock().insert(name.clone(), Slot::Opening) {
            Some(Slot::Opening) => Err(Error::AlreadyOpen {
                store: name.clone(),
            }),
            Some(Slot::Open(store)) => Ok(Some(store)),
            None => Ok(None),
        }
    }

    /// Unless another took its place.
    pub fn remove(&self, store: &Arc<Inner>) {
        let mut stores = self.lock();
        if let Some(Slot::Open(open)) = stores.get(&store.name)
            && Arc::ptr_eq(open, store)
        {
            stores.remove(&store.name);
        }
    }

    pub fn open(&self) -> Vec<Arc<Inner>> {
        let stores = self.lock();
        let open = stores.values().filter_map(|slot| match slot {
            Slot::Open(store) => Some(store.clone()),
            Slot::Opening => None,
        });
        open.collect()
    }

    /// The one with most rows in memory, if any has one.
    pub fn largest(&self) -> Option<Arc<Inner>> {
        let stores = self.open().into_iter();
        let held = stores.filter(|store| store.held_bytes() > 0);
        held.max_by_key(|store| store.held_bytes())
    }
}

impl Stores {
    /// Makes the folder if there is none.
    pub fn open_folder(settings: Settings) -> Result<Self, Error> {
        let folder = settings.folder.clone();
        let failed = |source| Error::Folder {
            folder: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::create(folder.join(folders::LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { folder }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let budget = Arc::new(Budget::new(settings.memory_bytes));
        let registry = Arc::<Registry>::default();
        let workers = Workers::start(budget.clone(), registry.clone(), settings.flush_every);
        let workers = workers.map_err(failed)?;
        let cache_bytes = Budget::cache_bytes(settings.memory_bytes);
        let process = Process {
            settings,
            caches: Caches {
                blocks: Arc::new(Cache::with_capacity_bytes(cache_bytes)),
                files: Arc::new(DescriptorTable::new(FILES_OPEN_MAX)),
            },
            budget,
            registry,
            next_generation: AtomicU64::new(0),
            _workers: workers,
            _lock: lock,
        };
        Ok(Self {
            process: Arc::new(process),
        })
    }

    /// Opens the store of a partition, or begins one. `now_ms`: the wall clock, read before the changelog is.
    pub fn open(
        &self,
        identity: &Identity,
        partition: i32,
        now_ms: i64,
    ) -> Result<(Store, Opened), Error> {
        let name = Name {
            pipeline: identity.pipeline.clone(),
            partition,
        };
        let process = &self.process;
        process.registry.begin(&name)?;
        let opened = process.open(identity, &name, now_ms);
        let mut stores = process.registry.lock();
        match opened {
            Ok((inner, opened)) => {
                let inner = Arc::new(inner);
                stores.insert(name, Slot::Open(inner.clone()));
                let process = process.clone();
                Ok((Store::new(Handle { inner, process }), opened))
            }
            Err(error) => {
                stores.remove(&name);
                Err(error)
            }
        }
    }

    /// Deletes a store, open or not; its handles answer [`Error::Closed`] from then on. It can be opened at once again.
    pub fn discard(&self, pipeline: &str, partition: i32) -> Result<(), Error> {
        let name = Name {
            pipeline: pipeline.to_string(),
            partition,
        };
        let process = &self.process;
        // Nobody else opens or discards it meanwhile.
        let open = process.registry.begin_discard(&name)?;
        if let Some(store) = open {
            store.close();
        }
        let discarded = folders::remove(&process.settings.folder, &name);
        process.registry.lock().remove(&name);
        discarded.map_err(|source| Error::Io {
            store: name,
            source,
        })
    }

    /// Deletes stores that are not open and were neither opened nor persisted for so long; how many.
    pub fn sweep(&self, ttl: Duration, now_ms: i64) -> Result<usize, Error> {
        let folder = &self.process.settings.folder;
        let failed = |source| Error::Folder {
            folder: folder.clone(),
            source,
        };
        let mut deleted = 0;
        for (name, touched_ms) in folders::list(folder).map_err(failed)? {
            if now_ms.saturating_sub(touched_ms) < ttl.as_millis() as i64 {
                continue;
            }
            // Nobody opens it meanwhile.
            if self.process.registry.begin(&name).is_err() {
                continue;
            }
            let removed = folders::remove(folder, &name);
            self.process.registry.lock().remove(&name);
            removed.map_err(failed)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    pub fn usage(&self) -> Usage {
        let open = self.process.registry.open();
        let stores = open.iter().map(|store| {
            let (memory_bytes, disk_bytes) = store.usage();
            StoreUsage {
                name: store.name.clone(),
                memory_bytes,
                disk_bytes,
            }
        });
        let mut stores: Vec<StoreUsage> = stores.collect();
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        let rows: usize = stores.iter().map(|store| store.memory_bytes).sum();
        Usage {
            memory_bytes: rows + self.process.caches.blocks.size() as usize,
            disk_bytes: stores.iter().map(|store| store.disk_bytes).sum(),
            stores,
        }
    }
}

/// What was found in a store's folder.
enum Found {
    Nothing,
    Usable(Disk, Stamp),
    /// Without a row.
    Empty(Disk),
    Unusable(Why),
}

impl Process {
    fn open(
        &self,
        identity: &Identity,
        name: &Name,
        now_ms: i64,
    ) -> Result<(Inner, Opened), Error> {
        let failed = |source| Error::Io {
            store: name.clone(),
            source,
        };
        let at = folders::of(&self.settings.folder, name);
        let generation = folders::newest(&at).map_err(failed)?;
        self.next_generation
            .fetch_max(generation.map_or(0, |found| found + 1), Ordering::Relaxed);
        let found = match generation {
            None => Found::Nothing,
            Some(generation) => {
                let folder = at.join(generation.to_string());
                let found = self.find(identity, name, &folder, now_ms);
                found.map_err(failed)?
            }
        };
        let (disk, folder, stamp, opened) = match (found, generation) {
            (Found::Usable(disk, stamp), Some(generation)) => {
                let next_offset = stamp.next_offset;
                let folder = at.join(generation.to_string());
                (disk, folder, Some(stamp), Opened::Kept { next_offset })
            }
            (Found::Empty(disk), Some(generation)) => {
                (disk, at.join(generation.to_string()), None, Opened::New)
            }
            (found, _) => {
                let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
                let folder = at.join(generation.to_string());
                folders::begin(&folder).map_err(failed)?;
                let disk = Disk::open(&folder, &self.caches);
                let disk = disk.map_err(|failure| into_error(name, failure))?;
                let opened = match found {
                    Found::Unusable(why) => Opened::Discarded { why },
                    _ => Opened::New,
                };
                (disk, folder, None, opened)
            }
        };
        folders::remove_others(&at, &folder).map_err(failed)?;
        folders::touch(&at, now_ms).map_err(failed)?;
        let memory = Memory {
            active: Default::default(),
            sealed: None,
            next_offset: stamp.map(|stamp| stamp.next_offset),
            as_of_ms: stamp.map_or(now_ms, |stamp| stamp.as_of_ms),
            persisted: stamp,
            disk: Some(Arc::new(disk)),
        };
        let budget = self.budget.clone();
        let parts = Parts {
            name,
            identity,
            folder: at,
            opened_ms: now_ms,
        };
        let inner = Inner::new(parts, budget, memory);
        Ok((inner, opened))
    }

    fn find(
        &self,
        identity: &Identity,
        name: &Name,
        folder: &Path,
        now_ms: i64,
    ) -> io::Result<Found> {
        match self.read(identity, name, folder) {
            Ok(Found::Usable(_, stamp))
                if u128::from(now_ms.abs_diff(stamp.as_of_ms))
                    > self.settings.age_max.as_millis() =>
            {
                let age_ms = now_ms.abs_diff(stamp.as_of_ms);
                Ok(Found::Unusable(Why::TooOld { age_ms }))
            }
            Ok(found) => Ok(found),
            Err(Failure::Damaged(why)) => Ok(Found::Unusable(Why::Damaged(why))),
            Err(Failure::Io(error)) => Err(error),
        }
    }

    fn read(&self, identity: &Identity, name: &Name, folder: &Path) -> Result<Found, Failure> {
        if !crate::verify::has_list(folder).map_err(Failure::Io)? {
            return if crate::verify::has_tables(folder).map_err(Failure::Io)? {
                Err(Failure::Damaged("tables without a list".to_string()))
            } else {
                Ok(Found::Nothing)
            };
        }
        let disk = Disk::open(folder, &self.caches)?;
        match disk.get(disk::STAMP_KEY)? {
            Some(row) => match identity.stamp(name.partition, &row) {
                Ok(stamp) => Ok(Found::Usable(disk, stamp)),
                Err(why) => Ok(Found::Unusable(why)),
            },
            None if disk.is_empty() => Ok(Found::Empty(disk)),
            None => Err(Failure::Damaged("rows of no changelog".to_string())),
        }
    }
}

fn into_error(name: &Name, failure: Failure) -> Error {
    let store = name.clone();
    match failure {
        Failure::Io(source) => Error::Io { store, source },
        Failure::Damaged(why) => Error::Damaged { store, why },
    }
}
