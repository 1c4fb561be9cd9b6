//! Packages outside the log: files, and objects in an S3-compatible store. Reads are bounded in bytes and time.

mod s3;
#[cfg(test)]
mod tests;
mod uri;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use quadrille_choreography::Backoff;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode},
    tls::{RootCerts, TlsConfig, TlsProvider},
};

pub use s3::S3Settings;
pub use uri::Uri;

/// Attempts at an object, if an error may be transient.
const ATTEMPTS: u32 = 4;
/// Between attempts.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long a store may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// For all attempts together, plus time by size. Below the time after which a silent replica counts as gone.
const WITHIN: Duration = Duration::from_secs(20);
/// A store that gives less is given up.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// As much of an answer that is no object as is looked at.
const REFUSAL_BYTES_MAX: u64 = 4 << 10;

/// Why a file was not read. A message names the URI; secrets and signed addresses are in none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was tried several times, and may be had later.
    #[error("{uri} cannot be read now: {reason}")]
    Away { uri: Uri, reason: String },
    /// It is not there, not allowed, or a setting is wrong.
    #[error("{uri} cannot be read: {reason}")]
    Refused { uri: Uri, reason: String },
    #[error("{uri} has more than {max} bytes")]
    TooLong { uri: Uri, max: u64 },
}

/// Reads files. Every call blocks.
#[derive(Clone)]
pub struct Store {
    agent: Agent,
    s3: S3Settings,
    again: (Duration, Duration),
}

impl Store {
    pub fn new(s3: S3Settings) -> Self {
        // The system's root certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR.
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier);
        // A signed address is good for one host, so a redirection is an answer like others.
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_per_read(Some(SILENCE_MAX));
        Store {
            agent: agent.build().new_agent(),
            s3,
            again: AGAIN,
        }
    }

    /// The whole of a file of at most `max` bytes. Of an object what may pass is tried again, within 20 s and a second for each MiB.
    ///
    /// # Errors
    /// It has more bytes, is not there, or cannot be had.
    pub fn read(&self, uri: &Uri, max: u64) -> Result<Vec<u8>, Error> {
        let (bucket, key) = match uri {
            Uri::File(path) => return read_file(uri, path, max),
            Uri::S3 { bucket, key } => (bucket, key),
        };
        let deadline = Instant::now() + WITHIN + Duration::from_secs(max / BYTES_PER_SECOND_MIN);
        let mut backoff = Backoff::new(self.again.0, self.again.1);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let outcome = self.get(uri, bucket, key, max, left);
            let wait = backoff.next_wait();
            match outcome {
                Err(Error::Away { reason, .. })
                    if backoff.attempts() < ATTEMPTS && Instant::now() + wait < deadline =>
                {
                    tracing::debug!(%uri, reason, "reading failed; retrying");
                    thread::sleep(wait);
                }
                outcome => return outcome,
            }
        }
    }

    fn get(
        &self,
        uri: &Uri,
        bucket: &str,
        key: &str,
        max: u64,
        within: Duration,
    ) -> Result<Vec<u8>, Error> {
        let refused = |reason| Error::Refused {
            uri: uri.clone(),
            reason,
        };
        let away = |reason| Error::Away {
            uri: uri.clone(),
            reason,
        };
        let too_long = || Error::TooLong {
            uri: uri.clone(),
            max,
        };
        // Signed again each time: a signature expires.
        let address = self.s3.address(bucket, key).map_err(refused)?;
        let request = self.agent.get(address.as_str()).config();
        let response = request.timeout_global(Some(within)).build().call();
        let response = response.map_err(|error| match error {
            ureq::Error::NativeTls(_) | ureq::Error::Tls(_) => refused(format!(
                "{error}; SSL_CERT_FILE names the root certificates if they are not the system's"
            )),
            // It repeats the address.
            ureq::Error::BadUri(_) => refused("its address is none".to_owned()),
            error => away(error.to_string()),
        })?;
        let status = response.status();
        if status != StatusCode::OK {
            let reason = refusal(response);
            return Err(match passes(status) {
                true => away(reason),
                false => refused(reason),
            });
        }
        let body = response.into_body();
        if body.content_length().is_some_and(|bytes| bytes > max) {
            return Err(too_long());
        }
        let bytes = bounded(body.into_reader(), max);
        let bytes = bytes.map_err(|error| away(error.to_string()))?;
        bytes.ok_or_else(too_long)
    }
}

/// Whether the same request may be answered otherwise the next time.
fn passes(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// An answer that is no object, in words: its status, the store's own code for it, and what to look at.
fn refusal(response: Response<Body>) -> String {
    let status = response.status();
    let hint = match status.as_u16() {
        300..=399 => format!(
            "; the bucket is elsewhere ({}): set AWS_REGION or AWS_ENDPOINT_URL_S3",
            region(response.headers())
        ),
        401 | 403 => {
            "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the bucket allows".to_owned()
        }
        404 => "; check the URI and AWS_ENDPOINT_URL_S3".to_owned(),
        _ => String::new(),
    };
    let mut text = Vec::new();
    // Without its text the status must do.
    let _ = (response.into_body().into_reader().take(REFUSAL_BYTES_MAX)).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let code = text.split_once("<Code>").map(|(_, rest)| word(rest));
    match code {
        Some(code) => format!("HTTP status {} ({code}){hint}", status.as_u16()),
        None => format!("HTTP status {}{hint}", status.as_u16()),
    }
}

fn region(headers: &HeaderMap) -> String {
    let region = headers.get("x-amz-bucket-region");
    match region.and_then(|region| region.to_str().ok()) {
        Some(region) => word(region),
        None => "the store does not say where".to_owned(),
    }
}

/// The first word of others' text.
fn word(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let of_word = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    text.chars().take_while(of_word).take(CHARS_MAX).collect()
}

fn read_file(uri: &Uri, path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let refused = |error: io::Error| Error::Refused {
        uri: uri.clone(),
        reason: format!("{error}; every replica must have it under this path"),
    };
    // Asked before opening: opening a pipe would wait for its other end.
    if !fs::metadata(path).map_err(refused)?.is_file() {
        return Err(refused(io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(refused)?;
    let bytes = bounded(file, max).map_err(refused)?;
    bytes.ok_or_else(|| Error::TooLong {
        uri: uri.clone(),
        max,
    })
}

/// Reads to the end; None if that is more than `max` bytes.
fn bounded(from: impl Read, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    (from.take(max.saturating_add(1))).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}
