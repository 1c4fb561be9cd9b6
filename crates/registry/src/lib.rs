//! Which model versions there are, and which of them serve what: records on compacted topics, so that every
//! replica learns of a change by itself and the history of what served when is a log.
//!
//! A [`Follower`] reads the log and keeps a [`View`] of it; a [`Registry`] changes it. What a record means is decided by the
//! order of the log alone (`fold`), so all readers agree. This crate does not know what a model is made of, and scores nothing.
#![forbid(unsafe_code)]

pub mod change;
pub mod deployment;
mod error;
mod fold;
mod follower;
mod key;
mod package;
mod ranges;
mod registry;
mod replica;
mod sharing;
pub mod split;
mod status;
pub mod store;
mod version;
mod view;
mod wire;

pub use change::{WEIGHT_DEFAULT, promote, rollback};
pub use deployment::{Action, Deployment, ModelId, Role, Route, SHARE_WHOLE};
pub use error::Error;
pub use follower::{FRESH_WITHIN, Follower};
pub use package::{ARTEFACT_BYTES_MAX, CHUNK_BYTES, PackageBytes, Sha256Hex};
pub use ranges::{KeyRange, KeyRanges};
pub use registry::{Deleted, Pushed, Registry};
pub use replica::{HeldPartitions, HoldingLanes, ModelState, Replica, ReplicaModel, SILENT_AFTER};
pub use split::{Pick, Split};
pub use status::{REPORT_EVERY, Replicas, Reporter};
pub use store::{S3Settings, Store, Uri};
pub use version::compare_versions;
pub use view::{Event, History, ModelEntry, View, Void};
