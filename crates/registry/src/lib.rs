//! Which model versions there are, and which of them serve what: records on compacted topics, so that every
//! replica learns of a change by itself and the history of what served when is a log.
//!
//! This crate does not know what a model is made of, and scores nothing.
#![forbid(unsafe_code)]

mod deployment;

pub use deployment::{Action, Deployment, ModelId, Role, Route};
