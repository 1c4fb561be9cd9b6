//! The changelog's rows on their way into a store that others may look at: only whole groups of them are shown, those that a
//! progress row ends. Pure.
//!
//! A store's rows are the state of one moment only once no row of an earlier moment is missing that the topic's cleaner took out, which
//! it does segment by segment, each for the sake of newer rows anywhere before the changelog's end of then. So a **chain** is counted:
//! progress rows that came one after the other, each with as many rows as it says. Of the chain's own rows none is missing. What is
//! missing from before its beginning was taken out for rows before the changelog's end of then: once the chain has passed that, all
//! of them were read.

use super::{
    committed::{Committed, value},
    layout::{MARKER, Marker, PROGRESS, Progress, RowKey},
    pending::Pending,
    rows::{Fault, Rows},
};

/// What is held back until its progress row comes: far more than a batch changes. Rows of an owner that writes no progress rows, as
/// versions before there were any, are held back no longer.
const HELD_BACK_MAX: usize = 64 << 20;

/// One partition's.
pub(crate) struct Follow {
    /// What may be applied, the newest progress row last.
    ready: Pending,
    /// What came behind it.
    tail: Pending,
    /// The changelog's offset behind [`Follow::ready`].
    ready_next: Option<i64>,
    /// Of what was read.
    read: Known,
    /// Of what is applied.
    applied: Known,
    /// The changelog's end when the chain was at its beginning, or later. None: to be asked for.
    end: Option<i64>,
    marker_came: bool,
}

/// What is known of rows.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The last progress row.
    last: Option<Progress>,
    /// Rows since that; None: nobody knows.
    since: Option<u32>,
    /// Up to the last progress row they are the state of one moment.
    is_exact: bool,
}

impl Follow {
    /// Goes on from rows as they are.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn over(rows: &dyn Rows) -> Result<Self, Fault> {
        let progress = value(rows, &PROGRESS)?;
        let last = progress.as_deref().and_then(Progress::read);
        let lies_at = progress.as_deref().and_then(Progress::stored_next);
        let next = rows.next_offset();
        let since = match (last, next) {
            (None, None) => Some(0),
            (Some(_), Some(_)) if lies_at == next => Some(0),
            _ => None,
        };
        let known = Known {
            last,
            since,
            is_exact: false,
        };
        Ok(Follow {
            ready: Pending::default(),
            tail: Pending::default(),
            ready_next: None,
            read: known,
            applied: known,
            end: None,
            marker_came: true,
        })
    }

    /// The rows are as a lane left them that had the partition: the state of its last commit.
    pub fn left_by_owner(rows: &dyn Rows) -> Result<Self, Fault> {
        let mut follow = Follow::over(rows)?;
        follow.caught_up();
        follow.applied = follow.read;
        Ok(follow)
    }

    /// Whether what is applied is the state of one moment of the input.
    pub fn is_exact(&self) -> bool {
        self.applied.is_exact
    }

    /// What was read and not applied is read again, by another reader.
    pub fn rewind(&mut self) {
        self.ready.clear();
        self.tail.clear();
        self.ready_next = None;
        self.read = self.applied;
    }

    /// Where the changelog ends, as Kafka said after it gave what was pushed, and not before.
    pub fn ends(&mut self, end: i64) {
        self.end.get_or_insert(end);
    }

    /// A row of the changelog.
    pub fn push(&mut self, offset: i64, key: &[u8], row: Option<&[u8]>) {
        let progress = (key == PROGRESS).then(|| row.and_then(Progress::read));
        let Some(progress) = progress else {
            let is_marker = key == MARKER;
            if !is_marker && RowKey::read(key).is_none() {
                // Somebody else's.
                return;
            }
            self.marker_came |= is_marker;
            self.tail.push(key, row);
            self.read.since = self.read.since.map(|since| since.saturating_add(1));
            if self.tail.bytes() > HELD_BACK_MAX {
                self.read.is_exact = false;
            }
            return;
        };
        let Some(progress) = progress else {
            // Not ours to understand: whoever wrote it will write more of them.
            self.read.since = None;
            self.read.is_exact = false;
            return;
        };
        let follows =
            self.read.last.map_or(0, |last| last.number).checked_add(1) == Some(progress.number);
        let is_whole = self.read.since == Some(progress.rows);
        let next = offset.saturating_add(1);
        if !(follows && is_whole) {
            self.end = None;
        }
        let is_behind_end = self.end.is_some_and(|end| next >= end);
        // Of rows that were exact before, the reader's place does not matter.
        self.read.is_exact = follows && is_whole && (self.read.is_exact || is_behind_end);
        self.ready.append(&mut self.tail);
        self.ready
            .push(&PROGRESS, Some(&progress.write_stored(next)));
        self.ready_next = Some(next);
        self.read.last = Some(progress);
        self.read.since = Some(0);
    }

    /// All that the changelog had was read after it was last asked where it ends.
    pub fn caught_up(&mut self) {
        self.read.is_exact |= self.read.since == Some(0) && self.read.last.is_some();
    }

    /// Applies what may be: of exact rows whole groups, of others all that was read, up to the changelog's offset `next`.
    ///
    /// # Errors
    /// The rows are damaged; or they cannot be read now, and this is to be called again.
    pub fn apply(&mut self, to: &mut Committed, next: Option<i64>) -> Result<(), Fault> {
        match self.read.is_exact {
            true => self.apply_ready(to),
            false => self.apply_all(to, next),
        }
    }

    /// Applies all that was read, up to the changelog's offset `next`: nothing of the log's is behind it.
    ///
    /// # Errors
    /// As [`Follow::apply`].
    pub fn finish(&mut self, to: &mut Committed, next: i64) -> Result<(), Fault> {
        self.apply_all(to, Some(next))
    }

    fn apply_all(&mut self, to: &mut Committed, next: Option<i64>) -> Result<(), Fault> {
        // No progress row speaks for what is behind the last one.
        self.read.is_exact &= self.tail.is_empty();
        self.ready.append(&mut self.tail);
        self.ready_next = next.or(self.ready_next);
        // Nothing is between the last progress row and here.
        if let (Some(last), Some(0), Some(next)) =
            (self.read.last, self.read.since, self.ready_next)
        {
            self.ready.push(&PROGRESS, Some(&last.write_stored(next)));
        }
        self.apply_ready(to)
    }

    fn apply_ready(&mut self, to: &mut Committed) -> Result<(), Fault> {
        // Until all of it is done the rows are of no moment that is known.
        to.input_next = None;
        if let Some(next) = self.ready_next {
            to.rows.apply(&self.ready, next)?;
            self.ready.clear();
            self.ready_next = None;
        }
        if self.marker_came {
            to.marker = value(&*to.rows, &MARKER)?.as_deref().and_then(Marker::read);
            self.marker_came = false;
        }
        self.applied = self.read;
        if !self.tail.is_empty() {
            // Held back.
            self.applied.since = Some(0);
        }
        let exact = self.read.last.filter(|_| self.read.is_exact);
        to.input_next = exact.map(|last| last.input_next);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
