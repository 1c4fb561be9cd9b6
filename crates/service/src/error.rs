//! Why a service ended otherwise than by draining.

use quadrille_choreography::{AdminError, ConfigError, StageError};

/// Why a service ended otherwise than by draining.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be; the message names it and the fix. Exit code 64.
    #[error("{0}")]
    Config(String),
    /// Anything else. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::Config(error.to_string())
    }
}

impl From<StageError> for Error {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Config(error) => error.into(),
            StageError::Topics(error) => error.into(),
            error => Error::Failed(error.to_string()),
        }
    }
}

impl From<AdminError> for Error {
    fn from(error: AdminError) -> Self {
        match error.is_retriable() {
            true => Error::Failed(error.to_string()),
            false => Error::Config(error.to_string()),
        }
    }
}
