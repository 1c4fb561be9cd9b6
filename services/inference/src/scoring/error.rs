//! Why a question has no answer. Each transport has one place that says it in its own words.

use quadrille_pipeline::NeedsHistory;

use crate::{engine, serving, tensor};

/// Why a question has no answer; each says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    TooLarge(String),
    /// It was not even read to its end.
    #[error("{0}")]
    BodyTooLarge(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    NotReady(String),
    #[error("{0}")]
    Expired(String),
    /// It could be done, but not as things are.
    #[error("{0}")]
    Conflict(String),
    /// Nothing that the caller could change.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::Invalid(message.into())
    }
}

impl From<tensor::Error> for Error {
    fn from(error: tensor::Error) -> Self {
        match error {
            tensor::Error::Invalid(message) => Error::Invalid(message),
            tensor::Error::TooLarge(message) => Error::TooLarge(message),
        }
    }
}

impl From<NeedsHistory> for Error {
    fn from(error: NeedsHistory) -> Self {
        Error::Conflict(format!(
            "{error}; send the features that the model reads instead, or the record to ingest"
        ))
    }
}

impl From<serving::Error> for Error {
    fn from(error: serving::Error) -> Self {
        let message = error.to_string();
        match error {
            serving::Error::NotReady { .. } => Error::NotReady(message),
            serving::Error::UnknownModel { .. }
            | serving::Error::UnknownVersion { .. }
            | serving::Error::UnknownPipeline { .. }
            | serving::Error::UnknownVariant { .. } => Error::Unknown(message),
        }
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        let message = error.to_string();
        match error {
            engine::Error::Overloaded => Error::Busy(message),
            engine::Error::Expired => Error::Expired(message),
            engine::Error::TooLarge { .. } => Error::TooLarge(message),
            engine::Error::NoPrediction(no) if no.lacks_inputs() => Error::Invalid(message),
            engine::Error::NoPrediction(_) | engine::Error::Failed => Error::Broken(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_would_be_too_large_is_the_callers_to_change_and_says_how_many_rows_it_may() {
        let error = Error::from(engine::Error::TooLarge { rows: 8_388 });
        assert!(
            matches!(&error, Error::TooLarge(said) if said.contains("send at most 8388 rows")),
            "{error:?}"
        );
    }
}
