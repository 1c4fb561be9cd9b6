//! What the batch in hand changes in a partition's state: held back until its transaction is committed.

use std::ops::Range;

/// Rows written and deleted, in their order; of several of one key the last counts. They lie in one buffer, which is used
/// again from batch to batch.
#[derive(Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    changes: Vec<Span>,
}

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

    /// In the order they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let of = |range: &Range<usize>| &self.bytes[range.clone()];
        self.changes
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

    /// Undoes all but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        if let Some(first) = self.changes.get(len) {
            self.bytes.truncate(first.key.start);
        }
        self.changes.truncate(len);
    }

    pub fn clear(&mut self) {
        self.truncate(0);
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
