//! A service's gRPC port as a client sees it, and its errors in words.

use std::time::Duration;

use quadrille_proto::Service;
use quadrille_service::Error;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const ADDRESS_DEFAULT: &str = "http://127.0.0.1";

/// The flag of commands that ask a service.
#[derive(Debug, clap::Args)]
pub struct AddressArg {
    /// Where the service listens: http://HOST, or http://HOST:PORT where the port is not the service's own (feature 7002, inference 7003,
    /// results 7004).
    #[arg(
        long,
        env = "QUADRILLE_ADDRESS",
        default_value = ADDRESS_DEFAULT,
        value_name = "URL"
    )]
    address: String,
}

impl AddressArg {
    /// Connects to a service.
    ///
    /// # Errors
    /// The address cannot be one, or nobody answers there.
    pub async fn connect(&self, service: Service) -> Result<Channel, Error> {
        let address = with_port(&self.address, service.port());
        endpoint(&address)?.connect().await.map_err(|error| {
            Error::Failed(format!(
                "no {} service answers at {address}: {}; start it (`quadrille up`), or set --address or QUADRILLE_ADDRESS",
                service.name(),
                root(&error)
            ))
        })
    }
}

/// One variable serves for all services where it names no port. Set to nothing it is as if it were not set.
fn with_port(address: &str, port: u16) -> String {
    let address = match address {
        "" => ADDRESS_DEFAULT,
        address => address,
    };
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let authority = rest.split('/').next().unwrap_or_default();
    // The colons of an IPv6 address are within its brackets.
    let host_end = authority.rfind(']').unwrap_or(0);
    match authority.is_empty() || authority[host_end..].contains(':') {
        true => address.to_owned(),
        false => format!("{scheme}://{authority}:{port}{}", &rest[authority.len()..]),
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = |reason: &str| {
        Error::Config(format!(
            "--address (QUADRILLE_ADDRESS) {address:?}: {reason}; give http://HOST:PORT"
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
    let message = crate::preview::text(status.message(), crate::preview::MESSAGE_CHARS_MAX);
    let what = match status.code() {
        // As a name that is not on the log: what was asked for has to change.
        Code::NotFound => {
            return Error::Config(format!("{service} does not find it: {message}"));
        }
        Code::InvalidArgument => "refuses the request",
        Code::Unavailable => "is not ready, try again later",
        Code::ResourceExhausted => "has too much to do, or the request is too large",
        Code::DeadlineExceeded | Code::Cancelled => "did not answer in time",
        Code::Unimplemented => {
            return Error::Failed(format!(
                "what answers is no {service} service; check --address and QUADRILLE_ADDRESS"
            ));
        }
        _ => "failed",
    };
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
            let error = endpoint(wrong).unwrap_err();
            let both =
                |text: &String| text.contains("--address") && text.contains("QUADRILLE_ADDRESS");
            assert!(
                matches!(&error, Error::Config(text) if both(text)),
                "{error}"
            );
        }
    }

    #[test]
    fn an_address_without_a_port_is_that_of_the_service_that_is_asked() {
        for (given, expected) in [
            ("http://127.0.0.1", "http://127.0.0.1:7004"),
            ("results", "http://results:7004"),
            ("http://gateway:80", "http://gateway:80"),
            ("http://gateway/", "http://gateway:7004/"),
            ("[::1]", "http://[::1]:7004"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("", "http://127.0.0.1:7004"),
        ] {
            assert_eq!(with_port(given, 7004), expected, "{given}");
        }
    }

    #[test]
    fn a_name_that_a_service_does_not_know_is_wrong_usage() {
        let error = refused("results", &Status::not_found("no prediction \"x\""));
        assert!(
            matches!(&error, Error::Config(it) if it == "results does not find it: no prediction \"x\""),
            "{error}"
        );
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
