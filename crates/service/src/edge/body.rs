//! The body of a request as it arrives: its bytes are counted against the memory limit, and its time against what a body of
//! its size may take. A slow body ends its own request and no other.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    connection::{Conn, Place},
    cut::Cut,
    load::{Lease, Load},
    rate::{self, BYTES_PER_SECOND_MIN},
};

/// The slowest a body may arrive while memory or connections are scarce: 8 MiB take half a minute then.
const SCARCE_BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// The time that every body has even then: a connection across the world starts slowly.
const SCARCE_GRACE: Duration = Duration::from_secs(2);
/// Refusing a slow body smaller than this would free too little memory to be worth it.
const SMALL_BYTES: u64 = 64 << 10;

/// The bytes that a request holds; released when the last owner is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    load: Arc<Load>,
    held: AtomicUsize,
    cut: OnceLock<Cut>,
}

impl Meter {
    pub fn new(load: Arc<Load>) -> Arc<Self> {
        Arc::new(Meter {
            load,
            held: AtomicUsize::new(0),
            cut: OnceLock::new(),
        })
    }

    pub fn cut(&self) -> Option<Cut> {
        self.cut.get().copied()
    }

    pub fn refuse(&self, cut: Cut) -> axum::Error {
        let _ = self.cut.set(cut);
        axum::Error::new(cut.status())
    }

    /// Counts what has arrived.
    pub fn hold(&self, bytes: Bytes) -> Result<Bytes, Cut> {
        match self.take(bytes.len()) {
            true => Ok(bytes),
            false => Err(Cut::Memory),
        }
    }

    /// Counts `bytes` until the guard is dropped; None if there is no memory for them.
    pub fn lease(&self, bytes: usize) -> Option<Lease> {
        self.load.lease(bytes)
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = self.load.take(bytes);
        if fits {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Releases all but `kept` bytes.
    pub fn keep(&self, kept: usize) {
        let held = self.held.swap(kept, Ordering::Relaxed);
        self.load.give(held.saturating_sub(kept));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.load.give(*self.held.get_mut());
    }
}

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// To its end, before the handler starts.
    Whole,
    /// As a stream of gRPC messages: only the one that is arriving is held, and there may be silence between two.
    Messages,
}

/// A body that is counted and timed.
pub(crate) struct Metered<B> {
    body: B,
    meter: Arc<Meter>,
    pace: Pace,
    /// Of [`Reading::Messages`].
    messages: Option<Messages>,
    conn: Arc<Conn>,
    /// Some once the body was waited for.
    place: Option<Place>,
}

impl<B> Metered<B> {
    pub fn new(
        body: B,
        meter: Arc<Meter>,
        timeout: Duration,
        reading: Reading,
        conn: Arc<Conn>,
    ) -> Self {
        Metered {
            body,
            meter,
            pace: Pace::new(timeout),
            messages: (reading == Reading::Messages).then(Messages::default),
            conn,
            place: None,
        }
    }

    /// Accounts for what has arrived.
    fn came(&mut self, data: &[u8]) -> Result<(), axum::Error> {
        if !self.meter.take(data.len()) {
            return Err(self.meter.refuse(Cut::Memory));
        }
        match &mut self.messages {
            None => self.pace.came(data.len()),
            Some(messages) => {
                let open = messages.open + data.len();
                messages.advance(data);
                if messages.open < open {
                    // A message is complete; the time of the next one starts here.
                    self.pace = Pace::new(self.pace.timeout);
                    self.pace.came(messages.open);
                } else {
                    self.pace.came(data.len());
                }
            }
        }
        Ok(())
    }

    /// Whether it is too slow. If not, its connection checks it again later.
    fn is_too_slow(&mut self, task: &Context<'_>) -> bool {
        // Between two messages the client owes nothing.
        if self.messages.as_ref().is_some_and(|it| it.open == 0) {
            return false;
        }
        if self.pace.is_too_slow(Instant::now(), &self.meter.load) {
            return true;
        }
        let place = self.place.get_or_insert_with(|| self.conn.place());
        place.set(task.waker());
        false
    }
}

/// How quickly a body, or a message of one, arrives. Its time starts when it is first waited for: most arrive at once, and no
/// clock is read for them.
#[derive(Debug)]
struct Pace {
    timeout: Duration,
    began: Option<Instant>,
    progressed: Option<Instant>,
    received: u64,
}

impl Pace {
    fn new(timeout: Duration) -> Self {
        Pace {
            timeout,
            began: None,
            progressed: None,
            received: 0,
        }
    }

    fn came(&mut self, bytes: usize) {
        // Set at the next check.
        self.progressed = None;
        self.received += bytes as u64;
    }

    fn is_too_slow(&mut self, now: Instant, load: &Load) -> bool {
        let allowed = |grace, rate| rate::allowed(self.received, grace, rate);
        let took = now.duration_since(*self.began.get_or_insert(now));
        let stood = now.duration_since(*self.progressed.get_or_insert(now));
        let scarce = load.are_connections_scarce()
            || (self.received >= SMALL_BYTES && load.is_memory_scarce());
        stood >= self.timeout
            || took >= allowed(self.timeout, BYTES_PER_SECOND_MIN)
            || (scarce && took >= allowed(SCARCE_GRACE, SCARCE_BYTES_PER_SECOND_MIN))
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(messages) = &this.messages {
            // A reader that asks for more has taken the complete messages.
            this.meter.keep(messages.open);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(task) else {
            return match this.is_too_slow(task) {
                true => Poll::Ready(Some(Err(this.meter.refuse(Cut::Slow)))),
                false => Poll::Pending,
            };
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref() {
            let came = this.came(data);
            if let Err(error) = came {
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the ends of messages in a gRPC body: a flag, four bytes of length, and that many bytes.
#[derive(Debug, Default)]
struct Messages {
    header: [u8; 5],
    header_len: usize,
    /// Bytes of the message still to come, after its header.
    left: usize,
    /// Bytes of the incomplete message, its header included.
    open: usize,
}

impl Messages {
    fn advance(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.header_len < self.header.len() {
                self.header[self.header_len] = *first;
                self.header_len += 1;
                self.open += 1;
                data = rest;
                if self.header_len == self.header.len() {
                    let [_, length @ ..] = self.header;
                    self.left = u32::from_be_bytes(length) as usize;
                }
            } else {
                let (now, later) = data.split_at(self.left.min(data.len()));
                self.left -= now.len();
                self.open += now.len();
                data = later;
            }
            if self.header_len == self.header.len() && self.left == 0 {
                self.header_len = 0;
                self.open = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpConfig;

    const KIB: usize = 1 << 10;
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn load(body_memory_max: usize) -> Arc<Load> {
        Arc::new(Load::new(&HttpConfig {
            body_memory_max,
            ..HttpConfig::default()
        }))
    }

    /// After how many milliseconds a body of so many chunks of this size, one each `every_ms`, is too slow; none
    /// where it comes to its end.
    fn cut_after(load: &Load, chunks: usize, size: usize, every_ms: u64) -> Option<u64> {
        let began = Instant::now();
        let mut pace = Pace::new(TIMEOUT);
        pace.is_too_slow(began, load);
        let (mut now_ms, mut next_ms, mut left) = (0, every_ms, chunks);
        while left > 0 {
            now_ms += 10;
            let now = began + Duration::from_millis(now_ms);
            if pace.is_too_slow(now, load) {
                return Some(now_ms);
            }
            while left > 0 && next_ms <= now_ms {
                pace.came(size);
                (left, next_ms) = (left - 1, next_ms + every_ms);
            }
        }
        None
    }

    #[test]
    fn a_body_that_stands_still_or_drips_is_cut() {
        let load = load(64 << 20);
        assert_eq!(cut_after(&load, 2, KIB, 3_600_000), Some(20_000), "nothing");
        assert_eq!(cut_after(&load, 1_000, 1, 1_000), Some(20_010), "a drip");
        assert_eq!(cut_after(&load, 1_000, 16 * KIB, 1_000), None);
        assert_eq!(cut_after(&load, 3, KIB, 15_000), Some(20_130), "a pause");
    }

    #[test]
    fn a_slow_body_goes_when_memory_is_scarce_and_a_quick_one_stays() {
        let load = load(4 << 20);
        assert_eq!(cut_after(&load, 200, 32 * KIB, 1_000), None);
        assert!(load.take(3 << 20));
        assert!(cut_after(&load, 200, 32 * KIB, 1_000).is_some_and(|ms| ms < 5_000));
        assert_eq!(cut_after(&load, 200, 32 * KIB, 100), None);
        assert_eq!(cut_after(&load, 50, KIB, 100), None, "it holds little");
    }

    #[test]
    fn a_slow_body_goes_when_connections_are_scarce() {
        let load = load(64 << 20);
        load.set_connections(HttpConfig::default().connections_max);
        assert!(cut_after(&load, 100, KIB, 1_000).is_some_and(|ms| ms < 3_000));
        assert_eq!(cut_after(&load, 100, KIB, 1), None);
    }

    #[test]
    fn what_is_held_counts_until_its_request_is_gone() {
        let load = load(100);
        let meter = Meter::new(Arc::clone(&load));
        assert!(meter.take(60) && meter.take(40) && !meter.take(1));
        meter.keep(30);
        assert_eq!(load.body_bytes(), 30);
        assert!(meter.take(70));
        drop(meter);
        assert_eq!(load.body_bytes(), 0);
    }

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, (length >> 8) as u8, length as u8];
        bytes.resize(5 + length, 7);
        bytes
    }

    #[test]
    fn messages_are_told_apart_wherever_frames_are_cut() {
        let body = [message(3), message(0), message(600), message(1)].concat();
        for size in 1..=body.len() {
            let mut messages = Messages::default();
            for chunk in body.chunks(size) {
                messages.advance(chunk);
                assert!(messages.open < 605);
            }
            assert_eq!(messages.open, 0, "in pieces of {size}");
        }
        let mut messages = Messages::default();
        messages.advance(&message(600)[..100]);
        assert_eq!(messages.open, 100);
    }

    #[test]
    fn a_stream_holds_the_message_that_is_coming_and_no_more() {
        let load = load(1_000);
        let meter = Meter::new(Arc::clone(&load));
        let conn = Arc::new(Conn::new(false, true));
        let mut body = Metered::new((), Arc::clone(&meter), TIMEOUT, Reading::Messages, conn);
        for _ in 0..100 {
            body.came(&message(600)).unwrap();
            // The reader asks for more.
            meter.keep(body.messages.as_ref().map_or(0, |it| it.open));
        }
        assert_eq!((load.body_bytes(), body.pace.received), (0, 0));
        body.came(&message(900)[..500]).unwrap();
        assert_eq!((load.body_bytes(), body.pace.received), (500, 500));
        assert!(body.came(&[0; 501]).is_err());
        assert_eq!(meter.cut(), Some(Cut::Memory));
    }
}
