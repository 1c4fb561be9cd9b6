//! A history as rows: row 0 is the prefix, the others are buckets of events.
//!
//! A row begins with the format's version. Nothing in it is trusted: what cannot have been written is [`Corrupt`].

mod bucket;
mod bytes;
mod prefix;

use crate::{
    Definition, History,
    buckets::Buckets,
    codec::{bucket::BucketRow, bytes::Reader},
    definition::{Settings, plan::Plan},
    events::Events,
};

/// Of the format; part of a definition's fingerprint.
pub(crate) const VERSION: u8 = 1;
const PREFIX_ROW: u32 = 0;

/// Rows from which no history can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of a key's history is corrupt: {why}")]
pub struct Corrupt {
    pub row: u32,
    pub why: &'static str,
}

/// No row is longer.
pub(crate) fn row_bytes_max(settings: &Settings, plan: &Plan) -> usize {
    prefix::bytes_max(plan).max(bucket::bytes_max(settings.columns))
}

impl History {
    /// From all rows of a key, in any order.
    pub fn load<'r>(
        definition: &Definition,
        rows: impl Iterator<Item = (u32, &'r [u8])>,
    ) -> Result<History, Corrupt> {
        let mut history = History::new();
        let mut buckets: Vec<BucketRow<'r>> = Vec::new();
        for (row, bytes) in rows {
            let corrupt = |why| Corrupt { row, why };
            let mut reader = Reader::new(bytes);
            if reader.byte() != Some(VERSION) {
                return Err(corrupt("it is of no known version"));
            }
            if row != PREFIX_ROW {
                buckets.push(BucketRow::open(row, reader).map_err(corrupt)?);
            } else if history.prefix.is_none() {
                history
                    .read_prefix(definition, &mut reader)
                    .map_err(corrupt)?;
            } else {
                return Err(corrupt("it comes twice"));
            }
        }
        history.read_buckets(definition, buckets)?;
        history.check_prefix().map_err(|why| Corrupt {
            row: PREFIX_ROW,
            why,
        })?;
        Ok(history)
    }

    /// The rows that changed since the last call: their bytes, or None where one is deleted.
    pub fn changes(&mut self, definition: &Definition, mut each: impl FnMut(u32, Option<&[u8]>)) {
        for row in self.buckets.take_removed() {
            each(row, None);
        }
        // A bucket with a few columns fits.
        let mut bytes = Vec::with_capacity(1024);
        if self.prefix_row.changed {
            let exists = self.prefix.is_some();
            if let Some(prefix) = &self.prefix {
                bytes.push(VERSION);
                prefix::write(definition.plan(), prefix, &mut bytes);
                each(PREFIX_ROW, Some(&bytes));
            } else if self.prefix_row.exists {
                each(PREFIX_ROW, None);
            }
            self.prefix_row.exists = exists;
            self.prefix_row.changed = false;
        }
        let events = &self.events;
        self.buckets.write_changed(|bucket, start| {
            bytes.clear();
            bytes.push(VERSION);
            bucket::write(events, start, start + bucket.len, bucket.order, &mut bytes);
            each(bucket.id, Some(&bytes));
        });
    }

    fn read_prefix(
        &mut self,
        definition: &Definition,
        reader: &mut Reader<'_>,
    ) -> Result<(), &'static str> {
        let prefix = prefix::read(definition.plan(), reader).ok_or("it holds no valid sums")?;
        if !reader.is_empty() {
            return Err("bytes follow its end");
        }
        self.prefix = Some(Box::new(prefix));
        self.prefix_row.exists = true;
        Ok(())
    }

    fn read_buckets(
        &mut self,
        definition: &Definition,
        mut rows: Vec<BucketRow<'_>>,
    ) -> Result<(), Corrupt> {
        let columns = definition.settings().columns;
        rows.sort_unstable_by_key(|row| (row.first_ms, row.order));
        let kept = rows.iter().map(|row| row.len).sum();
        let mut events = Events::with_capacity(columns, kept);
        let mut buckets = Buckets::default();
        let mut values = Vec::with_capacity(columns * crate::buckets::BUCKET_EVENTS);
        let mut ids: Vec<u32> = rows.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Corrupt {
                row: twice[0],
                why: "it comes twice",
            });
        }
        let mut before = None;
        for row in rows {
            let id = row.id;
            let corrupt = |why| Corrupt { row: id, why };
            if before.is_some_and(|before| before >= (row.first_ms, row.order)) {
                return Err(corrupt("its place among the others is taken"));
            }
            if events
                .times_ms()
                .last()
                .is_some_and(|newest| *newest > row.first_ms)
            {
                return Err(corrupt("its events overlap with another row's"));
            }
            before = Some((row.first_ms, row.order));
            buckets.append_written(row.id, row.order, row.len);
            row.read(columns, &mut values, &mut events)
                .map_err(corrupt)?;
        }
        self.events = events;
        self.buckets = buckets;
        Ok(())
    }

    /// What is dropped is older than what is kept.
    fn check_prefix(&self) -> Result<(), &'static str> {
        let Some(prefix) = &self.prefix else {
            return Ok(());
        };
        let Some(oldest_ms) = self.events.times_ms().first() else {
            return Err("no events follow it");
        };
        let newest_of_each = prefix
            .folded
            .iter()
            .filter_map(|folded| folded.recent.back());
        let faded = prefix.ewmas.iter().filter(|ewma| ewma.weight > 0.0);
        let mut times_ms = newest_of_each
            .map(|(time_ms, _)| *time_ms)
            .chain(faded.map(|ewma| ewma.time_ms));
        if times_ms.any(|time_ms| time_ms > *oldest_ms) {
            return Err("it is newer than the events that follow it");
        }
        Ok(())
    }
}
