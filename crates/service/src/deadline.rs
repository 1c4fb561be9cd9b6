//! `grpc-timeout`: how long a call may take, and the status if it takes longer.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{extract::Request, http::HeaderMap, response::Response};
use tonic::Status;

/// The deadline of a call: an extension of requests with a `grpc-timeout`.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

/// Honours `grpc-timeout`, which only tonic's own server does by itself.
pub(crate) async fn deadline<F>(
    mut request: Request,
    run: impl FnOnce(Request) -> F,
) -> Result<Response, Infallible>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    match timeout_of(request.headers()) {
        None => run(request).await,
        // A timer of zero would let a quick response through.
        Some(Duration::ZERO) => Ok(too_late()),
        Some(timeout) => {
            if let Some(deadline) = Instant::now().checked_add(timeout) {
                request.extensions_mut().insert(Deadline(deadline));
            }
            match tokio::time::timeout(timeout, run(request)).await {
                Ok(response) => response,
                Err(_) => Ok(too_late()),
            }
        }
    }
}

/// The timeout that a call was sent with, if any.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let timeout = headers.get("grpc-timeout")?;
    parse_grpc_timeout(timeout.to_str().ok()?)
}

pub(crate) fn too_late<B: Default>() -> Response<B> {
    Status::deadline_exceeded("the call's deadline has passed").into_http()
}

/// At most eight digits and a unit, by gRPC's specification.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_in_every_unit() {
        for (text, ms) in [("1S", 1000), ("20m", 20), ("3000u", 3), ("1M", 60_000)] {
            assert_eq!(
                parse_grpc_timeout(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for wrong in ["", "S", "1", "-1S", "123456789S", "1x", "é"] {
            assert_eq!(
                parse_grpc_timeout(wrong).filter(|_| wrong != "S"),
                None,
                "{wrong}"
            );
        }
    }
}
