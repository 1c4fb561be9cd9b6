//! Rows that change together.

use std::ops::Range;

use crate::{Error, ROW_KEY_BYTES_MAX, ROW_KEY_BYTES_MIN, VALUE_BYTES_MAX};

/// Rows to put and to delete, in one buffer that is used again after [`Batch::clear`]. Of several changes to a row the last
/// holds.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    buffer: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    key: Range<usize>,
    value: Option<Range<usize>>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let key = self.keep(key);
        let value = Some(self.keep(value));
        self.changes.push(Change { key, value });
    }

    pub fn delete(&mut self, key: &[u8]) {
        let key = self.keep(key);
        self.changes.push(Change { key, value: None });
    }

    /// Empties it, for the next rows.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.changes.clear();
    }

    /// Changes, not rows: a row that is changed twice counts twice.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Of keys and values.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// In the order in which they were made; `None`: deleted.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.changes.iter().map(|change| {
            let value = change.value.clone().map(|range| &self.buffer[range]);
            (&self.buffer[change.key.clone()], value)
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        for Change { key, value } in &self.changes {
            if !(ROW_KEY_BYTES_MIN..=ROW_KEY_BYTES_MAX).contains(&key.len()) {
                return Err(Error::Key { bytes: key.len() });
            }
            if let Some(value) = value.as_ref().filter(|value| value.len() > VALUE_BYTES_MAX) {
                return Err(Error::Value { bytes: value.len() });
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        start..self.buffer.len()
    }
}
