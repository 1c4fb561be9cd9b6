//! A network between Kafka's clients and a broker, for tests: it can delay, freeze and cut connections, and hold back a
//! request it is asked about. It knows the frame of Kafka's protocol and a request's header, nothing more.
//!
//! The broker has a second listener for it, whose clients are told the proxy's port: [`before`] starts both. Clients of
//! [`Kafka::bootstrap_servers`] go past it, those of [`Proxy::bootstrap_servers`] through it.

mod connection;
mod held;

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
use crate::{Error, port};

/// What a request says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of Kafka's protocol: 0 Produce, 24 AddPartitionsToTxn, 25 AddOffsetsToTxn, 26 EndTxn, 28 TxnOffsetCommit.
    pub api_key: i16,
    pub correlation: i32,
    pub client_id: String,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Verdict {
    Pass,
    /// It never arrives; the connection is closed.
    Lose,
    /// It arrives, and its answer does not; the connection is closed.
    LoseAnswer,
    /// It takes this long, and with it what the client sends after it on this connection.
    Slow(Duration),
    /// It waits until it is released, and with it what the client sends after it on this connection.
    Hold(Held),
    /// The client's connection is closed at once; the broker gets the request when it is released.
    Late(Held),
}

type Rule = dyn FnMut(&Request) -> Verdict + Send;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What all connections share.
#[derive(Default)]
struct Network {
    /// 0: nobody is connected.
    broker: AtomicU16,
    rule: Mutex<Option<Box<Rule>>>,
    delay_ms: AtomicU64,
    frozen: Mutex<bool>,
    thawed: Condvar,
    /// Both ends of each.
    connections: Mutex<HashMap<u64, [TcpStream; 2]>>,
    closed: AtomicBool,
}

impl Network {
    fn judge(&self, request: &Request) -> Verdict {
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

    fn cut(&self) {
        for (_, ends) in lock(&self.connections).drain() {
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A running proxy. Dropping it ends it.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
}

/// A broker and the proxy before it.
///
/// # Errors
/// As [`Options::start`]; or no port is free.
pub fn before(options: Options) -> Result<(Proxy, Kafka), Error> {
    let proxy = Proxy::start()?;
    let options = Options {
        proxy_port: Some(proxy.port),
        ..options
    };
    let kafka = options.start()?;
    proxy
        .network
        .broker
        .store(kafka.proxied_port().unwrap_or_default(), Ordering::Release);
    Ok((proxy, kafka))
}

impl Proxy {
    fn start() -> Result<Self, Error> {
        let failed = |source: io::Error| Error::io("listen on", Path::new("127.0.0.1"))(source);
        let port = port::free(1)?.first().copied().unwrap_or_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let network = Arc::new(Network::default());
        let accepting = Arc::clone(&network);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&accepting, &listener))
            .map_err(failed)?;
        Ok(Proxy { port, network })
    }

    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Asked about every request before it goes on; instead of the rule before. It must not wait.
    pub fn rule(&self, rule: impl FnMut(&Request) -> Verdict + Send + 'static) {
        *lock(&self.network.rule) = Some(Box::new(rule));
    }

    /// Every request passes.
    pub fn no_rule(&self) {
        *lock(&self.network.rule) = None;
    }

    /// Every request and every answer takes this long.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.network.delay_ms.store(delay_ms, Ordering::Release);
    }

    /// Connections stay, and nothing comes through them any more.
    pub fn freeze(&self) {
        *lock(&self.network.frozen) = true;
    }

    /// What waited goes on.
    pub fn thaw(&self) {
        *lock(&self.network.frozen) = false;
        self.network.thawed.notify_all();
    }

    /// Closes all connections; clients may connect again.
    pub fn cut(&self) {
        self.network.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.closed.store(true, Ordering::Release);
        self.thaw();
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(network: &Arc<Network>, listener: &TcpListener) {
    for (id, client) in (0..).zip(listener.incoming()) {
        if network.closed.load(Ordering::Acquire) {
            return;
        }
        let broker = network.broker.load(Ordering::Acquire);
        if let Ok(client) = client
            && let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker))
        {
            // One that cannot be served is closed.
            let _ = connection::open(network, id, client, broker);
        }
    }
}
