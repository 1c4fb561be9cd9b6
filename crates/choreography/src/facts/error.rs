//! Why the facts cannot be read or written.

use crate::table;

/// The facts cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Unreadable(#[from] table::Error),
    #[error("facts of pipeline {pipeline}: {reason}")]
    Unwritten { pipeline: String, reason: String },
}
