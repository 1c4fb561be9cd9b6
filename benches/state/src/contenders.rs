//! The two stores, with the same memory: half for rows not written yet, half for blocks that were read.

use std::{error::Error, path::Path};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use quadrille_state::{Batch, Identity, Settings, Store, Stores};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub trait Contend {
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool>;
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn apply(&mut self, next_offset: u64) -> Result<()>;
    /// Rows of a key's prefix.
    fn scan(&self, prefix: &[u8]) -> Result<usize>;
    /// What it stands for: the tail is read from there on.
    fn next_offset(&self) -> Result<u64>;
}

pub struct State {
    store: Store,
    batch: Batch,
}

impl State {
    pub fn open(folder: &Path, memory_bytes: usize) -> Result<Self> {
        let stores = Stores::open_folder(Settings::new(folder, memory_bytes))?;
        let identity = Identity {
            pipeline: "bench".to_string(),
            cluster: String::new(),
            topic_id: String::new(),
            definition: [0; 8],
        };
        let (store, _) = stores.open(&identity, 0, 0)?;
        let batch = Batch::new();
        Ok(Self { store, batch })
    }
}

impl Contend for State {
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool> {
        Ok(self.store.get(key, into)?)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.put(key, value);
    }

    fn apply(&mut self, next_offset: u64) -> Result<()> {
        self.store.apply(&self.batch, next_offset as i64)?;
        self.batch.clear();
        Ok(())
    }

    fn scan(&self, prefix: &[u8]) -> Result<usize> {
        let mut rows = 0;
        self.store.scan(prefix, |_, _| rows += 1)?;
        Ok(rows)
    }

    fn next_offset(&self) -> Result<u64> {
        Ok(self.store.next_offset().unwrap_or(0) as u64)
    }
}

pub struct Fjall {
    database: Database,
    rows: Keyspace,
    batch: fjall::OwnedWriteBatch,
}

const OFFSET: &[u8] = b"offset";

impl Fjall {
    pub fn open(folder: &Path, memory_bytes: usize) -> Result<Self> {
        let half = memory_bytes as u64 / 2;
        let database = Database::builder(folder).cache_size(half).open()?;
        // One is written while the other is filled.
        let options = || KeyspaceCreateOptions::default().max_memtable_size(half / 2);
        let rows = database.keyspace("rows", options)?;
        let batch = database.batch();
        Ok(Self {
            database,
            rows,
            batch,
        })
    }
}

impl Contend for Fjall {
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool> {
        let value = self.rows.get(key)?;
        into.extend_from_slice(value.as_deref().unwrap_or_default());
        Ok(value.is_some())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.insert(&self.rows, key, value);
    }

    fn apply(&mut self, next_offset: u64) -> Result<()> {
        let mut batch = std::mem::replace(&mut self.batch, self.database.batch());
        batch.insert(&self.rows, OFFSET, next_offset.to_be_bytes());
        Ok(batch.commit()?)
    }

    fn scan(&self, prefix: &[u8]) -> Result<usize> {
        let mut rows = 0;
        for row in self.rows.prefix(prefix) {
            row.into_inner()?;
            rows += 1;
        }
        Ok(rows)
    }

    fn next_offset(&self) -> Result<u64> {
        let offset = self.rows.get(OFFSET)?;
        let offset = offset.and_then(|offset| offset.as_ref().try_into().ok());
        Ok(offset.map_or(0, u64::from_be_bytes))
    }
}
