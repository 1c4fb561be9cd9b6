//! As much of an HTTP client as asking a service on this machine for its health and metrics takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A metrics page is some tens of KiB.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(BODY_BYTES_MAX).read_to_string(&mut answer)?;
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status.context("no HTTP answer")?, body.to_owned()))
}

/// Waits until `/readyz` says 200; returns how long that took since `since`.
pub fn ready(address: SocketAddr, since: Instant, within: Duration) -> anyhow::Result<Duration> {
    loop {
        if matches!(get(address, "/readyz"), Ok((200, _))) {
            return Ok(since.elapsed());
        }
        if since.elapsed() > within {
            bail!("{address} is not ready within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
