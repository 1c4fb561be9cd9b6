//! A service's gRPC port as a client sees it, and its errors in words.

use std::time::Duration;

use quadrille_service::Error;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Connects to `service` at an address, `http://` added where it lacks.
///
/// # Errors
/// The address cannot be one, or nobody answers there.
pub async fn connect(service: &str, address: &str) -> Result<Channel, Error> {
    let endpoint = endpoint(address)?;
    endpoint.connect().await.map_err(|error| {
        Error::Failed(format!(
            "no {service} service answers at {address}: {}; start it (`quadrille up`), or set --address",
            root(&error)
        ))
    })
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = |reason: &str| {
        Error::Config(format!(
            "--address {address:?}: {reason}; give http://HOST:PORT"
        ))
    };
    let uri = match address.split_once("://") {
        None => format!("http://{address}"),
        Some(("http", _)) => address.to_owned(),
        Some(("https", _)) => {
            return Err(wrong(
                "TLS is not built in, use a local proxy or a port forward",
            ));
        }
        Some(_) => return Err(wrong("the scheme is not http")),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(&error.to_string()))?;
    if endpoint.uri().port().is_none() {
        return Err(wrong("the port is missing"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN))
}

/// The innermost cause: the outer ones say "transport error" only.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A refusal in words.
pub fn refused(service: &str, status: &Status) -> Error {
    let what = match status.code() {
        Code::InvalidArgument => "refuses the request",
        Code::NotFound => "does not find it",
        Code::Unavailable => "is not ready, try again later",
        Code::ResourceExhausted => "has too much to do, or the request is too large",
        Code::DeadlineExceeded | Code::Cancelled => "did not answer in time",
        Code::Unimplemented => {
            return Error::Failed(format!(
                "what answers is no {service} service; check --address"
            ));
        }
        _ => "failed",
    };
    let message = crate::preview::text(status.message(), crate::preview::MESSAGE_CHARS_MAX);
    Error::Failed(format!("{service} {what}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_but_a_port() {
        let uri = |address| endpoint(address).unwrap().uri().to_string();
        assert_eq!(uri("127.0.0.1:7003"), "http://127.0.0.1:7003/");
        assert_eq!(uri("http://inference:7003"), "http://inference:7003/");
        for wrong in ["http://inference", "https://a:1", "ftp://a:1", "", "a b:1"] {
            assert!(matches!(endpoint(wrong), Err(Error::Config(_))), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_service_said() {
        let error = refused(
            "inference",
            &Status::invalid_argument("field \"age\": is missing"),
        );
        assert_eq!(
            error.to_string(),
            "inference refuses the request: field \"age\": is missing"
        );
    }
}
