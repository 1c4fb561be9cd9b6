//! Why a question has no answer, in the words of gRPC and of HTTP.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use quadrille_pipeline::quote::message;
use quadrille_telemetry::propagation::VariantError;
use serde_json::json;
use tonic::{Code, Status};

use crate::{engine, serving};

/// Why a question has no answer; each says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
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

impl Refusal {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Refusal::Invalid(message.into())
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::Invalid(_) | Refusal::TooLarge(_) => StatusCode::BAD_REQUEST,
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Expired(_) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<serving::Error> for Refusal {
    fn from(error: serving::Error) -> Self {
        let message = error.to_string();
        match error {
            serving::Error::NotReady { .. } => Refusal::NotReady(message),
            _ => Refusal::Unknown(message),
        }
    }
}

impl From<VariantError> for Refusal {
    fn from(error: VariantError) -> Self {
        Refusal::Invalid(error.to_string())
    }
}

impl From<engine::Error> for Refusal {
    fn from(error: engine::Error) -> Self {
        let message = error.to_string();
        match error {
            engine::Error::Overloaded => Refusal::Busy(message),
            engine::Error::Expired => Refusal::Expired(message),
            engine::Error::TooLarge { .. } => Refusal::TooLarge(message),
            engine::Error::NoPrediction(no) if no.lacks_inputs() => Refusal::Invalid(message),
            engine::Error::NoPrediction(_) | engine::Error::Failed => Refusal::Broken(message),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, text) = match refusal {
            Refusal::Invalid(text) => (Code::InvalidArgument, text),
            Refusal::Unknown(text) => (Code::NotFound, text),
            Refusal::TooLarge(text) | Refusal::BodyTooLarge(text) | Refusal::Busy(text) => {
                (Code::ResourceExhausted, text)
            }
            Refusal::NotReady(text) => (Code::Unavailable, text),
            Refusal::Expired(text) => (Code::DeadlineExceeded, text),
            Refusal::Conflict(text) => (Code::FailedPrecondition, text),
            Refusal::Broken(text) => (Code::Internal, text),
        };
        Status::new(code, message(text))
    }
}

/// `{"error": "…"}`, which both REST protocols have.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = error(status, message(self.to_string()));
        if matches!(self, Refusal::Busy(_) | Refusal::NotReady(_)) {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(crate) fn error(status: StatusCode, message: impl Into<String>) -> Response {
    let message: String = message.into();
    (status, Json(json!({ "error": message }))).into_response()
}
