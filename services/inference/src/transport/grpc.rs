//! gRPC: the codes of errors, and what comes with a call.

use std::time::Instant;

use quadrille_pipeline::quote::message;
use quadrille_service::Deadline;
use quadrille_telemetry::propagation::{self, VARIANT};
use tonic::{
    Code, Request, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::scoring::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, text) = match error {
            Error::Invalid(text) => (Code::InvalidArgument, text),
            Error::Unknown(text) => (Code::NotFound, text),
            Error::TooLarge(text) | Error::BodyTooLarge(text) | Error::Busy(text) => {
                (Code::ResourceExhausted, text)
            }
            Error::NotReady(text) => (Code::Unavailable, text),
            Error::Expired(text) => (Code::DeadlineExceeded, text),
            Error::Conflict(text) => (Code::FailedPrecondition, text),
            Error::Broken(text) => (Code::Internal, text),
        };
        Status::new(code, message(text))
    }
}

/// When nobody waits for a call's answer any more.
pub(crate) fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    request
        .extensions()
        .get()
        .map(|deadline: &Deadline| deadline.0)
}

/// The route that metadata names.
///
/// # Errors
/// It is not known which.
pub(crate) fn variant(metadata: &MetadataMap) -> Result<Option<String>, Error> {
    let values = metadata.get_all(VARIANT).iter();
    let values = values.map(MetadataValue::as_bytes);
    let variant = propagation::variant(values).map_err(|error| Error::invalid(error.to_string()));
    Ok(variant?.map(str::to_owned))
}
