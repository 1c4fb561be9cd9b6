//! A network between clients and Kafka or PostgreSQL, for tests: it can delay, freeze and cut connections, and hold back a
//! request it is asked about. Of Kafka's protocol it knows the frame and a request's header, of PostgreSQL's the frame and
//! the text of a statement, nothing more.
//!
//! A broker has a second listener for it, whose clients are given the proxy's port: [`before`] starts both. Clients of
//! [`Kafka::bootstrap_servers`] go past it, those of [`Proxy::bootstrap_servers`] through it. PostgreSQL does not say where
//! it is: [`before_postgres`] puts a proxy before one that runs.

mod connection;
mod held;
mod statements;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub use held::Held;

use crate::kafka::{Kafka, Options};
use crate::{Error, Postgres, port};

/// The header of a request to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of Kafka's protocol: 0 Produce, 24 AddPartitionsToTxn, 25 AddOffsetsToTxn, 26 EndTxn, 28 TxnOffsetCommit.
    pub api_key: i16,
    pub correlation: i32,
    pub client_id: String,
}

/// A message of a PostgreSQL client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its SQL; empty where it has none.
    pub sql: String,
}

/// The fate of a request.
#[derive(Debug)]
pub enum Verdict {
    Pass,
    /// The request never arrives; the connection is closed.
    Lose,
    /// The request arrives, its response does not; the connection is closed.
    LoseAnswer,
    /// It takes this long, and with it what the client sends after it on this connection.
    Slow(Duration),
    /// It waits until it is released, and with it what the client sends after it on this connection.
    Hold(Held),
    /// The client's connection is closed at once; the server gets the request when it is released.
    Late(Held),
}

type Rule<R> = dyn FnMut(&R) -> Verdict + Send;
type Open<R> = fn(&Arc<Network<R>>, u64, TcpStream, TcpStream) -> io::Result<()>;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What all connections share.
struct Network<R> {
    /// 0: no client is connected.
    server: AtomicU16,
    rule: Mutex<Option<Box<Rule<R>>>>,
    delay_ms: AtomicU64,
    frozen: Mutex<bool>,
    thawed: Condvar,
    /// Both ends of each.
    connections: Mutex<HashMap<u64, [TcpStream; 2]>>,
    closed: AtomicBool,
}

impl<R> Network<R> {
    fn of(server: u16) -> Self {
        Network {
            server: AtomicU16::new(server),
            rule: Mutex::default(),
            delay_ms: AtomicU64::default(),
            frozen: Mutex::default(),
            thawed: Condvar::new(),
            connections: Mutex::default(),
            closed: AtomicBool::default(),
        }
    }

    fn judge(&self, request: &R) -> Verdict {
        match &mut *lock(&self.rule) {
            Some(rule) => rule(request),
            None => Verdict::Pass,
        }
    }

    /// What the way takes.
    fn travel(&self) {
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::Acquire));
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let mut frozen = lock(&self.frozen);
        while *frozen {
            frozen = self
                .thawed
                .wait(frozen)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Starts the threads of a connection: `forward` carries what the client sends and says whether the connection is over then, `back`
    /// carries what the server answers. Each gets the network, the client and the server.
    fn connect(
        self: &Arc<Self>,
        id: u64,
        client: TcpStream,
        server: TcpStream,
        forward: impl FnOnce(&Self, &TcpStream, &TcpStream) -> bool + Send + 'static,
        back: impl FnOnce(&Self, &TcpStream, &TcpStream) + Send + 'static,
    ) -> io::Result<()>
    where
        R: Send + 'static,
    {
        for end in [&client, &server] {
            end.set_nodelay(true)?;
        }
        let ends = [client.try_clone()?, server.try_clone()?];
        lock(&self.connections).insert(id, ends);
        let (client_back, server_back) = (client.try_clone()?, server.try_clone()?);
        let (network, network_back) = (Arc::clone(self), Arc::clone(self));
        let spawn = |name: &str| thread::Builder::new().name(format!("proxy-{name}-{id}"));
        spawn("requests").spawn(move || {
            if forward(&network, &client, &server) {
                network.close(id, [&client, &server]);
            }
        })?;
        spawn("answers").spawn(move || {
            back(&network_back, &client_back, &server_back);
            // However it ended, the connection is over.
            network_back.close(id, [&client_back, &server_back]);
        })?;
        Ok(())
    }

    /// A connection whose ends these are is over.
    fn close(&self, id: u64, ends: [&TcpStream; 2]) {
        lock(&self.connections).remove(&id);
        for end in ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn cut(&self) {
        for (_, ends) in lock(&self.connections).drain() {
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A running proxy of requests `R`. Dropping it ends it.
pub struct Proxy<R = Request> {
    port: u16,
    network: Arc<Network<R>>,
}

/// Starts a broker with a proxy before it.
///
/// # Errors
/// As [`Options::start`]; or no port is free.
pub fn before(options: Options) -> Result<(Proxy, Kafka), Error> {
    let proxy = Proxy::start(0, connection::open)?;
    let options = Options {
        proxy_port: Some(proxy.port),
        ..options
    };
    let kafka = options.start()?;
    proxy
        .network
        .server
        .store(kafka.proxied_port().unwrap_or_default(), Ordering::Release);
    Ok((proxy, kafka))
}

/// Starts a proxy before a running server, which may be restarted.
///
/// # Errors
/// No port is free.
pub fn before_postgres(postgres: &Postgres) -> Result<Proxy<Statement>, Error> {
    Proxy::start(postgres.port(), statements::open)
}

impl Proxy {
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Proxy<Statement> {
    /// As [`Postgres::url`], through the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl<R: 'static> Proxy<R> {
    fn start(server: u16, open: Open<R>) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::io("listen on", Path::new("127.0.0.1"))(source);
        let port = port::free(1)?.first().copied().unwrap_or_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let network = Arc::new(Network::of(server));
        let accepting = Arc::clone(&network);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&accepting, &listener, open))
            .map_err(failed)?;
        Ok(Proxy { port, network })
    }
}

impl<R> Proxy<R> {
    /// Sets the rule that decides on every request before it is forwarded, replacing the previous one. It must not block.
    pub fn rule(&self, rule: impl FnMut(&R) -> Verdict + Send + 'static) {
        *lock(&self.network.rule) = Some(Box::new(rule));
    }

    /// Forwards every request.
    pub fn no_rule(&self) {
        *lock(&self.network.rule) = None;
    }

    /// Delays every request and every response by this long.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.network.delay_ms.store(delay_ms, Ordering::Release);
    }

    /// Connections stay open, but nothing passes through them.
    pub fn freeze(&self) {
        *lock(&self.network.frozen) = true;
    }

    /// Forwards what was held up.
    pub fn thaw(&self) {
        *lock(&self.network.frozen) = false;
        self.network.thawed.notify_all();
    }

    /// Closes all connections; clients may connect again.
    pub fn cut(&self) {
        self.network.cut();
    }
}

impl<R> Drop for Proxy<R> {
    fn drop(&mut self) {
        self.network.closed.store(true, Ordering::Release);
        self.thaw();
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept<R>(network: &Arc<Network<R>>, listener: &TcpListener, open: Open<R>) {
    for (id, client) in (0..).zip(listener.incoming()) {
        if network.closed.load(Ordering::Acquire) {
            return;
        }
        let server = network.server.load(Ordering::Acquire);
        if let Ok(client) = client
            && let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server))
        {
            // One that cannot be served is closed.
            let _ = open(network, id, client, server);
        }
    }
}
