//! What this replica reads of its own state for requests: off the threads that serve them, and not all at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_pipeline::State;
use tokio::sync::Semaphore;

use super::{Served, error::Error};
use crate::state::{Past, Shared, Unread};

/// Each has a thread while it reads, mostly for less than a millisecond; the others wait for their turn.
const AT_ONCE_MAX: usize = 32;
/// Whoever waits longer for it is better told so: the disk is slow, or there are too many.
const TURN_WITHIN: Duration = Duration::from_secs(2);

type Read = fn(&Shared, i32, &[u8], &State) -> Result<Past, Unread>;

/// Bounds what is read at once.
pub(crate) struct Reads(Arc<Semaphore>);

impl Default for Reads {
    fn default() -> Self {
        Reads(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }
}

impl Reads {
    /// A key's history, if it is here: `from` is [`Shared::read`], or [`Shared::read_standing`]. The store may read from disk, and a lane may be applying a batch.
    ///
    /// # Errors
    /// There are too many questions.
    pub async fn read(
        &self,
        served: &Served,
        from: Read,
        partition: i32,
        key: &str,
        deadline: Option<Instant>,
    ) -> Result<Result<Past, Unread>, Error> {
        let (pipeline, shared) = (Arc::clone(&served.pipeline), served.shared.clone());
        let key = key.as_bytes().to_vec();
        self.run(deadline, move || {
            let state = pipeline.state().ok_or(Unread::NotHeld)?;
            from(&shared, partition, &key, state)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let latest = Instant::now() + TURN_WITHIN;
        let turn = Arc::clone(&self.0).acquire_owned();
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        let permit = match tokio::time::timeout_at(until.into(), turn).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(error)) => return Err(Error::Broken(error.to_string())),
            Err(_) => {
                return Err(Error::TooMuch(format!(
                    "{AT_ONCE_MAX} histories are being read, which is as many as may be at once, and none ended in time; ask again"
                )));
            }
        };
        let read = tokio::task::spawn_blocking(move || {
            // Also where nobody waits for the answer any more.
            let _permit = permit;
            read()
        });
        read.await.map_err(|error| Error::Broken(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_is_beyond_the_bound_waits_for_its_turn_and_not_for_ever() {
        let reads = Reads::default();
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let slow = || {
            let ended = Arc::clone(&ended);
            reads.run(None, move || ended.lock().unwrap().recv().is_ok())
        };
        let mut all: Vec<_> = (0..AT_ONCE_MAX).map(|_| Box::pin(slow())).collect();
        for read in &mut all {
            assert!(polled(read).await.is_none(), "it is being read");
        }
        let soon = Instant::now() + Duration::from_millis(20);
        let refused = reads.run(Some(soon), || ()).await;
        assert!(matches!(refused, Err(Error::TooMuch(_))), "{refused:?}");
        let waits = reads.run(None, || 7);
        for _ in 0..AT_ONCE_MAX {
            end.send(()).unwrap();
        }
        assert_eq!(waits.await.unwrap(), 7);
        for read in all {
            assert!(read.await.unwrap());
        }
    }

    /// What a future has once it is polled.
    async fn polled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
