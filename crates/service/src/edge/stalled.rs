//! HTTP/2 responses whose client has stopped reading: a stalled stream is reset.
//!
//! A peer opens the flow-control window of each stream, or leaves it closed for as long as it likes: the connection works,
//! nothing waits to be written, and the responses stay in memory. So each stream is watched by itself.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::rate::{self, BYTES_PER_SECOND_MIN};

/// How much of a response is handed to HTTP/2 at a time: it accepts any amount, however small the peer's window is, and then
/// nothing counts it any more.
pub(super) const PIECE_BYTES: usize = 16 << 10;

thread_local! {
    /// The piece, from 1, that the stream running on this thread handed out last without being polled for more since; 0: none.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
    /// The number before the first piece of the same message.
    static FIRST: Cell<u64> = const { Cell::new(0) };
}

/// The stream's response hands out a piece, or is ready to be polled for the first.
pub(super) fn gave(piece: u64, first: u64) {
    GIVEN.set(piece);
    FIRST.set(first);
}

/// The stream's response is polled for more.
pub(super) fn asked() {
    GIVEN.set(0);
}

/// Runs the streams of a connection; resets one whose output was not read for `timeout`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Stream {
            stream,
            timeout: self.timeout,
            given: 0,
            first: 0,
            pace: None,
            stalled: None,
        });
    }
}

pin_project! {
    /// One stream. Not an `async` block, which would hold it twice: it is copied to where it runs.
    struct Stream<F> {
        #[pin]
        stream: F,
        timeout: Duration,
        given: u64,
        first: u64,
        pace: Option<Pace>,
        stalled: Option<Pin<Box<Sleep>>>,
    }
}

/// How quickly a message is read, by the same rule as bodies. Its time starts when it is first waited for: most are read at once.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Which message.
    first: u64,
    began: Instant,
    /// The piece that was handed out then.
    from: u64,
}

impl Pace {
    fn new(began: Instant, first: u64, from: u64) -> Self {
        Pace { first, began, from }
    }

    /// How long the next piece may take.
    fn left(self, now: Instant, given: u64, timeout: Duration) -> Duration {
        let bytes = given.saturating_sub(self.from) * PIECE_BYTES as u64;
        left(bytes, now.saturating_duration_since(self.began), timeout)
    }
}

/// How much longer the client may take to read more of a response, of which it has read `bytes` in `took`.
pub(super) fn left(bytes: u64, took: Duration, timeout: Duration) -> Duration {
    let allowed = rate::allowed(bytes, timeout, BYTES_PER_SECOND_MIN);
    allowed.saturating_sub(took).min(timeout)
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        GIVEN.set(*this.given);
        if this.stream.poll(task).is_ready() {
            return Poll::Ready(());
        }
        let now = GIVEN.replace(0);
        if now != *this.given {
            (*this.given, *this.first, *this.stalled) = (now, FIRST.get(), None);
        }
        if *this.given == 0 {
            *this.pace = None;
            return Poll::Pending;
        }
        let (given, first, timeout) = (*this.given, *this.first, *this.timeout);
        let pace = this.pace;
        let stalled = this.stalled.get_or_insert_with(|| {
            let now = Instant::now();
            let pace = match pace {
                Some(pace) if pace.first == first => pace,
                // Another message: its time starts here.
                pace => pace.insert(Pace::new(now, first, given)),
            };
            Box::pin(tokio::time::sleep(pace.left(now, given, timeout)))
        });
        // A stream whose future ends early is reset.
        stalled.as_mut().poll(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// How many pieces are taken by one who takes a piece each so many ms, of so many at most.
    fn taken(ms: u64, most: u64) -> u64 {
        let began = Instant::now();
        let pace = Pace::new(began, 1, 2);
        let piece = Duration::from_millis(ms);
        let at = |given: u64| began + piece * u32::try_from(given - 2).unwrap();
        let mut pieces = 2..2 + most;
        let cut = pieces.find(|given| pace.left(at(*given), *given, TIMEOUT) < piece);
        cut.map_or(most, |given| given - 2)
    }

    #[test]
    fn an_answer_is_taken_as_quickly_as_a_body_must_come() {
        // 16 KiB each: 8 KiB/s and more.
        assert_eq!(taken(1, 10_000), 10_000);
        assert_eq!(taken(2_000, 10_000), 10_000);
        assert!((15..30).contains(&taken(2_900, 10_000)), "a little slower");
        assert_eq!(taken(19_000, 10_000), 1, "not one each 19 s");
        assert_eq!(taken(21_000, 10_000), 0);
    }
}
