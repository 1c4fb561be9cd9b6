//! Why there is nothing to score with.

use quadrille_pipeline::quote::quote;

/// Why there is nothing to score with; the message lists what is available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no model {} is served; available: {}", quote(name), list(known))]
    UnknownModel { name: String, known: Vec<String> },
    #[error(
        "no version {} of model {} is served; available: {}",
        quote(version),
        quote(name),
        list(known)
    )]
    UnknownVersion {
        name: String,
        version: String,
        known: Vec<String>,
    },
    #[error("not ready: {why}")]
    NotReady { why: String },
    #[error("no pipeline {} is served; available: {}", quote(name), list(known))]
    UnknownPipeline { name: String, known: Vec<String> },
    #[error(
        "pipeline {} has no variant {} that answers; available: {}",
        quote(pipeline),
        quote(variant),
        list(known)
    )]
    UnknownVariant {
        pipeline: String,
        variant: String,
        known: Vec<String>,
    },
}

fn list(known: &[String]) -> String {
    match known {
        [] => "none".to_owned(),
        known => known.join(", "),
    }
}
