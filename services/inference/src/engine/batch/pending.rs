//! An answer of a queue's thread, for a thread that waits for it with a limit and has no runtime.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use tokio::sync::oneshot;

use crate::engine::error::Error;

/// The outputs of the rows that were asked for.
pub(super) type Answer = Result<Vec<f64>, Error>;

/// Who drops it waits no longer.
#[derive(Debug)]
pub(crate) struct Pending(pub(super) oneshot::Receiver<Answer>);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Pending {
    /// Waits until then at most; None: there is no answer yet. After an answer it is not to be asked again.
    pub fn wait(&mut self, until: Instant) -> Option<Answer> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut self.0).poll(&mut context) {
                return Some(answer.unwrap_or(Err(Error::Failed)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
    }
}
