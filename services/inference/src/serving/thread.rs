//! A loader on a thread of its own.

use std::time::Instant;

use quadrille_service::{Error, StopSignal};

use tokio::{
    runtime::Handle as Runtime,
    sync::{oneshot, watch},
};

use super::loader::Loader;

/// A loader at work; ends when this is dropped.
pub struct Handle {
    stop: watch::Sender<()>,
    /// Closed when the thread ends.
    ended: oneshot::Receiver<()>,
}

impl Handle {
    /// Lets it work until `stop`, then waits until others know that this replica has gone.
    ///
    /// # Errors
    /// It ended before.
    pub async fn until(mut self, mut stop: StopSignal) -> Result<(), Error> {
        tokio::select! {
            () = stop.requested() => {}
            _ = &mut self.ended => return Err(Error::Failed("the models' loader ended: this is a bug".to_owned())),
        }
        self.stop().await;
        Ok(())
    }

    /// Ends it, and waits until others know that this replica has gone.
    pub async fn stop(self) {
        drop(self.stop);
        // Closed, not sent.
        let _ = self.ended.await;
    }
}

impl Loader {
    /// Runs on a thread of its own until it is stopped. To be called within a runtime, whose timer it uses.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn(mut self) -> std::io::Result<Handle> {
        let (stop, mut stopped) = watch::channel(());
        let (end, ended) = oneshot::channel::<()>();
        let runtime = Runtime::current();
        let thread = std::thread::Builder::new().name("loader".to_owned());
        let loaded = self.loads_finished();
        thread.spawn(move || {
            let source = self.source();
            let mut changed = source.changed();
            loop {
                changed.mark_unchanged();
                let again_at = self.reconcile(Instant::now());
                let over = runtime.block_on(async {
                    tokio::select! {
                        Ok(()) = changed.changed() => false,
                        () = loaded.notified() => false,
                        _ = stopped.changed() => true,
                        () = tokio::time::sleep_until(again_at.into()) => false,
                    }
                });
                if over {
                    source.withdraw();
                    drop(end);
                    return;
                }
            }
        })?;
        Ok(Handle { stop, ended })
    }
}
