//! What keeps a partition's state from growing: a few rows of earlier epochs, and of keys that are forgotten, are deleted beside records.

use std::{collections::BTreeSet, hash::BuildHasher};

use quadrille_history::{Definition, History};

use super::Partition;
use crate::state::{
    committed::{Unusable, lock},
    layout::{self, RowKey},
};

/// Rows of earlier epochs that are deleted with one record.
const STALE_AT_ONCE: usize = 20;

/// Records from one sweep to the next, where that found nothing to delete: a sweep reads one key's rows.
const SWEEP_EVERY: u32 = 8;

/// Rows that a sweep passes over behind a key that is still needed, half of it at least: more than records bring between two sweeps.
/// Without it the sweep would run along the edge of what is forgotten, where keys come in the order of their names, and never begin
/// anew.
const PASSED_OVER_MAX: usize = 64;

/// Forgotten keys that one sweep deletes: with a sweep after each record that is more than records can bring.
const FORGOTTEN_AT_ONCE: usize = 8;

/// A key is forgotten in the store once the partition's time is at least this much beyond what the key's own records could still
/// change, in ms, and as much as records may be late: keys of one partition do not come in the order of their times.
const FORGET_SLACK_MS: i64 = 24 * 3_600 * 1_000;

impl Partition {
    /// [`Partition::sweep`], after every few records.
    ///
    /// # Errors
    /// As [`Partition::sweep`].
    pub fn sweep_now_and_then(&mut self, definition: &Definition) -> Result<(), Unusable> {
        if self.is_swept {
            return Ok(());
        }
        if self.records > 1 {
            self.records -= 1;
            return Ok(());
        }
        let before = self.pending.len();
        self.sweep(definition)?;
        // Where there is something to delete, there is more.
        self.records = match self.pending.len() > before {
            true => 1,
            false => SWEEP_EVERY,
        };
        Ok(())
    }

    /// Deletes rows of earlier epochs, and those of the next keys that are forgotten: a few at a time, so that neither the
    /// store nor the changelog grows for ever.
    ///
    /// # Errors
    /// The rows are damaged, or one cannot be read.
    fn sweep(&mut self, definition: &Definition) -> Result<(), Unusable> {
        let mut forgotten = 0;
        for _ in 0..STALE_AT_ONCE {
            if self.cursor.is_empty() {
                self.cursor.extend(layout::FIRST_ROW);
            }
            let Some(row) = lock(&self.committed).rows.first_from(&self.cursor)? else {
                self.cursor.clear();
                return Ok(());
            };
            let Some(at) = RowKey::read(&row) else {
                // Somebody else's.
                self.cursor.clone_from(&row);
                self.cursor.push(0);
                continue;
            };
            if at.epoch >= self.epoch {
                let Some(after_ms) = definition.settings().forget_after_ms else {
                    self.is_swept = true;
                    return Ok(());
                };
                if !self.forget(definition, after_ms, &row, at.key)? {
                    return self.pass_over();
                }
                forgotten += 1;
                if forgotten == FORGOTTEN_AT_ONCE {
                    return Ok(());
                }
                continue;
            }
            // Once it is deleted in this batch, it is not to be found again in it.
            self.cursor.clone_from(&row);
            self.cursor.push(0);
            self.pending.push(&row, None);
        }
        Ok(())
    }

    /// Goes on some rows ahead, not as many each time, so that each key's turn comes.
    fn pass_over(&mut self) -> Result<(), Unusable> {
        let chance = self.chance.hash_one((&self.cursor, self.time_ms)) as usize;
        let rows = PASSED_OVER_MAX / 2 + chance % (PASSED_OVER_MAX / 2);
        match lock(&self.committed).rows.skip(&self.cursor, rows)? {
            Some(next) => self.cursor = next,
            None => self.cursor.clear(),
        }
        Ok(())
    }

    /// Deletes a key's rows where none of its records can matter any more; whether it did.
    fn forget(
        &mut self,
        definition: &Definition,
        forget_after_ms: i64,
        row: &[u8],
        key: &[u8],
    ) -> Result<bool, Unusable> {
        layout::after_key(row, &mut self.cursor);
        let slack_ms = FORGET_SLACK_MS.max(definition.settings().lateness_ms);
        let limit = forget_after_ms.saturating_add(slack_ms);
        let time_ms = self.time_ms;
        let is_over = |history: &History| {
            let since = |newest: i64| time_ms.saturating_sub(newest);
            time_ms != i64::MIN && history.newest_ms().is_none_or(|it| since(it) > limit)
        };
        // One that is not in memory does not take the place of one that is in use.
        let is_over = match self.cache.peek(key) {
            Some(history) => is_over(history),
            None => is_over(&self.load(definition, key)?),
        };
        if !is_over {
            return Ok(false);
        }
        layout::prefix_into(self.epoch, key, &mut self.prefix);
        let mut rows: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut add = |key: &[u8]| rows.insert(key.to_vec());
        lock(&self.committed)
            .rows
            .scan(&self.prefix, &mut |key, _| {
                add(key);
            })?;
        // As this batch leaves them: its rows are not in the store yet, and those that it has deleted still are.
        let own = self.pending.iter_from(0);
        for (row, value) in own.filter(|(row, _)| row.starts_with(&self.prefix)) {
            match value {
                Some(_) => rows.insert(row.to_vec()),
                None => rows.remove(row),
            };
        }
        if rows.is_empty() {
            return Ok(false);
        }
        for row in &rows {
            self.pending.push(row, None);
        }
        self.forgets += 1;
        // Should the key come again, it is loaded: without events now, and after an abort as it was.
        self.cache.remove(key);
        self.lacks_changed = true;
        Ok(true)
    }
}
