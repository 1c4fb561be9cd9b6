//! Blocking work on threads of its own: Kafka's client at start-up, and joining the lanes at the end.

use crate::Error;

/// Runs `work` where it may block, and waits for it.
///
/// # Errors
/// It panicked, or the runtime is shutting down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| Error::Failed(format!("blocking work failed: {error}")))
}
