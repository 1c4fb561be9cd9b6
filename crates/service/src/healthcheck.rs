//! `--healthcheck`: a container's health check, since the image has no HTTP client.

use std::{net::IpAddr, time::Duration};

use quadrille_proto::Service;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Args, Error};

/// Shorter than the timeout of a container's health check, so that the reason is reported.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Asks `/readyz` of the service that has these settings.
///
/// # Errors
/// It is not ready, or does not respond.
pub async fn healthcheck(args: &Args, service: Service) -> Result<(), Error> {
    let mut address = args.address(service);
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        });
    }
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(answer)) => String::from_utf8_lossy(&answer).into_owned(),
        Ok(Err(error)) => return Err(Error::Failed(format!("{address}: {error}"))),
        Err(_) => return Err(Error::Failed(format!("{address} does not answer"))),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(Error::Failed(format!("not ready: {}", body.trim()))),
    }
}
