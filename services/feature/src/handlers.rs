//! The handlers of a stage with state for whoever runs it without the service: the benchmarks.

use std::sync::Arc;

use quadrille_choreography::{ChangelogReader, Cluster, Schemas};
use quadrille_pipeline::Pipeline;
use quadrille_state::{Identity, Stores};
use quadrille_telemetry::metrics::PipelineStateMetrics;
use tokio::sync::watch;

use crate::{
    FeatureHandler,
    state::{Opener, Options, Shared, Standby, Standbys},
};

/// Makes the handlers of all lanes of a stage whose pipeline looks back. The stage's outputs are the features, and under the name
/// `feature-state` the changelog.
#[derive(Clone)]
pub struct Handlers {
    options: Options,
    cluster: Cluster,
    changelog: String,
    schemas: Schemas,
}

impl Handlers {
    /// `changelog`: a topic with the partitions of the input. `stores`: where the rows are kept on disk; None: in memory alone.
    /// `cache_bytes`: memory of one lane for histories in use.
    pub fn new(
        pipeline: Arc<Pipeline>,
        cluster: &Cluster,
        changelog: &str,
        stores: Option<(Stores, Identity)>,
        cache_bytes: usize,
    ) -> Self {
        let opener = match stores {
            Some((stores, identity)) => Opener::Disk {
                stores,
                identity: Arc::new(identity),
            },
            None => Opener::Memory,
        };
        // Nobody asks.
        let shared = Shared::new(Standby::None, watch::Sender::new(0));
        Handlers {
            options: Options {
                pipeline,
                standbys: Standbys::new(Standby::None, opener, shared, 0),
                claimants: Arc::new(|_| Vec::new()),
                session: cluster.session_timeout(),
                cache_bytes,
                metrics: PipelineStateMetrics::unregistered(),
            },
            cluster: cluster.clone(),
            changelog: changelog.to_owned(),
            schemas: Schemas::new(cluster),
        }
    }

    /// Of one lane.
    pub fn make(&self) -> FeatureHandler {
        let reader = ChangelogReader::new(&self.cluster, &self.changelog);
        FeatureHandler::with_state(self.options.clone(), 0, reader, self.schemas.clone())
    }
}
