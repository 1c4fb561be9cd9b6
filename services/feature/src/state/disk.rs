//! Rows on disk, by [`quadrille_state`].

use std::{
    collections::BTreeMap,
    ops::Bound::{Included, Unbounded},
    time::{Duration, Instant},
};

use quadrille_service::fields::now_ms;
use quadrille_state::{Batch, Identity, Opened, Store, Stores};
use quadrille_telemetry::metrics::StateUsage;

use super::{
    pending::Pending,
    rows::{Fault, OpenError, ROW_OVERHEAD, Rows},
};

/// Rows of the store that are looked at in one go, deleted ones among them.
const ROWS_AT_ONCE: usize = 32;

/// How often it is tried to write what the disk had no room for.
const WRITTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How much of it is offered to the store at once: all of it would be copied in vain, again and again.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are written between two batches.
const PIECES_AT_ONCE: usize = 32;
/// While there is no room, the log says so.
const WARNED_AGAIN_AFTER: Duration = Duration::from_mins(1);

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
    /// That they take in memory.
    bytes: usize,
    /// The changelog's offset behind them.
    next: i64,
    tried_at: Instant,
    warned_at: Instant,
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
    Ok(Box::new(opened(stores, identity, partition)?))
}

fn opened(stores: &Stores, identity: &Identity, partition: i32) -> Result<Disk, OpenError> {
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
    Ok(Disk {
        store,
        batch: Batch::new(),
        ahead: None,
    })
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

    /// Writes at most so many pieces of what is ahead of the store. Whether nothing is any more.
    fn catch_up(&mut self, pieces_max: usize) -> Result<bool, Fault> {
        for _ in 0..pieces_max {
            let Some(ahead) = &mut self.ahead else {
                break;
            };
            ahead.tried_at = Instant::now();
            let is_all = ahead.copy_piece(&mut self.batch);
            // Until all of it is there the store stands for what it stood for: should the rest be lost, the changelog is read from
            // there, and what comes from it lies over rows that are newer.
            let next = match is_all {
                true => ahead.next,
                false => self.store.next_offset().unwrap_or(0),
            };
            if !self.write(next)? {
                return Ok(false);
            }
            match (&mut self.ahead, is_all) {
                (Some(ahead), false) => ahead.drop_first(self.batch.len()),
                _ => {
                    self.ahead = None;
                    tracing::info!(store = %self.store.name(), "state is written to disk again");
                }
            }
        }
        Ok(self.ahead.is_none())
    }

    /// Tries again to write what is ahead of the store, if it is time to.
    fn try_again(&mut self) -> Result<(), Fault> {
        let is_due = |ahead: &Ahead| ahead.tried_at.elapsed() >= WRITTEN_AGAIN_AFTER;
        if self.ahead.as_ref().is_some_and(is_due) {
            self.catch_up(PIECES_AT_ONCE)?;
        }
        if let Some(ahead) = &mut self.ahead
            && ahead.warned_at.elapsed() >= WARNED_AGAIN_AFTER
        {
            ahead.warned_at = Instant::now();
            let (store, bytes) = (self.store.name(), ahead.bytes);
            tracing::warn!(%store, bytes, "state still stays in memory: there is no room on the disk, or it cannot be written");
        }
        Ok(())
    }
}

impl Ahead {
    fn new(changes: &Pending, next: i64) -> Self {
        let mut ahead = Ahead {
            rows: BTreeMap::new(),
            bytes: 0,
            next,
            tried_at: Instant::now(),
            warned_at: Instant::now(),
        };
        ahead.add(changes, next);
        ahead
    }

    fn add(&mut self, changes: &Pending, next: i64) {
        for (key, row) in changes.iter() {
            self.bytes += size(key, row);
            let before = self.rows.insert(key.into(), row.map(Into::into));
            self.bytes -= before.map_or(0, |before| size(key, before.as_deref()));
        }
        self.next = next;
    }

    /// The first rows, one at least where there is one. Whether these are all.
    fn copy_piece(&self, to: &mut Batch) -> bool {
        to.clear();
        for (key, row) in &self.rows {
            if to.bytes() >= PIECE_BYTES {
                return false;
            }
            match row {
                Some(row) => to.put(key, row),
                None => to.delete(key),
            }
        }
        true
    }

    fn drop_first(&mut self, rows: usize) {
        for _ in 0..rows {
            let first = self.rows.pop_first();
            self.bytes -= first.map_or(0, |(key, row)| size(&key, row.as_deref()));
        }
    }

    fn from<'a>(&'a self, from: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let rows = self.rows.range::<[u8], _>((Included(from), Unbounded));
        rows.map(|(key, row)| (&**key, row.as_deref()))
    }
}

fn size(key: &[u8], row: Option<&[u8]>) -> usize {
    ROW_OVERHEAD + key.len() + row.map_or(0, <[u8]>::len)
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

    /// Passes over what is ahead of the store, which then is looked at the next time.
    fn skip(&self, from: &[u8], rows: usize) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.store.scan_from(from, rows, |_, _| {})?)
    }

    fn apply(&mut self, changes: &Pending, next: i64) -> Result<(), Fault> {
        if let Some(ahead) = &mut self.ahead {
            ahead.add(changes, next);
            return self.try_again();
        }
        self.batch.clear();
        for (key, row) in changes.iter() {
            match row {
                Some(row) => self.batch.put(key, row),
                None => self.batch.delete(key),
            }
        }
        if !self.write(next)? {
            self.ahead = Some(Ahead::new(changes, next));
        }
        Ok(())
    }

    fn next_offset(&self) -> Option<i64> {
        let ahead = self.ahead.as_ref().map(|ahead| ahead.next);
        ahead.or_else(|| self.store.next_offset())
    }

    fn tend(&mut self) -> Result<(), Fault> {
        self.try_again()
    }

    fn usage(&self) -> StateUsage {
        StateUsage {
            unwritten: self.ahead.as_ref().map_or(0, |ahead| ahead.bytes),
            ..StateUsage::default()
        }
    }

    fn caught_up(&mut self) {
        if self.ahead.is_none() {
            self.store.caught_up(now_ms());
        }
    }

    fn persist(&mut self) {
        let persisted = match self.catch_up(usize::MAX) {
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
