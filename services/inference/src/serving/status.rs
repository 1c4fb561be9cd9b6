//! How far each version and each pipeline is on this replica.

use quadrille_registry::ModelId;

/// Where a version is on its way into service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    Wanted,
    Loading,
    Ready,
    Failed { why: String },
}

/// A version that this replica serves, or should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    pub id: ModelId,
    pub state: ModelState,
    /// What kind of model it is, once it is loaded.
    pub platform: Option<&'static str>,
}

/// Which deployment of a pipeline is in effect on this replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStatus {
    pub pipeline: String,
    /// The newest revision on the log; 0 is the local model.
    pub seen: Option<u64>,
    pub serving: Option<u64>,
    /// Where they differ, or nothing serves.
    pub why: Option<String>,
}
