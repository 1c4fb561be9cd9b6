//! Which keys a batch has changed: asked of a key whose history is not in memory.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use super::{layout, pending::Pending};

/// Most batches never ask, so what is pending is looked through when they do, and of each row once.
#[derive(Default)]
pub(super) struct Changed {
    /// Of what the keys of a record's key's rows begin with.
    hashes: HashSet<u64>,
    hasher: RandomState,
    /// So many of the pending rows are among them.
    rows: usize,
}

impl Changed {
    /// Whether rows that begin with `prefix` may be pending; where it is false, none are.
    pub fn may_hold(&mut self, pending: &Pending, prefix: &[u8]) -> bool {
        let Changed {
            hashes,
            hasher,
            rows,
        } = self;
        let new = pending.iter_from(*rows);
        hashes.extend(new.map(|(row, _)| hasher.hash_one(layout::prefix_of(row))));
        *rows = pending.len();
        hashes.contains(&hasher.hash_one(prefix))
    }

    /// To be called when pending rows are undone, or done.
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.rows = 0;
    }
}
