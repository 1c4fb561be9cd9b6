//! How an operator wants expensive models to be batched.

use std::time::Duration;

/// How expensive models are scored.
#[derive(Debug, Clone)]
pub struct Batching {
    /// Names of the models that are scored through a queue.
    pub models: Vec<String>,
    /// Threads for each model version.
    pub workers: usize,
    /// A batch is closed with this many rows. More rows make each request wait longer, and gain little.
    pub rows_max: usize,
    /// Rows that may wait: some batches, so that overload is answered at once and not after a long wait.
    pub queued_rows_max: usize,
    /// How long a batch is held open for more, where more is expected.
    pub delay_max: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Batching {
            models: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            rows_max: 64,
            queued_rows_max: 4_096,
            delay_max: Duration::from_millis(1),
        }
    }
}
