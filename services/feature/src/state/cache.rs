//! Histories in memory, bounded in bytes: those used least recently are let go.

use std::{collections::HashMap, mem};

use quadrille_history::History;

/// Memory of an entry beside its key and history.
const OVERHEAD: usize = 96;

/// Two generations: what is used lies in the young one; once that has half of the bytes, it is the old one, and what was in the
/// old one is let go. So a history is kept for at least half of the bytes of other keys, and no list is kept in order.
pub(super) struct Cache {
    young: Generation,
    old: Generation,
    bytes_max: usize,
    /// Histories let go so far.
    evicted: u64,
    /// The young generation has become the old one since [`Cache::mark`].
    has_turned: bool,
}

#[derive(Default)]
struct Generation {
    /// In boxes, so that a table with room to grow is small.
    entries: HashMap<Box<[u8]>, Box<Entry>>,
    bytes: usize,
}

pub(super) struct Entry {
    pub history: History,
    /// As they were counted last.
    bytes: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Cache {
            young: Generation::default(),
            old: Generation::default(),
            bytes_max,
            evicted: 0,
            has_turned: false,
        }
    }

    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// A key's history, which is used now. Once it is changed, [`Cache::recount`] must be called.
    pub fn get(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let Some((key, entry)) = self.old.entries.remove_entry(key) else {
            return self.young.entries.get_mut(key).map(|entry| &mut **entry);
        };
        self.old.bytes = self.old.bytes.saturating_sub(entry.bytes);
        self.young.bytes += entry.bytes;
        Some(self.young.entries.entry(key).insert_entry(entry).into_mut())
    }

    /// Adds a history that [`Cache::get`] does not have.
    pub fn put(&mut self, key: Box<[u8]>, history: History) -> &mut Entry {
        let bytes = size(&key, &history);
        self.young.bytes += bytes;
        let entry = Box::new(Entry { history, bytes });
        self.young.entries.entry(key).insert_entry(entry).into_mut()
    }

    /// The history that [`Cache::get`] gave takes so much memory more, or less, than before.
    pub fn recount(&mut self, more: isize) {
        self.young.bytes = self.young.bytes.saturating_add_signed(more);
    }

    /// A key's history, without counting as a use of it.
    pub fn peek(&self, key: &[u8]) -> Option<&History> {
        let young = self.young.entries.get(key);
        let entry = young.or_else(|| self.old.entries.get(key))?;
        Some(&entry.history)
    }

    /// Lets go of a key's history.
    pub fn remove(&mut self, key: &[u8]) {
        drop(self.young.take(key));
        drop(self.old.take(key));
    }

    /// From here on, [`Cache::trim`] tells of what is used and let go again.
    pub fn mark(&mut self) {
        self.has_turned = false;
    }

    /// Lets go of what is too much; whether histories may be among it that were used since [`Cache::mark`].
    pub fn trim(&mut self) -> bool {
        if self.young.bytes <= self.bytes_max / 2 {
            return false;
        }
        let gone = mem::replace(&mut self.old, mem::take(&mut self.young));
        self.evicted += gone.entries.len() as u64;
        mem::replace(&mut self.has_turned, true)
    }

    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// How many histories were let go since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        mem::take(&mut self.evicted)
    }
}

impl Generation {
    fn take(&mut self, key: &[u8]) -> Option<Box<Entry>> {
        let entry = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        Some(entry)
    }
}

impl Entry {
    /// How much more memory it takes, or less, than when this was asked last.
    pub fn count(&mut self, key: &[u8]) -> isize {
        let before = mem::replace(&mut self.bytes, size(key, &self.history));
        self.bytes as isize - before as isize
    }
}

fn size(key: &[u8], history: &History) -> usize {
    OVERHEAD + key.len() + history.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_let_go() {
        let one = size(b"k00", &History::new());
        let mut cache = Cache::new(10 * one);
        for n in 0..100 {
            cache.put(format!("k{n:02}").into_bytes().into(), History::new());
            assert!(cache.get(b"k00").is_some(), "it is used all the time");
            cache.trim();
            assert!(cache.bytes() <= 11 * one, "{} bytes", cache.bytes());
        }
        assert!((80..100).contains(&cache.take_evicted()), "all but some");
        assert!(cache.peek(b"k01").is_none());
        assert!(cache.get(b"k01").is_none());
        assert!(cache.peek(b"k99").is_some());
        assert!(cache.get(b"k99").is_some());
    }

    #[test]
    fn nothing_is_let_go_between_two_trims() {
        let mut cache = Cache::new(0);
        for n in 0..100u8 {
            cache.put([n].into(), History::new());
        }
        assert!((0..100u8).all(|n| cache.get(&[n]).is_some()));
        (0..100u8).for_each(|n| cache.remove(&[n]));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn letting_go_of_what_was_used_since_the_mark_is_told() {
        let one = size(b"0", &History::new());
        let mut cache = Cache::new(4 * one);
        let mut let_go = Vec::new();
        for n in 0..9u8 {
            if n == 4 {
                cache.mark();
            }
            cache.put([n].into(), History::new());
            let_go.push(cache.trim());
        }
        // Of 0, 1, 2 and then 3, 4, 5, which began before the mark, nothing was used since it but 4 and 5: they go with the second turn.
        let told = [2, 5, 8].map(|n| let_go[n]);
        assert_eq!(told, [false, false, true], "{let_go:?}");
        assert!(cache.peek(&[4]).is_none() && cache.peek(&[8]).is_some());
    }
}
