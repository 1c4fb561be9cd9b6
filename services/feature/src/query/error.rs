//! Why a question has no answer, and how gRPC says it.

use quadrille_pipeline::quote::message;
use quadrille_proto::RETRY_PUSHBACK_MS;
use tonic::{Code, Status, metadata::MetadataValue};

/// Why a replica refuses another one's question.
const REASON: &str = "quadrille-reason";
const NOT_OWNER: &str = "NOT_OWNER";

/// About as long as a partition takes from one replica to the next.
const RETRY_MS_DEFAULT: u64 = 250;

/// Why a question has no answer; each says what to change.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Unknown(String),
    /// It could be answered, but not as things are.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    TooMuch(String),
    /// Later.
    #[error("{0}")]
    Unavailable(String),
    /// Another replica asked; this one does not hold the key either.
    #[error("{0}")]
    NotOwner(String),
    /// Nothing that the caller could change.
    #[error("{0}")]
    Broken(String),
    /// As the replica said that was asked.
    #[error("{}", .0.message())]
    Passed(Status),
}

impl Error {
    fn code(&self) -> Code {
        match self {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::Unknown(_) => Code::NotFound,
            Error::Refused(_) | Error::NotOwner(_) => Code::FailedPrecondition,
            Error::Exists(_) => Code::AlreadyExists,
            Error::TooMuch(_) => Code::ResourceExhausted,
            Error::Unavailable(_) => Code::Unavailable,
            Error::Broken(_) => Code::Internal,
            Error::Passed(status) => status.code(),
        }
    }

    /// As metrics say it: the code's name, and which replica does not hold what another one asks for.
    pub fn outcome(&self) -> &'static str {
        if let Error::NotOwner(_) = self {
            return "not_owner";
        }
        match self.code() {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::FailedPrecondition => "failed_precondition",
            Code::AlreadyExists => "already_exists",
            Code::ResourceExhausted => "resource_exhausted",
            Code::Unavailable => "unavailable",
            _ => "internal",
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if let Error::Passed(status) = error {
            return status;
        }
        let mut status = Status::new(error.code(), message(error.to_string()));
        match error {
            Error::NotOwner(_) => {
                let reason = MetadataValue::from_static(NOT_OWNER);
                status.metadata_mut().insert(REASON, reason);
            }
            Error::Unavailable(_) => {
                let ms = MetadataValue::from(RETRY_MS_DEFAULT);
                status.metadata_mut().insert(RETRY_PUSHBACK_MS, ms);
            }
            _ => {}
        }
        status
    }
}

/// Whether the replica that was asked says that it does not hold the key.
pub(super) fn is_not_owner(status: &Status) -> bool {
    let reason = status.metadata().get(REASON);
    reason.is_some_and(|reason| reason.as_bytes() == NOT_OWNER.as_bytes())
}

/// Whether the replica itself says that it cannot answer now: what is between here and there does not know this header.
pub(super) fn is_busy_replica(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.metadata().contains_key(RETRY_PUSHBACK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_ask_again_is_told_when() {
        let status = Status::from(Error::Unavailable("moving".to_owned()));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(is_busy_replica(&status) && !is_not_owner(&status));
        let hint = status.metadata().get(RETRY_PUSHBACK_MS).expect("a hint");
        assert_eq!(hint, "250");
    }

    #[test]
    fn a_replica_that_does_not_hold_the_key_is_told_from_one_that_refuses() {
        let not_owner = Status::from(Error::NotOwner("not here".to_owned()));
        let refused = Status::from(Error::Refused("late".to_owned()));
        assert_eq!(not_owner.code(), refused.code());
        assert!(is_not_owner(&not_owner) && !is_not_owner(&refused));
    }
}
