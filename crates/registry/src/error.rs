//! Errors of reading and changing the registry.

use std::time::Duration;

use quadrille_choreography::{
    config,
    table::{self, fetch, write},
};

use crate::{Deployment, ModelEntry, ModelId, Sha256Hex, Uri, deployment, store};

/// Each message says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    #[error("topics are missing: {}; create them with `quadrille topics create`", topics.join(", "))]
    Missing { topics: Vec<&'static str> },
    #[error("the registry could not be read within {} s: {why}; check KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES", within.as_secs())]
    Unreadable { within: Duration, why: String },
    #[error(transparent)]
    Table(#[from] table::Error),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Write(#[from] write::Error),
    #[error("{id} is not on the log; {known}")]
    Unknown { id: ModelId, known: String },
    #[error(
        "{id}: the package on the log has SHA-256 {found}, its manifest says {expected}: it was damaged; push it again as another version"
    )]
    Corrupt {
        id: ModelId,
        expected: Sha256Hex,
        found: Sha256Hex,
    },
    #[error(
        "{id}: {uri} {difference}: it was changed after it was pushed; restore it and deploy again, or push it as another version"
    )]
    Changed {
        id: ModelId,
        uri: Uri,
        difference: String,
    },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{id}: {reason}")]
    Broken { id: ModelId, reason: String },
    #[error(
        "{} already exists with other content (SHA-256 {}…, pushed by {}); a version does not change: push this as another one",
        first.id, first.sha256.short(), first.pushed_by
    )]
    Taken { first: Box<ModelEntry> },
    #[error("{id} cannot be deleted: pipeline {} routes to it; deploy another version first, or remove the deployment with `quadrille deploy unset`", pipelines.join(", "))]
    InUse { id: ModelId, pipelines: Vec<String> },
    #[error(transparent)]
    Invalid(#[from] deployment::Error),
    #[error(
        "{} changed it first, with revision {} of pipeline {} ({}); look at it with `quadrille deploy show {}` and try again",
        winner.by, winner.revision, winner.pipeline, describe(winner), winner.pipeline
    )]
    LostRace { winner: Box<Deployment> },
    #[error("the event is on the log, but it is void: {0}")]
    Void(String),
    #[error("what was written could not be read back within {} s: {why}; check with `quadrille model list` or `quadrille deploy history` before you try again", within.as_secs())]
    NotReadBack { within: Duration, why: String },
}

impl Error {
    /// Whether the request is at fault, not Kafka.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Error::Config(_)
                | Error::Missing { .. }
                | Error::Unknown { .. }
                | Error::Taken { .. }
                | Error::InUse { .. }
                | Error::Invalid(_)
        )
    }
}

fn describe(deployment: &Deployment) -> String {
    match deployment.reason.as_str() {
        "" => format!("{}, without a reason", deployment.action.name()),
        reason => format!("{}: {reason}", deployment.action.name()),
    }
}
