//! The state of one partition: histories by key, over rows that stand for what is committed.

mod sweep;

use std::hash::RandomState;

use quadrille_history::{Definition, History};
use quadrille_telemetry::metrics::StateUsage;

use super::{
    cache::Cache,
    changed::Changed,
    committed::{Committed, SharedCommitted, Unusable, lock, value},
    layout::{self, MARKER, Marker, PROGRESS, Progress, RowKey},
    pending::Pending,
    rows::{Fault, Rows},
};

/// The state of one partition, owned by a lane.
pub(crate) struct Partition {
    committed: SharedCommitted,
    epoch: u32,
    definition: [u8; 8],
    cache: Cache,
    pending: Pending,
    changed: Changed,
    /// The cache may lack keys that the batch has changed.
    lacks_changed: bool,
    /// The key whose history is being changed; empty between records.
    in_hand: Vec<u8>,
    /// The marker of this epoch is committed.
    is_marked: bool,
    marker_is_pending: bool,
    counted_beyond: Option<CountedBeyond>,
    /// The newest progress row that is committed.
    progress: Option<Progress>,
    /// And the newest of the batch.
    progress_pending: Option<Progress>,
    /// So many pending rows end with that one.
    ended: usize,
    /// The last outcome beside which rows were sent since then.
    changed_at: Option<usize>,
    savepoint: Savepoint,
    /// Where the batch in hand began.
    begun: Savepoint,
    /// The newest event time of this partition's records since it was taken over.
    time_ms: i64,
    /// Where the sweep goes on.
    cursor: Vec<u8>,
    /// Used again for every record.
    prefix: Vec<u8>,
    /// Behind the last record of the batch.
    input_next: Option<i64>,
    /// Nothing is left to sweep: no row of an earlier epoch, and keys are kept for ever.
    is_swept: bool,
    /// Until the next sweep.
    records: u32,
    /// Keys that the batch in hand forgets, and those forgotten for good.
    forgets: u64,
    forgotten: u64,
    /// As found when the batch began.
    fault: Option<Fault>,
    /// By how much sweeps pass over keys that are still needed.
    chance: RandomState,
}

#[derive(Clone)]
struct Savepoint {
    pending: usize,
    marker_is_pending: bool,
    progress_pending: Option<Progress>,
    ended: usize,
    cursor: Vec<u8>,
    is_swept: bool,
    forgets: u64,
    time_ms: i64,
}

impl Default for Savepoint {
    /// Of a batch that has not begun.
    fn default() -> Self {
        Savepoint {
            pending: 0,
            marker_is_pending: false,
            progress_pending: None,
            ended: 0,
            cursor: Vec::new(),
            is_swept: false,
            forgets: 0,
            time_ms: i64::MIN,
        }
    }
}

/// The state counts records from the offset on that the group has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CountedBeyond {
    /// None: the group has no offset.
    pub committed: Option<i64>,
    /// Up to here, without it.
    pub counted_to: i64,
}

/// What the epoch's marker says cannot be known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoEpoch {
    #[error(transparent)]
    Rows(#[from] Fault),
    #[error(
        "the marker of the state's definition has {bytes} bytes, not 12: a later version of Quadrille wrote it; run that one, or delete \
         the topic to begin anew"
    )]
    Marker { bytes: usize },
}

impl Partition {
    /// Over restored rows. A definition that is not the one they were written under begins an epoch of its own.
    ///
    /// # Errors
    /// The rows or the marker cannot be read.
    pub fn new(
        committed: SharedCommitted,
        definition: [u8; 8],
        input_next: Option<i64>,
    ) -> Result<Self, NoEpoch> {
        let mut guard = lock(&committed);
        let Committed { rows, marker, .. } = &mut *guard;
        let read = |bytes: &[u8]| {
            let bytes_found = bytes.len();
            Marker::read(bytes).ok_or(NoEpoch::Marker { bytes: bytes_found })
        };
        *marker = value(&**rows, &MARKER)?.as_deref().map(read).transpose()?;
        let progress = value(&**rows, &PROGRESS)?;
        let progress = progress.as_deref().and_then(Progress::read);
        let counted_to = progress.map(|it| it.input_next);
        let counted_beyond = counted_to.filter(|it| input_next.is_none_or(|next| next < *it));
        let epoch = match *marker {
            Some(marker) if marker.definition == definition => marker.epoch,
            Some(marker) => {
                tracing::warn!(
                    epoch = marker.epoch.saturating_add(1),
                    "the state of the pipeline is defined anew: histories of this partition begin empty"
                );
                marker.epoch.saturating_add(1)
            }
            None => newest_epoch(&**rows)?.map_or(1, |epoch| {
                // Whose rows they are is not known any more.
                tracing::error!(epoch, "the state's marker is gone from the changelog: histories of this partition begin empty");
                epoch.saturating_add(1)
            }),
        };
        let is_marked = *marker == Some(Marker { definition, epoch });
        guard.input_next = input_next;
        drop(guard);
        Ok(Partition {
            committed,
            epoch,
            definition,
            cache: Cache::new(0),
            pending: Pending::default(),
            changed: Changed::default(),
            lacks_changed: false,
            in_hand: Vec::new(),
            is_marked,
            marker_is_pending: false,
            counted_beyond: counted_beyond.map(|counted_to| CountedBeyond {
                committed: input_next,
                counted_to,
            }),
            progress,
            progress_pending: None,
            ended: 0,
            changed_at: None,
            savepoint: Savepoint::default(),
            begun: Savepoint::default(),
            time_ms: i64::MIN,
            cursor: Vec::new(),
            prefix: Vec::new(),
            input_next,
            is_swept: false,
            records: 0,
            forgets: 0,
            forgotten: 0,
            fault: None,
            chance: RandomState::new(),
        })
    }

    /// Whether it begins empty over the rows of another definition.
    pub fn begins_anew(&self) -> bool {
        self.epoch > 1 && !self.is_marked
    }

    /// Whether records come again that are in the state.
    pub fn counted_beyond(&self) -> Option<CountedBeyond> {
        self.counted_beyond
    }

    /// For requests.
    pub fn committed(&self) -> &SharedCommitted {
        &self.committed
    }

    /// How much memory histories may take from the next batch on.
    pub fn set_cache_bytes(&mut self, bytes_max: usize) {
        self.cache.set_bytes_max(bytes_max);
    }

    /// The rows are of no use any more, and what they were in is free.
    pub fn break_rows(&mut self, why: &Unusable) {
        let fault = Fault::Damaged(why.to_string());
        lock(&self.committed).break_rows(&fault);
    }

    /// A batch begins, or is handled again.
    pub fn begin(&mut self) {
        self.aborted();
        self.begun = self.now();
        let committed = lock(&self.committed);
        self.input_next = committed.input_next;
        // Also keys that are in memory must wait: what is committed of them has nowhere to go.
        self.fault.clone_from(&committed.fault);
    }

    /// What comes now is undone by [`Partition::panicked`].
    pub fn save(&mut self) {
        self.savepoint = self.now();
    }

    fn now(&self) -> Savepoint {
        Savepoint {
            pending: self.pending.len(),
            marker_is_pending: self.marker_is_pending,
            progress_pending: self.progress_pending,
            ended: self.ended,
            cursor: self.cursor.clone(),
            is_swept: self.is_swept,
            forgets: self.forgets,
            time_ms: self.time_ms,
        }
    }

    /// Undoes what changed since [`Partition::save`].
    pub fn panicked(&mut self) {
        let savepoint = std::mem::take(&mut self.savepoint);
        self.undo_from(&savepoint);
    }

    /// Undoes all that changed since [`Partition::begin`].
    pub fn aborted(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        self.undo_from(&begun);
        self.begun = begun;
    }

    fn undo_from(&mut self, savepoint: &Savepoint) {
        if self.pending.len() > savepoint.pending {
            // The sweep passed rows whose deletion is undone.
            self.cursor.clone_from(&savepoint.cursor);
            self.is_swept = savepoint.is_swept;
        }
        self.forgets = savepoint.forgets;
        // What a panic left half changed.
        if !self.in_hand.is_empty() {
            self.cache.remove(&self.in_hand);
            self.in_hand.clear();
        }
        let undone = self.pending.iter_from(savepoint.pending);
        for row in undone.filter_map(|(row, _)| RowKey::read(row)) {
            self.cache.remove(row.key);
        }
        self.pending.truncate(savepoint.pending);
        self.changed.clear();
        match self.pending.is_empty() {
            true => self.forget_changed(),
            // Some that went are changed by what is left.
            false => self.lacks_changed = true,
        }
        self.marker_is_pending = savepoint.marker_is_pending;
        self.progress_pending = savepoint.progress_pending;
        self.ended = savepoint.ended;
        self.changed_at = None;
        // Also of a record that has changed no row: it must not make other keys old.
        self.time_ms = savepoint.time_ms;
    }

    /// Nothing is pending.
    fn forget_changed(&mut self) {
        self.changed.clear();
        self.lacks_changed = false;
        self.cache.mark();
    }

    /// All changes are durable, the last of them before the changelog's offset `next`.
    ///
    /// # Errors
    /// The rows are damaged; what was committed is in the changelog.
    pub fn apply(&mut self, next: Option<i64>) -> Result<(), Fault> {
        self.begun = Savepoint {
            time_ms: self.time_ms,
            ..Savepoint::default()
        };
        self.forgotten += std::mem::take(&mut self.forgets);
        let mut committed = lock(&self.committed);
        self.ended = 0;
        self.changed_at = None;
        let ended = self.progress_pending.take();
        self.progress = ended.or(self.progress);
        if self.pending.is_empty() {
            committed.input_next = self.input_next;
            return Ok(());
        }
        let applied = match next {
            Some(next) => {
                // It ended the batch: what is on the disk ends with it as well.
                if let Some(progress) = ended {
                    let row = progress.write_stored(next);
                    self.pending.push(&PROGRESS, Some(&row));
                }
                committed.rows.apply(&self.pending, next)
            }
            None => Err(Fault::Damaged(
                "its place in the changelog is lost".to_owned(),
            )),
        };
        if let Err(error) = applied {
            committed.break_rows(&error);
            return Err(error);
        }
        committed.input_next = self.input_next;
        // Nobody else writes this partition of the changelog.
        committed.rows.caught_up();
        if std::mem::take(&mut self.marker_is_pending) {
            committed.marker = Some(self.marker());
            self.is_marked = true;
        }
        drop(committed);
        self.pending.clear();
        self.forget_changed();
        Ok(())
    }

    fn marker(&self) -> Marker {
        Marker {
            definition: self.definition,
            epoch: self.epoch,
        }
    }

    /// Has `change` work on a key's history; what it changes there becomes a part of the batch. Returns what `change` does, and
    /// how many changes were pending before.
    ///
    /// # Errors
    /// The history cannot be had; nothing has changed.
    pub fn update<T>(
        &mut self,
        definition: &Definition,
        key: &[u8],
        change: impl FnOnce(&mut History) -> T,
    ) -> Result<(T, usize), Unusable> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone().into());
        }
        let before = self.pending.len();
        let entry = match self.cache.get(key) {
            Some(entry) => entry,
            None => {
                let history = self.load(definition, key)?;
                self.cache.put(key.into(), history)
            }
        };
        self.in_hand.extend_from_slice(key);
        let result = change(&mut entry.history);
        layout::prefix_into(self.epoch, key, &mut self.prefix);
        let length = self.prefix.len();
        let (prefix, pending) = (&mut self.prefix, &mut self.pending);
        entry.history.changes(definition, |bucket, row| {
            prefix.truncate(length);
            prefix.extend(bucket.to_be_bytes());
            pending.push(prefix, row);
        });
        let more = entry.count(key);
        self.cache.recount(more);
        self.in_hand.clear();
        // Also within a batch, whose keys may be more than there is memory for: what is pending of them is loaded as well.
        self.lacks_changed |= self.cache.trim();
        Ok((result, before))
    }

    /// A key's history as of what is committed and what is pending.
    fn load(&mut self, definition: &Definition, key: &[u8]) -> Result<History, Unusable> {
        layout::prefix_into(self.epoch, key, &mut self.prefix);
        let prefix = &self.prefix;
        // In the order of their buckets; most keys have few.
        let mut rows: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut add = |key: &[u8], value: Option<&[u8]>| {
            let Some(bucket) = layout::bucket(key, prefix.len()) else {
                return;
            };
            let place = rows.binary_search_by_key(&bucket, |(bucket, _)| *bucket);
            match (place, value) {
                (Ok(place), Some(value)) => rows[place].1 = value.to_vec(),
                (Err(place), Some(value)) => rows.insert(place, (bucket, value.to_vec())),
                (Ok(place), None) => drop(rows.remove(place)),
                (Err(_), None) => {}
            }
        };
        lock(&self.committed)
            .rows
            .scan(prefix, &mut |key, value| add(key, Some(value)))?;
        if self.lacks_changed && self.changed.may_hold(&self.pending, prefix) {
            for (row, value) in self.pending.iter_from(0) {
                if row.starts_with(prefix) {
                    add(row, value);
                }
            }
        }
        let rows = rows.iter().map(|(bucket, row)| (*bucket, &row[..]));
        Ok(History::load(definition, rows)?)
    }

    /// What is to be sent beside the record in hand: its own changes are pending from `before` on. Adds the marker to the first
    /// change of an epoch.
    pub fn changes(&mut self, before: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let is_new = !self.is_marked && !self.marker_is_pending;
        if is_new && self.pending.len() > before {
            let marker = self.marker().write();
            self.pending.push(&MARKER, Some(&marker));
            self.marker_is_pending = true;
        }
        self.pending.iter_from(before)
    }

    /// Rows were sent beside this outcome.
    pub fn changed(&mut self, outcome: usize) {
        self.changed_at = Some(outcome);
    }

    /// Ends what was sent since this was last called: the last outcome beside which there was a row, and the progress row to be sent
    /// beside it. None: no row was. Records behind that one have changed nothing, and so it speaks for them too.
    pub fn end_changes(&mut self) -> Option<(usize, [u8; 2], Progress)> {
        let outcome = self.changed_at.take()?;
        let before = self.progress_pending.or(self.progress);
        let rows = self.pending.len().saturating_sub(self.ended);
        let progress = Progress {
            input_next: self.input_next?,
            number: before.map_or(0, |it| it.number).saturating_add(1),
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
        };
        self.pending.push(&PROGRESS, Some(&progress.write()));
        self.progress_pending = Some(progress);
        self.ended = self.pending.len();
        Some((outcome, PROGRESS, progress))
    }

    /// The input's record at `offset` is handled now, whatever becomes of it.
    pub fn handled(&mut self, offset: i64) {
        self.input_next = Some(offset + 1);
    }

    /// A record of this event time was taken.
    pub fn advance(&mut self, time_ms: i64) {
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// To be called now and then.
    ///
    /// # Errors
    /// As [`Partition::apply`].
    pub fn tend(&mut self) -> Result<(), Fault> {
        lock(&self.committed).tend()
    }

    /// What the state takes, but for stores on disk.
    pub fn usage(&self) -> StateUsage {
        let mut usage = lock(&self.committed).rows.usage();
        usage.histories += self.cache.bytes();
        usage
    }

    /// How many histories were let go, and how many keys forgotten, since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (
            self.cache.take_evicted(),
            std::mem::take(&mut self.forgotten),
        )
    }

    /// The partition was given up.
    pub fn into_committed(self) -> SharedCommitted {
        self.committed
    }
}

/// The epoch of the newest rows; None: there are none.
fn newest_epoch(rows: &dyn Rows) -> Result<Option<u32>, Fault> {
    let (mut from, mut newest) = (layout::FIRST_ROW.to_vec(), None);
    while let Some(row) = rows.first_from(&from)? {
        let Some(at) = RowKey::read(&row) else {
            // Somebody else's.
            from = row;
            from.push(0);
            continue;
        };
        newest = Some(at.epoch);
        let Some(next) = at.epoch.checked_add(1) else {
            break;
        };
        layout::epoch_into(next, &mut from);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests;
