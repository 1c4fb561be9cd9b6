//! The services' ports on this machine: free, one of ours, or another's.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use quadrille_proto::Service;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Check;
use crate::preview;

/// For one answer of something on this machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Far above what our services say of themselves.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// All four ports, at the same time.
pub async fn check(first: u16) -> Vec<Check> {
    let port = |service: Service| first + (service.port() - Service::Ingest.port());
    let [a, b, c, d] = Service::ALL;
    let (a, b, c, d) = tokio::join!(
        one(a, port(a)),
        one(b, port(b)),
        one(c, port(c)),
        one(d, port(d))
    );
    vec![a, b, c, d]
}

async fn one(service: Service, port: u16) -> Check {
    let of = format!("port {port}");
    let name = service.name();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match get(address, "/readyz").await {
        Ok((200, _)) if is_ours(address).await => match service {
            Service::Inference => versions(of, address).await,
            _ => Check::ok(of, format!("{name} is ready")),
        },
        Ok((503, body)) => {
            let reason = preview::text(body.trim(), preview::MESSAGE_CHARS_MAX);
            Check::warning(of, format!("{name} is not ready: {reason}"))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Check::ok(of, format!("nothing listens on {address}"))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let seconds = ANSWER_WITHIN.as_secs();
            Check::warning(
                of,
                format!(
                    "does not answer within {seconds} s: {name} hangs, or something else listens"
                ),
            )
        }
        _ => Check::failed(
            of,
            format!(
                "something else than {name} listens there; end it, or give {name} another port by QUADRILLE_LISTEN"
            ),
        ),
    }
}

/// Any server may answer 200; ours count what they do under their name.
async fn is_ours(address: SocketAddr) -> bool {
    let metrics = get(address, "/metrics").await;
    metrics.is_ok_and(|(status, body)| status == 200 && body.contains("quadrille_"))
}

/// Inference says which release it is.
async fn versions(of: String, address: SocketAddr) -> Check {
    let about = get(address, "/v2").await;
    let about = about.ok().and_then(|(_, body)| {
        let about: Value = serde_json::from_str(&body).ok()?;
        about["version"].as_str().map(str::to_owned)
    });
    let ours = env!("CARGO_PKG_VERSION");
    match about {
        Some(version) if version == ours => Check::ok(of, format!("inference {version} is ready")),
        Some(version) => {
            let version = preview::cell(&version);
            Check::warning(
                of,
                format!("inference {version} is ready, this command is {ours}; use one release"),
            )
        }
        None => Check::ok(of, "inference is ready"),
    }
}

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut bounded = stream.take(ANSWER_BYTES_MAX);
        bounded.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = match timeout(ANSWER_WITHIN, asking).await {
        Ok(answer) => answer?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|it| it.get(..3));
    match status.and_then(|it| it.parse().ok()) {
        Some(status) => Ok((status, body.to_owned())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::{super::Status, *};

    /// Answers one request after the other, always the same.
    async fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn a_port_is_free_ours_or_anothers() {
        let ready = answering("HTTP/1.1 200 OK\r\n\r\nquadrille_connections 1").await;
        assert_eq!(one(Service::Ingest, ready).await.status, Status::Ok);
        let waiting = answering("HTTP/1.1 503 Service Unavailable\r\n\r\nno Kafka").await;
        let check = one(Service::Ingest, waiting).await;
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.ends_with("not ready: no Kafka"), "{check:?}");
        for other in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nready",
        ] {
            let port = answering(other).await;
            assert_eq!(one(Service::Ingest, port).await.status, Status::Failed);
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let check = one(Service::Ingest, port).await;
        assert!(
            check.status == Status::Ok && check.found.starts_with("nothing listens"),
            "{check:?}"
        );
        // The system takes the connection, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = one(Service::Ingest, silent.local_addr().unwrap().port()).await;
        assert_eq!(check.status, Status::Warning);
        assert!(check.found.contains("hangs"), "{check:?}");
    }
}
