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
