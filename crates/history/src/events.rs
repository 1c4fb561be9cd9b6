//! The kept events of a key, in order: flat arrays, so that a key has few allocations and a scan reads memory in a line.

use crate::history::Event;

#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    columns: usize,
    /// Events at the front that are dropped but not yet moved over.
    head: usize,
    times_ms: Vec<i64>,
    ids: Vec<u128>,
    values: Vec<f64>,
    /// Where resets are, counted from the front including dropped events.
    resets: Vec<usize>,
}

impl Events {
    pub(crate) fn with_capacity(columns: usize, events: usize) -> Self {
        Events {
            columns,
            times_ms: Vec::with_capacity(events),
            ids: Vec::with_capacity(events),
            values: Vec::with_capacity(events * columns),
            ..Events::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.times_ms.len() - self.head
    }

    pub(crate) fn times_ms(&self) -> &[i64] {
        &self.times_ms[self.head..]
    }

    pub(crate) fn ids(&self) -> &[u128] {
        &self.ids[self.head..]
    }

    #[inline]
    pub(crate) fn row(&self, i: usize) -> &[f64] {
        let start = (self.head + i) * self.columns;
        &self.values[start..start + self.columns]
    }

    /// The rows of events from `start` to `end`, one behind the other.
    #[inline]
    pub(crate) fn rows(&self, start: usize, end: usize) -> &[f64] {
        &self.values[(self.head + start) * self.columns..(self.head + end) * self.columns]
    }

    pub(crate) fn insert(&mut self, at: usize, event: &Event<'_>) {
        let at = self.head + at;
        let last = at == self.times_ms.len();
        self.times_ms.insert(at, event.time_ms);
        self.ids.insert(at, u128::from_le_bytes(event.id));
        let given = event
            .values
            .iter()
            .copied()
            .chain(std::iter::repeat(f64::NAN));
        self.values.extend(given.take(self.columns).map(clean));
        if !last {
            self.values[at * self.columns..].rotate_right(self.columns);
            let later = self.resets.partition_point(|reset| *reset < at);
            for reset in &mut self.resets[later..] {
                *reset += 1;
            }
        }
        if event.reset {
            let place = self.resets.partition_point(|reset| *reset < at);
            self.resets.insert(place, at);
        }
    }

    pub(crate) fn drop_front(&mut self, events: usize) {
        self.head += events;
        let gone = self.resets.partition_point(|reset| *reset < self.head);
        self.resets.drain(..gone);
        // A quarter of unused memory, for three moves per event.
        if self.head * 4 > self.times_ms.len() {
            self.times_ms.drain(..self.head);
            self.ids.drain(..self.head);
            self.values.drain(..self.head * self.columns);
            for reset in &mut self.resets {
                *reset -= self.head;
            }
            self.head = 0;
        }
    }

    /// The newest reset before `end`.
    #[inline]
    pub(crate) fn newest_reset(&self, end: usize) -> Option<usize> {
        if self.resets.is_empty() {
            return None;
        }
        let before = self
            .resets
            .partition_point(|reset| *reset < self.head + end);
        before.checked_sub(1).map(|i| self.resets[i] - self.head)
    }

    pub(crate) fn is_reset(&self, i: usize) -> bool {
        self.resets.binary_search(&(self.head + i)).is_ok()
    }

    pub(crate) fn bytes(&self) -> usize {
        8 * (self.times_ms.capacity() + self.values.capacity() + self.resets.capacity())
            + 16 * self.ids.capacity()
    }
}

/// One sign of zero, and one way to be missing.
fn clean(value: f64) -> f64 {
    if value.is_finite() {
        value + 0.0
    } else {
        f64::NAN
    }
}
