//! `/metrics`. It does not count against the limit on requests, so that a busy replica can be scraped; instead, concurrent
//! scrapes share one text, and texts that are not read are bounded.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use quadrille_telemetry::Registry;

/// How long a text that is still being read is shared with other scrapes.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// The most texts that are not read to their end: some 100 KB each, and several Prometheus servers may be slow at once.
const UNTAKEN_MAX: usize = 8;

pub(crate) struct Scrape {
    registry: Registry,
    /// What is not taken, and when it was written, the newest last.
    untaken: Mutex<VecDeque<(Instant, Bytes)>>,
}

impl Scrape {
    pub fn new(registry: Registry) -> Self {
        Scrape {
            registry,
            untaken: Mutex::default(),
        }
    }

    /// The metrics; none while too many of before are not taken. Where all are taken, as in quiet operation, they are those of
    /// this moment.
    pub fn answer(&self, now: Instant) -> Option<Bytes> {
        let mut untaken = self.untaken.lock().unwrap_or_else(PoisonError::into_inner);
        untaken.retain(|(_, text)| !text.is_unique());
        match untaken.back() {
            Some((at, text)) if now.saturating_duration_since(*at) < SHARED_FOR => {
                return Some(text.clone());
            }
            _ => {}
        }
        if untaken.len() >= UNTAKEN_MAX {
            return None;
        }
        let text = Bytes::from(self.registry.encode());
        untaken.push_back((now, text.clone()));
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_there_once_a_second_and_no_more_than_a_few_times() {
        let scrape = Scrape::new(Registry::default());
        let began = Instant::now();
        let mut held = Vec::new();
        for second in 0..UNTAKEN_MAX as u64 {
            for ms in [0, 1, 500, 999] {
                let now = began + Duration::from_millis(second * 1_000 + ms);
                held.extend(scrape.answer(now));
            }
        }
        let mut texts: Vec<_> = held.iter().map(|text| text.as_ptr()).collect();
        texts.dedup();
        assert_eq!((held.len(), texts.len()), (4 * UNTAKEN_MAX, UNTAKEN_MAX));
        let later = began + Duration::from_secs(60);
        assert!(scrape.answer(later).is_none());
        drop(held);
        assert!(scrape.answer(later).is_some());
    }

    #[test]
    fn metrics_are_of_this_moment_where_those_of_before_are_taken() {
        let scrape = Scrape::new(Registry::default());
        let now = Instant::now();
        for _ in 0..3 {
            drop(scrape.answer(now).unwrap());
            let taken = scrape.untaken.lock().unwrap();
            assert!(taken.len() == 1 && taken[0].1.is_unique());
        }
    }
}
