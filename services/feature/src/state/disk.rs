//! Rows on disk, by [`quadrille_state`].

use std::{
    collections::BTreeMap,
    ops::Bound::{Included, Unbounded},
    time::{Duration, Instant},
};

use quadrille_service::fields::now_ms;
use quadrille_state::{Batch, Identity, Opened, Store, Stores};

use super::{
    pending::Pending,
    rows::{Fault, OpenError, Rows},
};

/// Rows of the store that are looked at in one go, deleted ones among them.
const ROWS_AT_ONCE: usize = 32;

/// How often it is tried to write what the disk had no room for.
const WRITTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Rows of one partition.
struct Disk {
    store: Store,
    /// Used again for every batch.
    batch: Batch,
    ahead: Option<Ahead>,
}

/// Changes that the disk had no room for: state is right without a disk, if it takes more memory.
struct Ahead {
    /// None: the row is deleted.
    rows: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    /// The changelog's offset behind them.
    next: i64,
    tried_at: Instant,
}

impl From<quadrille_state::Error> for Fault {
    fn from(error: quadrille_state::Error) -> Self {
        match error {
            quadrille_state::Error::Io { ref source, .. } => {
                Fault::Unread(format!("{error}: {source}"))
            }
            error => Fault::Damaged(error.to_string()),
        }
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
        ahead: None,
    }))
}

impl Disk {
    /// The first row that the store has from `from` on, whatever is ahead of it.
    fn first_stored(&self, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let (mut from, mut first) = (from.to_vec(), None);
        loop {
            // A row that is deleted counts, and is not shown.
            let next = self.store.scan_from(&from, ROWS_AT_ONCE, |key, _| {
                first.get_or_insert_with(|| key.to_vec());
            })?;
            match next {
                Some(next) if first.is_none() => from = next,
                _ => return Ok(first),
            }
        }
    }

    /// Writes what is in the batch. Where there is no room, it is false.
    fn write(&mut self, next: i64) -> Result<bool, Fault> {
        let error = match self.store.apply(&self.batch, next) {
            Ok(()) => return Ok(true),
            Err(error) => Fault::from(error),
        };
        match &error {
            Fault::Unread(why) if self.ahead.is_none() => {
                tracing::warn!(store = %self.store.name(), why, "state stays in memory until it can be written to disk");
                Ok(false)
            }
            Fault::Unread(_) => Ok(false),
            Fault::Damaged(_) => Err(error),
        }
    }

    /// Whether nothing is ahead of the store any more.
    fn catch_up(&mut self) -> Result<bool, Fault> {
        let Some(ahead) = &mut self.ahead else {
            return Ok(true);
        };
        ahead.tried_at = Instant::now();
        let next = ahead.next;
        self.batch.clear();
        for (key, row) in &ahead.rows {
            match row {
                Some(row) => self.batch.put(key, row),
                None => self.batch.delete(key),
            }
        }
        if !self.write(next)? {
            return Ok(false);
        }
        self.ahead = None;
        tracing::info!(store = %self.store.name(), "state is written to disk again");
        Ok(true)
    }
}

impl Ahead {
    fn add(&mut self, changes: &Pending, next: i64) {
        for (key, row) in changes.iter() {
            self.rows.insert(key.into(), row.map(Into::into));
        }
        self.next = next;
    }

    fn from<'a>(&'a self, from: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let rows = self.rows.range::<[u8], _>((Included(from), Unbounded));
        rows.map(|(key, row)| (&**key, row.as_deref()))
    }
}

impl Rows for Disk {
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Fault> {
        let Some(ahead) = &self.ahead else {
            return Ok(self.store.scan(prefix, each)?);
        };
        let mut rows = BTreeMap::new();
        self.store.scan(prefix, |key, row| {
            rows.insert(key.to_vec(), row.to_vec());
        })?;
        let own = ahead.from(prefix);
        for (key, row) in own.take_while(|(key, _)| key.starts_with(prefix)) {
            match row {
                Some(row) => rows.insert(key.to_vec(), row.to_vec()),
                None => rows.remove(key),
            };
        }
        rows.iter().for_each(|(key, row)| each(key, row));
        Ok(())
    }

    fn first_from(&self, from: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut stored = self.first_stored(from)?;
        let Some(ahead) = &self.ahead else {
            return Ok(stored);
        };
        while let Some(key) = &mut stored
            && ahead.rows.get(&**key).is_some_and(Option::is_none)
        {
            key.push(0);
            let behind = std::mem::take(key);
            stored = self.first_stored(&behind)?;
        }
        let mut own = ahead.from(from).filter(|(_, row)| row.is_some());
        let own = own.next().map(|(key, _)| key.to_vec());
        Ok(match (own, stored) {
            (Some(own), Some(stored)) => Some(own.min(stored)),
            (own, stored) => own.or(stored),
        })
    }

    fn apply(&mut self, changes: &Pending, next: i64) -> Result<(), Fault> {
        if let Some(ahead) = &mut self.ahead {
            ahead.add(changes, next);
            if ahead.tried_at.elapsed() >= WRITTEN_AGAIN_AFTER {
                self.catch_up()?;
            }
            return Ok(());
        }
        self.batch.clear();
        for (key, row) in changes.iter() {
            match row {
                Some(row) => self.batch.put(key, row),
                None => self.batch.delete(key),
            }
        }
        if !self.write(next)? {
            let mut ahead = Ahead {
                rows: BTreeMap::new(),
                next,
                tried_at: Instant::now(),
            };
            ahead.add(changes, next);
            self.ahead = Some(ahead);
        }
        Ok(())
    }

    fn next_offset(&self) -> Option<i64> {
        let ahead = self.ahead.as_ref().map(|ahead| ahead.next);
        ahead.or_else(|| self.store.next_offset())
    }

    fn caught_up(&mut self) {
        if self.ahead.is_none() {
            self.store.caught_up(now_ms());
        }
    }

    fn persist(&mut self) {
        let persisted = match self.catch_up() {
            Ok(true) => self.store.persist().map_err(Fault::from),
            Ok(false) => Ok(()),
            Err(fault) => Err(fault),
        };
        if let Err(error) = persisted {
            tracing::warn!(%error, "state not brought to disk; more of it will be read from the changelog");
        }
    }
}

#[cfg(test)]
mod tests;
