//! What the stores of all partitions take, in the metrics.

use std::{collections::BTreeMap, time::Duration};

use quadrille_service::{Context, Drain, Error, Task};
use quadrille_state::Stores;
use quadrille_telemetry::metrics::{PipelineStateMetrics, StateUsage};

const LOOKS_EVERY: Duration = Duration::from_secs(10);
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Shows it for as long as the service runs. `metrics`: by pipeline.
pub(crate) fn show(
    context: &Context,
    stores: Stores,
    metrics: BTreeMap<String, PipelineStateMetrics>,
) {
    let task = Task::new("state-usage", Drain::AfterStages, ENDS_WITHIN);
    context.spawn(task, |mut stop| async move {
        let mut shown = BTreeMap::new();
        loop {
            let looking = stores.clone();
            // It waits for stores that are being written.
            let usage = tokio::task::spawn_blocking(move || by_pipeline(&looking)).await;
            let usage = usage.map_err(|error| Error::Failed(error.to_string()))?;
            for (pipeline, metrics) in &metrics {
                let of = |all: &BTreeMap<String, StateUsage>| all.get(pipeline).copied();
                metrics.moved(
                    of(&shown).unwrap_or_default(),
                    of(&usage).unwrap_or_default(),
                );
            }
            shown = usage;
            tokio::select! {
                () = tokio::time::sleep(LOOKS_EVERY) => {}
                () = stop.requested() => return Ok(()),
            }
        }
    });
}

/// The service is not ready while more waits for room on the disk than state may take in memory: what it holds is right, and stays so for as
/// long as there is memory. `metrics`: as they are shown.
pub(crate) fn check(
    context: &Context,
    memory_bytes: usize,
    metrics: BTreeMap<String, PipelineStateMetrics>,
) {
    context.check("state", move || {
        let unwritten = metrics.values().map(PipelineStateMetrics::unwritten_bytes);
        fits(unwritten.sum(), memory_bytes as u64)
    });
}

fn fits(unwritten_bytes: u64, memory_bytes: u64) -> Result<(), String> {
    match unwritten_bytes > memory_bytes {
        true => Err(format!(
            "{} MiB of state wait in memory for room on the disk, more than QUADRILLE_STATE_MEMORY_MB; make room in QUADRILLE_STATE_DIR",
            unwritten_bytes >> 20
        )),
        false => Ok(()),
    }
}

fn by_pipeline(stores: &Stores) -> BTreeMap<String, StateUsage> {
    let mut all: BTreeMap<String, StateUsage> = BTreeMap::new();
    for store in stores.usage().stores {
        let usage = StateUsage {
            rows: store.memory_bytes,
            disk: store.disk_bytes,
            ..StateUsage::default()
        };
        *all.entry(store.name.pipeline).or_default() += usage;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_disk_may_take_as_much_as_state_does() {
        assert_eq!(fits(8 << 20, 8 << 20), Ok(()));
        let why = fits(9 << 20, 8 << 20).unwrap_err();
        assert!(
            why.starts_with("9 MiB") && why.contains("QUADRILLE_STATE_DIR"),
            "{why}"
        );
    }
}
