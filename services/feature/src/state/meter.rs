//! What a lane's state takes, as the metrics show it.

use std::time::{Duration, Instant};

use quadrille_telemetry::metrics::{PipelineStateMetrics, StateUsage};

/// Between two looks: each takes the locks of all partitions.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Of one lane; what it showed goes with it.
pub(super) struct Meter {
    metrics: PipelineStateMetrics,
    shown: StateUsage,
    looked_at: Option<Instant>,
}

impl Meter {
    pub fn new(metrics: PipelineStateMetrics) -> Self {
        Meter {
            metrics,
            shown: StateUsage::default(),
            looked_at: None,
        }
    }

    /// Whether it is time to look.
    pub fn is_due(&mut self) -> bool {
        let is_due = self
            .looked_at
            .is_none_or(|looked_at| looked_at.elapsed() >= LOOKS_EVERY);
        if is_due {
            self.looked_at = Some(Instant::now());
        }
        is_due
    }

    pub fn show(&mut self, now: StateUsage) {
        let before = std::mem::replace(&mut self.shown, now);
        self.metrics.moved(before, now);
    }

    /// So many histories were let go, and keys forgotten.
    pub fn count(&self, (evicted, forgotten): (u64, u64)) {
        self.metrics.evicted(evicted);
        self.metrics.forgotten(forgotten);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.show(StateUsage::default());
    }
}
