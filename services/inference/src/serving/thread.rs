//! A loader on a thread of its own.

use std::time::{Duration, Instant};

use tokio::{
    runtime::Handle as Runtime,
    sync::{oneshot, watch},
};

use super::loader::Loader;

/// How long who stops waits for the thread.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A loader at work; ends when this is dropped.
pub struct Handle {
    stop: watch::Sender<()>,
    /// Closed when the thread ends.
    ended: oneshot::Receiver<()>,
}

impl Handle {
    /// Ends it, and waits until others know that this replica has gone. Not for long: a package may be on its way.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(STOP_WITHIN, self.ended).await;
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
