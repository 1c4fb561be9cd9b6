//! The keys of the changelog `<p>.feature-state`, which are those of the store as well.
//!
//! | key | value |
//! | --- | --- |
//! | `00 00` | the marker of the epoch: fingerprint of the state's definition (8 bytes), epoch (4 bytes) |
//! | `00 01` | progress: the input's next offset (8), its own number (8), rows since the one before (4); in a store also the changelog's offset behind it (8) |
//! | `01`, epoch (4), length of the record's key (2), the key, bucket (4) | one row of the key's history |
//!
//! Numbers are big-endian, so that an epoch's rows and a key's rows are ranges. An **epoch** is the time under one definition of the
//! state: whoever takes a partition over with another definition begins the next epoch, and with it empty histories. The
//! rows of earlier epochs are deleted bit by bit; a definition that comes back does not find what it left, which would
//! lack the records handled meanwhile.
//!
//! A **progress row** ends what a batch changed in a partition: the rows before it are the state of all records of the input before
//! the offset that it names, and of no other. Progress rows are numbered, and each says how many rows it ends. So a reader knows
//! where the cleaner of the topic has taken something out, which leaves rows of different moments side by side.

use std::ops::Range;

/// The key of the epoch's marker.
pub(super) const MARKER: [u8; 2] = [0, 0];

/// The key of the progress row.
pub(super) const PROGRESS: [u8; 2] = [0, 1];

const ROW: u8 = 1;
const EPOCH: Range<usize> = 1..5;
const LENGTH: Range<usize> = 5..7;
const KEY: usize = 7;
const BUCKET_LEN: usize = 4;

/// The longest key of a record that state is kept for; ingest takes none that is nearly as long.
pub(crate) const KEY_LEN_MAX: usize = 32_768;

/// Where the rows begin, those of the oldest epoch first.
pub(super) const FIRST_ROW: [u8; 2] = [ROW, 0];

/// What the keys of all rows of an epoch begin with.
pub(super) fn epoch_into(epoch: u32, to: &mut Vec<u8>) {
    to.clear();
    to.push(ROW);
    to.extend(epoch.to_be_bytes());
}

/// What the keys of all rows of a record's key begin with.
pub(super) fn prefix_into(epoch: u32, key: &[u8], to: &mut Vec<u8>) {
    epoch_into(epoch, to);
    // Bounded by KEY_LEN_MAX.
    to.extend((key.len() as u16).to_be_bytes());
    to.extend_from_slice(key);
}

/// A row's key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowKey<'a> {
    pub epoch: u32,
    pub key: &'a [u8],
    pub bucket: u32,
}

impl<'a> RowKey<'a> {
    /// None for what is no row's key.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.first() != Some(&ROW) {
            return None;
        }
        let epoch = u32::from_be_bytes(bytes.get(EPOCH)?.try_into().ok()?);
        let length = u16::from_be_bytes(bytes.get(LENGTH)?.try_into().ok()?);
        let rest = bytes.get(KEY..)?;
        let (key, bucket) = rest.split_at_checked(usize::from(length))?;
        let bucket = u32::from_be_bytes(bucket.try_into().ok()?);
        Some(RowKey { epoch, key, bucket })
    }
}

/// The bucket of a row whose key begins with a prefix of this length.
pub(super) fn bucket(row_key: &[u8], prefix_len: usize) -> Option<u32> {
    let bucket = row_key.get(prefix_len..)?;
    Some(u32::from_be_bytes(bucket.try_into().ok()?))
}

/// Of a row's key, what the keys of all rows of the record's key begin with.
pub(super) fn prefix_of(row_key: &[u8]) -> &[u8] {
    &row_key[..row_key.len().saturating_sub(BUCKET_LEN)]
}

/// The row after all rows of the record's key that this row belongs to.
pub(super) fn after_key(row_key: &[u8], to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(prefix_of(row_key));
    to.extend([u8::MAX; BUCKET_LEN]);
    // A key that begins with another one is longer, and so sorts elsewhere: this is between them.
    to.push(0);
}

/// The marker's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub definition: [u8; 8],
    pub epoch: u32,
}

impl Marker {
    pub fn write(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.definition);
        bytes[8..].copy_from_slice(&self.epoch.to_be_bytes());
        bytes
    }

    /// None for what is no marker.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (definition, epoch) = bytes.split_at_checked(8)?;
        Some(Marker {
            definition: definition.try_into().ok()?,
            epoch: u32::from_be_bytes(epoch.try_into().ok()?),
        })
    }
}

/// A progress row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// All records of the input before this offset are in the state, and none from there on.
    pub input_next: i64,
    /// One more than that of the progress row before.
    pub number: u64,
    /// Rows since that one, without this.
    pub rows: u32,
}

const PROGRESS_LEN: usize = 20;

impl Progress {
    /// As on the changelog.
    pub fn write(self) -> [u8; PROGRESS_LEN] {
        let mut bytes = [0; PROGRESS_LEN];
        bytes[..8].copy_from_slice(&self.input_next.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.rows.to_be_bytes());
        bytes
    }

    /// As in a store: no row is between it and the changelog's offset `next`.
    pub fn write_stored(self, next: i64) -> [u8; PROGRESS_LEN + 8] {
        let mut bytes = [0; PROGRESS_LEN + 8];
        bytes[..PROGRESS_LEN].copy_from_slice(&self.write());
        bytes[PROGRESS_LEN..].copy_from_slice(&next.to_be_bytes());
        bytes
    }

    /// None for what is no progress. A later version may add to it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Progress {
            input_next: i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?),
            number: u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?),
            rows: u32::from_be_bytes(bytes.get(16..PROGRESS_LEN)?.try_into().ok()?),
        })
    }

    /// Of a store's, the changelog's offset that no row lies before but those that it ends; None where a store has it as it was on
    /// the changelog.
    pub fn stored_next(bytes: &[u8]) -> Option<i64> {
        let next = bytes.get(PROGRESS_LEN..)?;
        Some(i64::from_be_bytes(next.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32, key: &[u8], bucket: u32) -> Vec<u8> {
        let mut row = Vec::new();
        prefix_into(epoch, key, &mut row);
        row.extend(bucket.to_be_bytes());
        row
    }

    #[test]
    fn a_row_is_read_as_it_was_written_and_nothing_else_is() {
        let bytes = row(7, b"patient", 3);
        let expected = RowKey {
            epoch: 7,
            key: b"patient",
            bucket: 3,
        };
        assert_eq!(RowKey::read(&bytes), Some(expected));
        for end in 0..bytes.len() {
            assert_eq!(RowKey::read(&bytes[..end]), None, "{end} bytes");
        }
        assert_eq!(RowKey::read(&MARKER), None);
        assert_eq!(RowKey::read(&FIRST_ROW), None);
    }

    #[test]
    fn the_rows_of_a_key_are_a_range_whatever_other_keys_begin_with() {
        let keys: [&[u8]; 5] = [b"", b"a", b"a\0", b"aa", b"b"];
        let mut rows = Vec::new();
        for key in keys {
            rows.extend([0, 1, u32::MAX].map(|bucket| row(1, key, bucket)));
        }
        rows.sort();
        for key in keys {
            let mut prefix = Vec::new();
            prefix_into(1, key, &mut prefix);
            let own: Vec<_> = rows.iter().filter(|it| it.starts_with(&prefix)).collect();
            assert_eq!(own.len(), 3, "{key:?}");
            let mut after = Vec::new();
            after_key(own[0], &mut after);
            let behind = rows.iter().find(|it| **it >= after);
            assert!(behind.is_none_or(|it| !it.starts_with(&prefix)));
            let next = rows.iter().rposition(|it| it.starts_with(&prefix));
            assert_eq!(behind, rows.get(next.unwrap_or_default() + 1));
        }
    }

    #[test]
    fn earlier_epochs_come_first() {
        assert!(row(1, b"zzz", 9) < row(2, b"", 0));
        assert!(FIRST_ROW[..] < row(0, b"", 0)[..]);
        assert!(MARKER[..] < FIRST_ROW[..]);
    }

    #[test]
    fn progress_is_read_as_it_was_written_and_in_a_store_says_where_it_lies() {
        let progress = Progress {
            input_next: 1 << 40,
            number: 7,
            rows: 3,
        };
        assert_eq!(Progress::read(&progress.write()), Some(progress));
        assert_eq!(Progress::stored_next(&progress.write()), None);
        let stored = progress.write_stored(99);
        assert_eq!(Progress::read(&stored), Some(progress));
        assert_eq!(Progress::stored_next(&stored), Some(99));
        assert_eq!(Progress::read(&stored[..19]), None);
        assert!(MARKER < PROGRESS && PROGRESS[..] < FIRST_ROW[..]);
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let marker = Marker {
            definition: *b"abcdefgh",
            epoch: 9,
        };
        assert_eq!(Marker::read(&marker.write()), Some(marker));
        assert_eq!(Marker::read(b"short"), None);
    }
}
