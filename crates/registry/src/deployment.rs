//! A deployment: the routes of one pipeline, each to a model version.

/// A version of a model. Versions do not change: other content is another version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId {
    pub name: String,
    pub version: String,
}

/// What a route does with what it scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Shares what canaries leave with the other live routes, by weight.
    Live { weight: u32 },
    /// Takes this part of all keys, in hundredths of a percent (0 to 10,000).
    Canary { share: u32 },
    /// Scores everything; its predictions are stored and marked, and never acted upon.
    Shadow,
}

/// A way from a pipeline to a model version; its name is a prediction's `variant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub name: String,
    pub model: ModelId,
    pub role: Role,
}

/// How a deployment came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Set,
    Promote,
    Rollback,
}

/// Which routes a pipeline has from one moment on. An event: a change is a new one of the next revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub pipeline: String,
    /// 1 for a pipeline's first.
    pub revision: u64,
    pub routes: Vec<Route>,
    pub action: Action,
    /// Who asked for it.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub reason: String,
}
