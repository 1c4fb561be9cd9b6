//! The events of one key.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    Definition,
    buckets::{BUCKET_EVENTS, Buckets},
    events::Events,
    prefix::Prefix,
};

/// So many ids are found faster by looking at each than in a table.
const SCANNED_IDS: usize = 64;

/// A record that comes to a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// A hash of the record's id: equal ones are the same record.
    pub id: [u8; 16],
    pub time_ms: i64,
    /// From here on, nothing before this event is seen.
    pub reset: bool,
    /// One per column, NaN where it is missing. Values that are not finite count as missing, as do those beyond the slice's end.
    pub values: &'a [f64],
}

/// Where an event went in the order of its key; valid until the next push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub(crate) usize);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    New(Position),
    /// An event with this id is kept already.
    Duplicate,
    /// As much older than lateness allows.
    Late {
        by_ms: i64,
    },
    /// As many events as allowed are within reach.
    Full,
}

/// A look at a time of which events may be dropped already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key's history can be seen as of {earliest_ms} ms and later")]
pub struct TooOld {
    pub earliest_ms: i64,
}

/// The events of one key and what is left of older ones.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(crate) events: Events,
    pub(crate) buckets: Buckets,
    pub(crate) prefix: Option<Box<Prefix>>,
    pub(crate) prefix_row: PrefixRow,
    /// Ids of the kept events, once they are too many to look through.
    index: Option<HashSet<u128, BuildHasherDefault<Folded>>>,
}

/// What the store has of the prefix.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PrefixRow {
    pub exists: bool,
    pub changed: bool,
}

/// Which kept events no look to come can reach.
struct Unreached {
    /// So many at the front.
    events: usize,
    /// The newest reset that every look to come sees.
    reset: Option<usize>,
    /// Every look to come sees all events before it.
    horizon_ms: i64,
}

impl History {
    pub fn new() -> Self {
        History::default()
    }

    /// Nothing is changed by anything but [`Pushed::New`].
    pub fn push(&mut self, definition: &Definition, event: &Event<'_>) -> Pushed {
        let settings = definition.settings();
        match self.newest_ms() {
            None => self.begin(definition),
            Some(newest_ms) if definition.forgets(newest_ms, event.time_ms) => {
                self.forget();
                self.begin(definition);
            }
            Some(newest_ms) => {
                let earliest_ms = newest_ms.saturating_sub(settings.lateness_ms);
                if event.time_ms < earliest_ms {
                    let by_ms = earliest_ms.saturating_sub(event.time_ms);
                    return Pushed::Late { by_ms };
                }
                if self.holds(u128::from_le_bytes(event.id)) {
                    return Pushed::Duplicate;
                }
                let unreached = self.unreached(definition, newest_ms.max(event.time_ms));
                if self.events.len() - unreached.events >= settings.events_max {
                    return Pushed::Full;
                }
                self.expire(definition, &unreached);
            }
        }
        Pushed::New(self.insert(event))
    }

    pub fn newest_ms(&self) -> Option<i64> {
        self.events.times_ms().last().copied()
    }

    /// Memory taken, roughly.
    pub fn bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| 17 * index.capacity());
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.bytes());
        size_of::<Self>() + self.events.bytes() + self.buckets.bytes() + prefix + index
    }

    fn begin(&mut self, definition: &Definition) {
        self.events = Events::with_capacity(definition.settings().columns, 0);
    }

    fn forget(&mut self) {
        self.events = Events::default();
        self.buckets.clear();
        self.index = None;
        self.clear_prefix();
    }

    fn clear_prefix(&mut self) {
        if self.prefix.take().is_some() {
            self.prefix_row.changed = true;
        }
    }

    fn insert(&mut self, event: &Event<'_>) -> Position {
        let times_ms = self.events.times_ms();
        let at = match times_ms.last() {
            Some(newest_ms) if *newest_ms > event.time_ms => {
                times_ms.partition_point(|time_ms| *time_ms <= event.time_ms)
            }
            _ => times_ms.len(),
        };
        let bucket = self.buckets.insert(&self.events, at);
        self.events.insert(at, event);
        self.buckets.inserted(&self.events, bucket);
        if let Some(index) = &mut self.index {
            index.insert(u128::from_le_bytes(event.id));
        }
        Position(at)
    }

    fn holds(&mut self, id: u128) -> bool {
        if self.index.is_none() {
            if self.events.len() <= SCANNED_IDS {
                return self.events.ids().contains(&id);
            }
            self.index = Some(self.events.ids().iter().copied().collect());
        }
        self.index.as_ref().is_some_and(|index| index.contains(&id))
    }

    /// As seen when the key's newest event is at `newest_ms`: looks are at most `lateness` older.
    fn unreached(&self, definition: &Definition, newest_ms: i64) -> Unreached {
        let times_ms = self.events.times_ms();
        let horizon_ms = newest_ms.saturating_sub(definition.settings().lateness_ms);
        let by_time = match horizon_ms.checked_sub(definition.plan().reach_ms) {
            Some(last_ms) if times_ms[0] <= last_ms => {
                times_ms.partition_point(|time_ms| *time_ms <= last_ms)
            }
            _ => 0,
        };
        let reset = self.events.newest_reset(self.events.len()).and_then(|_| {
            let settled = times_ms.partition_point(|time_ms| *time_ms < horizon_ms);
            self.events.newest_reset(settled)
        });
        Unreached {
            events: by_time.max(reset.unwrap_or(0)),
            reset,
            horizon_ms,
        }
    }

    /// Drops what no look to come can reach, by whole buckets; by events where the key is full.
    fn expire(&mut self, definition: &Definition, unreached: &Unreached) {
        if unreached.events == 0 {
            return;
        }
        let kept = self.events.len();
        let hidden = unreached.reset.unwrap_or(0);
        let spare = definition.plan().spare;
        let mut dropped = 0;
        for b in 0..self.buckets.len() {
            let end = self.buckets.end(b);
            let passed_on = end <= hidden || (end <= unreached.events && kept - end >= spare);
            // The newest bucket is dropped when it is full, so that the prefix is not written with each push.
            let growing = b + 1 == self.buckets.len() && self.buckets.get(b).len < BUCKET_EVENTS;
            if !passed_on || growing {
                break;
            }
            dropped = end;
        }
        if kept - dropped >= definition.settings().events_max {
            let more = unreached
                .events
                .min(self.buckets.end(self.buckets.holding(dropped)));
            dropped = dropped.max(more);
        }
        if dropped > 0 {
            self.drop_front(definition, dropped, unreached);
        }
    }

    fn drop_front(&mut self, definition: &Definition, dropped: usize, unreached: &Unreached) {
        if unreached.reset.is_some() {
            self.clear_prefix();
        }
        let plan = definition.plan();
        let folded_from = unreached.reset.unwrap_or(0);
        if folded_from < dropped && plan.folds() {
            let prefix = self
                .prefix
                .get_or_insert_with(|| Box::new(Prefix::new(plan)));
            prefix.fold(plan, &self.events, folded_from, dropped);
            self.prefix_row.changed = true;
        }
        if let Some(prefix) = &mut self.prefix {
            let times_ms = self.events.times_ms();
            let settled = times_ms.partition_point(|time_ms| *time_ms < unreached.horizon_ms);
            prefix.trim(plan, &self.events, dropped, settled);
        }
        if let Some(index) = &mut self.index {
            for id in &self.events.ids()[..dropped] {
                index.remove(id);
            }
        }
        self.events.drop_front(dropped);
        if self.buckets.drop_front(dropped) {
            self.buckets.mend_order(&self.events, 0);
        }
    }
}

/// Ids are hashes already: this folds their halves.
#[derive(Debug, Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, id: u128) {
        // An odd constant, so that ids that are no hashes spread as well.
        self.0 = ((id >> 64) as u64 ^ id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
