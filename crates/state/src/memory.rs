//! The rows that are not on disk yet.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use lsm_tree::{UserKey, UserValue};

use crate::{disk::Disk, identity::Stamp};

/// A row's share of a node of the map (slots of 24 + 24 bytes, two thirds full) and of the allocator's headers, roughly.
const ROW_OVERHEAD_BYTES: usize = 112;

/// A row, or that it was deleted.
pub(crate) type Row = (UserKey, Option<UserValue>);

/// Sorted rows and tombstones.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: BTreeMap<UserKey, Option<UserValue>>,
    bytes: usize,
}

impl Rows {
    /// Nearly what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `None`: not known here. `Some(None)`: deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<&UserValue>> {
        self.rows.get(key).map(Option::as_ref)
    }

    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.bytes += value.map_or(0, <[u8]>::len);
        let value = value.map(UserValue::from);
        // Rows that are there already are most of all: no key is made for them.
        if let Some(slot) = self.rows.get_mut(key) {
            let old = std::mem::replace(slot, value);
            self.bytes -= old.map_or(0, |old| old.len());
        } else {
            self.bytes += key.len() + ROW_OVERHEAD_BYTES;
            self.rows.insert(UserKey::from(key), value);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&UserKey, Option<&UserValue>)> {
        self.rows.iter().map(|(key, value)| (key, value.as_ref()))
    }

    fn range<'a>(&'a self, range: &(Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = Row> + 'a {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let rows = self.rows.range::<[u8], _>(range);
        rows.map(|(key, value)| (key.clone(), value.clone()))
    }
}

/// Rows on their way to the disk, and what the disk then stands for.
pub(crate) struct Sealed {
    pub rows: Rows,
    pub stamp: Stamp,
}

pub(crate) struct Memory {
    /// Newer than those sealed, which are newer than those on disk.
    pub active: Rows,
    pub sealed: Option<Arc<Sealed>>,
    pub next_offset: Option<i64>,
    pub as_of_ms: i64,
    /// What the disk stands for.
    pub persisted: Option<Stamp>,
    /// None once it is closed.
    pub disk: Option<Arc<Disk>>,
}

impl Memory {
    pub fn get(&self, key: &[u8]) -> Option<Option<&UserValue>> {
        let sealed = || self.sealed.as_ref()?.rows.get(key);
        self.active.get(key).or_else(sealed)
    }

    /// Makes what is there ready for the disk, unless something is already, or the disk has it all.
    pub fn seal(&mut self) {
        let Some(next_offset) = self.next_offset.filter(|_| self.sealed.is_none()) else {
            return;
        };
        let stamp = Stamp {
            next_offset,
            as_of_ms: self.as_of_ms,
        };
        if !self.active.is_empty() || self.persisted != Some(stamp) {
            let rows = std::mem::take(&mut self.active);
            self.sealed = Some(Arc::new(Sealed { rows, stamp }));
        }
    }

    pub fn bytes(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(0, |sealed| sealed.rows.bytes());
        self.active.bytes() + sealed
    }

    /// Copies of the first rows of a range, at most `rows_max`, and whether these are all. Copying a row copies no value.
    pub fn range(
        &self,
        range: &(Bound<&[u8]>, Bound<&[u8]>),
        rows_max: usize,
    ) -> (Vec<Row>, Option<UserKey>) {
        let empty = Rows::default();
        let sealed = self.sealed.as_ref().map_or(&empty, |sealed| &sealed.rows);
        let mut newer = self.active.range(range).peekable();
        let mut older = sealed.range(range).peekable();
        let mut rows = vec![];
        loop {
            let next = match (newer.peek(), older.peek()) {
                (Some(a), Some(b)) if a.0 > b.0 => older.next(),
                (Some(a), Some(b)) => {
                    if a.0 == b.0 {
                        older.next();
                    }
                    newer.next()
                }
                (Some(_), None) => newer.next(),
                (None, _) => older.next(),
            };
            match next {
                Some(row) if rows.len() < rows_max => rows.push(row),
                next => return (rows, next.map(|(key, _)| key)),
            }
        }
    }
}
