//! HTTP: the statuses of errors, bodies, and what comes with a call.

use axum::{
    Json,
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use quadrille_pipeline::quote::message;
use quadrille_telemetry::propagation::{self, VARIANT};
use serde_json::json;

use crate::{scoring::Error, tensor::Limits};

fn status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) | Error::TooLarge(_) => StatusCode::BAD_REQUEST,
        Error::Unknown(_) => StatusCode::NOT_FOUND,
        Error::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
        Error::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::Expired(_) => StatusCode::GATEWAY_TIMEOUT,
        Error::Conflict(_) => StatusCode::CONFLICT,
        Error::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// `{"error": "…"}`, which both REST protocols have.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = error(status(&self), message(self.to_string()));
        if matches!(self, Error::Busy(_) | Error::NotReady(_)) {
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

/// A body as it came.
///
/// # Errors
/// It is too large, or did not arrive.
pub(crate) fn read(body: Result<Bytes, BytesRejection>, limits: Limits) -> Result<Bytes, Error> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::BodyTooLarge(format!(
            "the body has more than {} bytes, uncompressed; send fewer rows at once, or raise QUADRILLE_REQUEST_BYTES",
            limits.bytes_max
        )),
        _ => Error::invalid(format!("the body did not arrive: {rejection}")),
    })
}

/// The route that a header names.
///
/// # Errors
/// It is not known which.
pub(crate) fn variant(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let values = headers.get_all(VARIANT).iter().map(HeaderValue::as_bytes);
    let variant = propagation::variant(values).map_err(|error| Error::invalid(error.to_string()));
    Ok(variant?.map(str::to_owned))
}
