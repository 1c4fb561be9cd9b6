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
}

#[derive(Default)]
struct Generation {
    histories: HashMap<Box<[u8]>, History>,
    bytes: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Cache {
            young: Generation::default(),
            old: Generation::default(),
            bytes_max,
            evicted: 0,
        }
    }

    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Takes a key's history out, to be put back after use.
    pub fn take(&mut self, key: &[u8]) -> Option<(Box<[u8]>, History)> {
        self.young.take(key).or_else(|| self.old.take(key))
    }

    pub fn put(&mut self, key: Box<[u8]>, history: History) {
        self.young.bytes += size(&key, &history);
        self.young.histories.insert(key, history);
    }

    /// Lets go of what is too much.
    pub fn trim(&mut self) {
        if self.young.bytes > self.bytes_max / 2 {
            let gone = mem::replace(&mut self.old, mem::take(&mut self.young));
            self.evicted += gone.histories.len() as u64;
        }
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
    fn take(&mut self, key: &[u8]) -> Option<(Box<[u8]>, History)> {
        let (key, history) = self.histories.remove_entry(key)?;
        self.bytes = self.bytes.saturating_sub(size(&key, &history));
        Some((key, history))
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
            let (key, history) = cache.take(b"k00").expect("it is used all the time");
            cache.put(key, history);
            cache.trim();
            assert!(cache.bytes() <= 11 * one, "{} bytes", cache.bytes());
        }
        assert!((80..100).contains(&cache.take_evicted()), "all but some");
        assert!(cache.take(b"k01").is_none());
        assert!(cache.take(b"k99").is_some());
    }

    #[test]
    fn nothing_is_let_go_between_two_trims() {
        let mut cache = Cache::new(0);
        for n in 0..100u8 {
            cache.put([n].into(), History::new());
        }
        assert!((0..100u8).all(|n| cache.take(&[n]).is_some()));
        assert_eq!(cache.bytes(), 0);
    }
}
