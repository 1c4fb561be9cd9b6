//! Answers over HTTP/2 that nobody takes.
//!
//! A peer says how much it takes, of each stream by itself, and may say "nothing" for as long as it likes: its
//! connection works, nothing waits to be written, and the answers stay. So each stream is watched for itself.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use hyper::rt::Executor;
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
        let timeout = self.timeout;
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let mut given = 0;
            let mut stalled: Option<Pin<Box<Sleep>>> = None;
            // What is not run any more is reset.
            poll_fn(|task| {
                GIVEN.set(given);
                if stream.as_mut().poll(task).is_ready() {
                    return Poll::Ready(());
                }
                let now = GIVEN.replace(0);
                if now != given {
                    (given, stalled) = (now, None);
                }
                if given == 0 {
                    return Poll::Pending;
                }
                let sleep = || Box::pin(tokio::time::sleep(timeout));
                stalled.get_or_insert_with(sleep).as_mut().poll(task)
            })
            .await;
        });
    }
}
