//! A replica's report: the models it has, how far it has read, and the state it can answer for.

use std::{collections::BTreeMap, time::Duration};

use crate::ModelId;

/// A replica that has not reported for this long is considered gone.
pub const SILENT_AFTER: Duration = Duration::from_secs(30);

/// The state of a model version on a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    Wanted,
    Loading,
    Ready,
    Failed { why: String },
}

impl ModelState {
    pub const fn name(&self) -> &'static str {
        match self {
            ModelState::Wanted => "wanted",
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Failed { .. } => "failed",
        }
    }
}

/// A model version on a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaModel {
    pub id: ModelId,
    pub state: ModelState,
}

/// The partitions of a pipeline whose state a replica holds, each with the time since when, in milliseconds since the Unix epoch.
pub type HeldPartitions = BTreeMap<i32, i64>;

/// The lanes of a replica that have partitions of a pipeline, by these.
pub type HoldingLanes = BTreeMap<i32, u32>;

/// A replica's report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    pub service: String,
    /// The name of the replica; with the service it is the report's key.
    pub instance: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub models: Vec<ReplicaModel>,
    /// The newest valid revision it has seen of each pipeline it runs; 0 if there is none yet. To wait for a deployment is to wait
    /// for the replicas that list its pipeline.
    pub revisions: BTreeMap<String, u64>,
    /// As [`crate::Follower::offsets`].
    pub models_offset: i64,
    pub deployments_offset: i64,
    /// Where its siblings can ask it, as `host:port`; empty where there is nothing to ask.
    pub address: String,
    /// The restored state that it holds, by pipeline.
    pub held: BTreeMap<String, HeldPartitions>,
    /// By pipeline, the lanes of what it holds.
    pub lanes: BTreeMap<String, HoldingLanes>,
    /// The state that it keeps up with, and can answer for while its owner cannot.
    pub standing_by: BTreeMap<String, HeldPartitions>,
}

impl Replica {
    pub fn state(&self, id: &ModelId) -> Option<&ModelState> {
        let model = self.models.iter().find(|model| model.id == *id);
        model.map(|model| &model.state)
    }

    /// Since when it holds a partition's state; None if it does not say so.
    pub fn holds_since(&self, pipeline: &str, partition: i32) -> Option<i64> {
        self.held.get(pipeline)?.get(&partition).copied()
    }

    /// The lane that holds a partition's state, if it says so.
    pub fn lane_of(&self, pipeline: &str, partition: i32) -> Option<u32> {
        self.lanes.get(pipeline)?.get(&partition).copied()
    }

    /// Since when it stands by for a partition; None if it does not say so.
    pub fn stands_by_since(&self, pipeline: &str, partition: i32) -> Option<i64> {
        self.standing_by.get(pipeline)?.get(&partition).copied()
    }

    /// Whether it has not reported for too long.
    pub fn is_silent(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.at_ms) > SILENT_AFTER.as_millis() as i64
    }
}
