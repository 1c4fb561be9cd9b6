//! Answers over HTTP/2 that nobody takes.
//!
//! A peer says how much it takes, of each stream by itself, and may say "nothing" for as long as it likes: its
//! connection works, nothing waits to be written, and the answers stay. So each stream is watched for itself.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

thread_local! {
    /// Which piece of its answer the stream that runs here has given and was not asked for more since, from 1; 0 for none.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// The stream's answer gives a piece, or is there to be asked for the first.
pub(super) fn gave(piece: u64) {
    GIVEN.set(piece);
}

/// The stream's answer is asked for more.
pub(super) fn asked() {
    GIVEN.set(0);
}

/// Runs the streams of a connection, each until what it gives was not taken for so long.
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
            stalled: None,
        });
    }
}

pin_project! {
    /// One stream. No block of `async`, which would hold it twice: it is copied to where it runs.
    struct Stream<F> {
        #[pin]
        stream: F,
        timeout: Duration,
        given: u64,
        stalled: Option<Pin<Box<Sleep>>>,
    }
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
            (*this.given, *this.stalled) = (now, None);
        }
        if *this.given == 0 {
            return Poll::Pending;
        }
        let sleep = || Box::pin(tokio::time::sleep(*this.timeout));
        let stalled = this.stalled.get_or_insert_with(sleep);
        // What is not run any more is reset.
        stalled.as_mut().poll(task)
    }
}
