//! What the batch in hand changes in a partition's state: held back until its transaction is committed.

use std::ops::Range;

/// Rows written and deleted, in their order; of several of one key the last counts. They lie in one buffer, which is used
/// again from batch to batch.
#[derive(Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    changes: Vec<Span>,
}

/// Of a batch's buffer, what is kept for the next one.
const BYTES_KEPT: usize = 1 << 20;
const CHANGES_KEPT: usize = 1 << 14;

struct Span {
    key: Range<usize>,
    /// None: the row is deleted.
    value: Option<Range<usize>>,
}

impl Pending {
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let key = self.keep(key);
        let value = value.map(|value| self.keep(value));
        self.changes.push(Span { key, value });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// All, in the order they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.iter_from(0)
    }

    /// Those behind the first `len`.
    pub fn iter_from(&self, len: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let of = |range: &Range<usize>| &self.bytes[range.clone()];
        self.changes
            .get(len..)
            .unwrap_or_default()
            .iter()
            .map(move |it| (of(&it.key), it.value.as_ref().map(of)))
    }

    /// How many there are: to come back to by [`Pending::truncate`].
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes what `other` has, behind its own.
    pub fn append(&mut self, other: &mut Pending) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            for (key, value) in other.iter() {
                self.push(key, value);
            }
        }
        other.clear();
    }

    /// Undoes all but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        if let Some(first) = self.changes.get(len) {
            self.bytes.truncate(first.key.start);
        }
        self.changes.truncate(len);
    }

    /// A batch that was larger than others leaves no buffer as large as it was.
    pub fn clear(&mut self) {
        self.truncate(0);
        self.bytes.shrink_to(BYTES_KEPT);
        self.changes.shrink_to(CHANGES_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_undone_back_to_where_one_was() {
        let mut pending = Pending::default();
        pending.push(b"a", Some(b"1"));
        pending.push(b"b", None);
        let before = pending.len();
        pending.push(b"a", Some(b"2"));
        pending.push(b"c", Some(b""));
        pending.truncate(before);
        let left: Vec<_> = pending.iter().collect();
        assert_eq!(left, [(&b"a"[..], Some(&b"1"[..])), (b"b", None)]);
        pending.push(b"d", Some(b"4"));
        assert_eq!(pending.iter().last(), Some((&b"d"[..], Some(&b"4"[..]))));
        pending.clear();
        assert!(pending.is_empty() && pending.iter().next().is_none());
    }
}
