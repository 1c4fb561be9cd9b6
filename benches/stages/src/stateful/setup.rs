//! A stage with state as the service makes it: its topics, its memory, its folder.

use std::{path::Path, sync::Arc};

use feature::Handlers;
use quadrille_choreography::{Cluster, CommitMode, Limits, OutputTopic, StageConfig};
use quadrille_pipeline::Pipeline;
use quadrille_state::{Identity, Settings, Stores};

/// What one is made with.
pub struct Setup {
    pub cluster: Cluster,
    pub pipeline: Arc<Pipeline>,
    pub input: String,
    pub output: String,
    pub changelog: String,
    pub group: String,
    pub lanes: usize,
    /// Half for histories, half for rows, as in the service.
    pub memory_bytes: usize,
    /// None: rows are kept in memory alone.
    pub stores: Option<Stores>,
}

/// Stores in a folder of their own.
pub fn stores(folder: &Path, memory_bytes: usize) -> anyhow::Result<Stores> {
    Ok(Stores::open_folder(Settings::new(
        folder,
        memory_bytes / 2,
    ))?)
}

/// Of all files in it.
pub fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => folder_bytes(&entry.path())?,
            // It may have been merged away.
            false => entry.metadata().map_or(0, |it| it.len()),
        };
    }
    Ok(bytes)
}

pub fn identity(changelog: &str) -> Identity {
    Identity {
        pipeline: "bench".to_owned(),
        cluster: "bench".to_owned(),
        topic_id: changelog.to_owned(),
        definition: [0; 8],
    }
}

impl Setup {
    pub fn config(&self) -> StageConfig {
        let topic = |name, topic: &str| OutputTopic {
            name,
            topic: topic.to_owned(),
        };
        StageConfig {
            cluster: self.cluster.clone(),
            service: "bench",
            pipeline: self.pipeline.name().to_owned(),
            group: self.group.clone(),
            input: self.input.clone(),
            outputs: vec![
                topic("out", &self.output),
                topic("feature-state", &self.changelog),
            ],
            instance: "bench".to_owned(),
            lanes: self.lanes,
            commit: CommitMode::Kafka,
            limits: Limits::default(),
            latency_objective: None,
        }
    }

    /// Those of all lanes.
    pub fn handlers(&self) -> Handlers {
        let stores = self.stores.clone();
        Handlers::new(
            Arc::clone(&self.pipeline),
            &self.cluster,
            &self.changelog,
            stores.map(|stores| (stores, identity(&self.changelog))),
            self.memory_bytes / 2 / self.lanes,
        )
    }
}
