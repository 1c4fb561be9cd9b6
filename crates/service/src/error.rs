//! Why a service did not end by draining.

use quadrille_choreography::{admin, config, stage};

/// Why a service did not end by draining.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An invalid setting; the message names it and the fix. Exit code 64.
    #[error("{0}")]
    Config(String),
    /// Anything else. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Error::Config(error.to_string())
    }
}

impl From<stage::Error> for Error {
    fn from(error: stage::Error) -> Self {
        match error {
            stage::Error::Config(error) => error.into(),
            stage::Error::Topics(error) => error.into(),
            error => Error::Failed(error.to_string()),
        }
    }
}

impl From<admin::Error> for Error {
    fn from(error: admin::Error) -> Self {
        match error.is_retriable() {
            true => Error::Failed(error.to_string()),
            false => Error::Config(error.to_string()),
        }
    }
}
