//! A port beside the one for HTTP and gRPC, for another protocol: bound at the start, with a limit on connections, each served
//! in a task of its own, and drained.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{Error, StopSignal};

/// How long to retry a port that is in use: a predecessor that was killed a moment ago may still hold it.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait after a failed `accept`; usually too many files are open.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Binds `address`, the value of the environment variable `setting`.
///
/// # Errors
/// It cannot be bound.
pub(crate) fn bind(
    name: &str,
    setting: &str,
    address: SocketAddr,
    bound: Option<StdListener>,
) -> Result<TcpListener, Error> {
    let refused = |error: std::io::Error| {
        Error::Config(format!(
            "{setting} {address}: {error}; choose another address"
        ))
    };
    let listener = match bound {
        Some(listener) => listener,
        None => bind_patiently(address).map_err(refused)?,
    };
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tracing::info!(name, %address, "listening");
    TcpListener::from_std(listener).map_err(refused)
}

fn bind_patiently(address: SocketAddr) -> std::io::Result<StdListener> {
    let deadline = Instant::now() + PORT_FREE_WITHIN;
    loop {
        match StdListener::bind(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// A bound port, to be served by a [`crate::Task`].
pub struct Listener {
    pub(crate) name: &'static str,
    pub(crate) inner: TcpListener,
}

impl Listener {
    /// The address it listens on; for port 0, with the port that the system chose.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Serves every connection in a task of its own, at most `connections_max` at a time; further ones wait in the backlog. A peer
    /// that sends nothing, or does not read, keeps its place until `serve` gives up on it. On `stop` it accepts no more and
    /// waits for the open connections, which get the signal too.
    pub async fn serve<Fut>(
        self,
        connections_max: usize,
        mut stop: StopSignal,
        serve: impl Fn(TcpStream, SocketAddr, StopSignal) -> Fut + Send,
    ) where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let name = self.name;
        let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        let mut connections = JoinSet::new();
        let mut refused = false;
        loop {
            let accept = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, self.inner.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.requested() => break,
                Some(ended) = connections.join_next() => {
                    report(name, ended);
                    continue;
                }
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    refused = false;
                    let served = serve(stream, peer, stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(name, %error, "connections cannot be accepted; trying again");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
        drop(self.inner);
        while let Some(ended) = connections.join_next().await {
            report(name, ended);
        }
    }
}

fn report(name: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(name, %error, "a connection's task panicked; this is a bug");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::watch,
    };

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn listener() -> Listener {
        Listener {
            name: "echo",
            inner: bind("echo", "ECHO_LISTEN", LOOPBACK, None).unwrap(),
        }
    }

    /// Sends back each byte; says good-bye when it is asked to stop.
    async fn echo(mut stream: TcpStream, _: SocketAddr, mut stop: StopSignal) {
        let mut byte = [0];
        loop {
            tokio::select! {
                () = stop.requested() => break,
                read = stream.read_exact(&mut byte) => match read {
                    Ok(_) if byte == *b"!" => panic!("a bug"),
                    Ok(_) => stream.write_all(&byte).await.unwrap(),
                    Err(_) => return,
                },
            }
        }
        stream.write_all(b"bye").await.unwrap();
    }

    async fn exchange(stream: &mut TcpStream, byte: u8) -> u8 {
        stream.write_all(&[byte]).await.unwrap();
        stream.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn connections_hear_of_the_stop_and_are_waited_for() {
        let listener = listener();
        let address = listener.address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(listener.serve(8, stopped.into(), echo));
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(exchange(&mut client, b'a').await, b'a');
        stop.send(true).unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_and_one_that_panics_leaves_its_place() {
        let listener = listener();
        let address = listener.address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(listener.serve(1, stopped.into(), echo));
        let mut first = TcpStream::connect(address).await.unwrap();
        assert_eq!(exchange(&mut first, b'a').await, b'a');
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"b").await.unwrap();
        first.write_all(b"!").await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'b');
        drop(stop);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_names_its_setting() {
        let taken = listener();
        let address = taken.address().unwrap();
        let refused = bind("mllp", "MLLP_LISTEN", address, None);
        let why = refused.map(drop).unwrap_err().to_string();
        assert!(why.starts_with(&format!("MLLP_LISTEN {address}")), "{why}");
    }
}
