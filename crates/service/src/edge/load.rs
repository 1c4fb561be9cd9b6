//! Open connections, running requests and bytes of bodies, counted against their limits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tonic::Status;

use super::{cut::Cut, limits::HttpConfig};

/// Counters and bounds, shared by all connections.
#[derive(Debug)]
pub(crate) struct Load {
    connections: AtomicUsize,
    requests: AtomicUsize,
    streams: AtomicUsize,
    body_bytes: AtomicUsize,
    connections_max: usize,
    requests_max: usize,
    body_bytes_max: usize,
}

impl Load {
    pub fn new(config: &HttpConfig) -> Self {
        Load {
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            connections_max: config.connections_max,
            requests_max: config.requests_max,
            body_bytes_max: config.body_memory_max,
        }
    }

    /// Sets the number of open connections.
    pub fn set_connections(&self, open: usize) {
        self.connections.store(open, Ordering::Relaxed);
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn body_bytes(&self) -> usize {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped; None at the limit.
    pub fn begin(self: &Arc<Self>, length: Length) -> Option<Begun> {
        if length == Length::Open {
            let before = self.streams.fetch_add(1, Ordering::Relaxed);
            if before >= self.streams_max() {
                self.streams.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        let load = Arc::clone(self);
        let begun = Begun { load, length };
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < self.requests_max).then_some(begun)
    }

    /// The limit on open-ended streams, which may be silent for as long as they like: without it they could take up all
    /// requests, or all connections, and lock everyone else out.
    pub fn streams_max(&self) -> usize {
        let connections = (self.connections_max / 2).max(1);
        self.requests_max.div_ceil(2).min(connections)
    }

    /// Counts `bytes` more if there is memory for them; says whether there is.
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.body_bytes_max;
        if !fits {
            self.give(bytes);
        }
        fits
    }

    /// Counts `bytes` until the guard is dropped; None if there is no memory for them.
    pub fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let load = self.take(bytes).then(|| Arc::clone(self))?;
        Some(Lease { load, bytes })
    }

    /// Like [`Load::lease`], for a response: it is in memory already, so the first beyond the limit may be sent while less than
    /// half is in use. A single response may be larger than the whole limit.
    pub fn lease_answer(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let before = self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.body_bytes_max;
        let load = Arc::clone(self);
        // Dropping it releases what was counted.
        let lease = Lease { load, bytes };
        (fits || before <= self.body_bytes_max / 2).then_some(lease)
    }

    pub fn give(&self, bytes: usize) {
        self.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Half of the memory for bodies is in use: large slow bodies are refused while there is still room for others.
    pub fn is_memory_scarce(&self) -> bool {
        self.body_bytes() > self.body_bytes_max / 2
    }

    /// Only the last eighth of the connections is left: slow bodies that occupy one are refused.
    pub fn are_connections_scarce(&self) -> bool {
        self.connections() >= self.connections_max - self.connections_max / 8
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Until it is answered.
    Bounded,
    /// As long as its sender likes.
    Open,
}

/// A counted request.
#[derive(Debug)]
pub(crate) struct Begun {
    load: Arc<Load>,
    length: Length,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(1, Ordering::Relaxed);
        if self.length == Length::Open {
            self.load.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The memory limit of all bodies: an extension of streaming requests, of which only the message that is arriving is counted.
/// A handler that keeps more messages counts them with [`Memory::hold`].
#[derive(Debug, Clone)]
pub struct Memory(pub(super) Arc<Load>);

impl Memory {
    /// Counts `bytes` until the lease is dropped.
    ///
    /// # Errors
    /// There is no memory for them: the status to end the stream with, `RESOURCE_EXHAUSTED`.
    pub fn hold(&self, bytes: usize) -> Result<Lease, Status> {
        self.0.lease(bytes).ok_or_else(|| Cut::Memory.status())
    }
}

/// Counted bytes; released when dropped.
#[derive(Debug)]
pub struct Lease {
    load: Arc<Load>,
    bytes: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Arc<Load> {
        Arc::new(Load::new(&HttpConfig {
            connections_max: 16,
            requests_max: 2,
            body_memory_max: 100,
            ..HttpConfig::default()
        }))
    }

    #[test]
    fn a_request_that_was_refused_leaves_room_for_the_next() {
        let load = load();
        let begin = || load.begin(Length::Bounded);
        let (first, second) = (begin(), begin());
        assert!(first.is_some() && second.is_some());
        assert!(begin().is_none());
        drop(first);
        assert!(begin().is_some());
    }

    #[test]
    fn streams_leave_room_for_what_ends() {
        let load = load();
        let stream = load.begin(Length::Open);
        assert!(stream.is_some() && load.begin(Length::Open).is_none());
        let call = load.begin(Length::Bounded);
        assert!(call.is_some() && load.begin(Length::Bounded).is_none());
        drop((stream, call));
        let call = (load.begin(Length::Bounded), load.begin(Length::Bounded));
        assert!(load.begin(Length::Open).is_none(), "no room at all");
        drop(call);
        assert!(load.begin(Length::Open).is_some());
    }

    #[test]
    fn streams_on_connections_of_their_own_leave_half_of_these_to_others() {
        let load = |connections_max| {
            Arc::new(Load::new(&HttpConfig {
                connections_max,
                ..HttpConfig::default()
            }))
        };
        let many = load(512);
        let streams: Vec<_> = (0..512).filter_map(|_| many.begin(Length::Open)).collect();
        assert_eq!(streams.len(), 256);
        let one = load(1);
        let stream = one.begin(Length::Open);
        assert!(stream.is_some() && one.begin(Length::Open).is_none());
    }

    #[test]
    fn bytes_that_do_not_fit_are_not_counted() {
        let load = load();
        assert!(load.take(60) && load.is_memory_scarce());
        assert!(!load.take(41) && load.take(40));
        load.give(100);
        assert_eq!(load.body_bytes(), 0);
        assert!(!load.is_memory_scarce());
    }

    #[test]
    fn one_answer_may_be_larger_than_all_that_requests_may_hold() {
        let load = load();
        let first = load.lease_answer(1_000);
        assert!(first.is_some() && load.lease_answer(1).is_none());
        drop(first);
        assert_eq!(load.body_bytes(), 0);
        let small = (load.lease_answer(60), load.lease_answer(40));
        assert!(small.0.is_some() && small.1.is_some());
        assert!(load.lease_answer(1).is_none() && !load.take(1));
        drop(small);
        assert_eq!(load.body_bytes(), 0);
    }

    #[test]
    fn what_a_stream_keeps_counts_until_it_is_dropped() {
        let load = load();
        let memory = Memory(Arc::clone(&load));
        let held = memory.hold(90).unwrap();
        let refused = memory.hold(11).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(held);
        assert_eq!(load.body_bytes(), 0);
    }

    #[test]
    fn connections_are_scarce_before_there_is_none_left() {
        let load = load();
        load.set_connections(13);
        assert!(!load.are_connections_scarce());
        load.set_connections(14);
        assert!(load.are_connections_scarce());
    }
}
