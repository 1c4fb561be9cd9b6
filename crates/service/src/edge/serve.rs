//! Accepts connections up to the limit, and serves each in a task of its own.
//!
//! At the limit, an idle connection is closed to make room. If none is idle, a new connection is accepted all the same, for a
//! moment and for probes only: an orchestrator whose probe fails would restart a service that is merely busy. Of such
//! connections the oldest makes room.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{extract::Request, response::Response};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};

use super::{
    Edge,
    answering::{Answered, Answering},
    connection::{CLOSE_WITHIN, Conn, Patience, Verdict, Wire},
    limits::HttpConfig,
    stalled::Streams,
};

/// Connections for probes beyond the limit: more than all the probers of one replica.
const RESERVE_MAX: usize = 32;
/// How long one of them may take.
const RESERVE_PATIENCE: Duration = Duration::from_secs(3);
/// A connection that has just been opened, or has just answered, is about to be used.
const EVICTED_AFTER: Duration = Duration::from_secs(1);
/// The longest time between two checks of a connection and its bodies.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a failed `accept`; usually too many files are open.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// An HTTP/1 head, and what is read ahead of a body.
const HTTP1_BUFFER_BYTES: usize = 64 << 10;
/// The head of a request over HTTP/2, as in hyper.
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// HTTP/2's flow-control windows: what a peer may send of one request, and of all of a connection, before it is read. It bounds the
/// memory of a connection's unread bodies; hyper's default of a megabyte would be half a gigabyte over all connections.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// What is buffered of a response that the peer does not read.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// Streams that the peer resets before they are begun, and its protocol errors, after which its connection is closed (rapid
/// reset, CVE-2023-44487).
const RESETS_MAX: usize = 20;
const ERRORS_MAX: usize = 64;
/// How long a peer may take to answer a ping.
const PONG_WITHIN: Duration = Duration::from_secs(20);

fn builder(config: &HttpConfig) -> Builder<Streams> {
    let mut builder = Builder::new(Streams {
        timeout: config.body_timeout,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        // Heads are watched by `Conn`: hyper's own timeout would also close idle connections.
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// Serves until `stop`, then lets running requests end.
pub(crate) async fn serve(
    listener: TcpListener,
    edge: Edge,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let (drain, draining) = watch::channel(false);
    let mut open = Connections::new(edge, draining);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = open.tasks.join_next_with_id(), if !open.tasks.is_empty() => {
                open.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => open.admit(stream),
                Err(error) => {
                    tracing::debug!(%error, "connection not accepted");
                    open.make_room();
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }
    drop(listener);
    let _ = drain.send(true);
    while open.tasks.join_next().await.is_some() {}
}

struct Connections {
    edge: Edge,
    builder: Builder<Streams>,
    draining: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    open: HashMap<Id, Arc<Conn>>,
    /// The oldest first.
    reserve: VecDeque<(Id, AbortHandle)>,
}

impl Connections {
    fn new(edge: Edge, draining: watch::Receiver<bool>) -> Self {
        Connections {
            builder: builder(edge.config()),
            edge,
            draining,
            tasks: JoinSet::new(),
            open: HashMap::new(),
            reserve: VecDeque::new(),
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        let loopback = stream
            .local_addr()
            .is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let full = self.open.len() >= self.edge.config().connections_max;
        let reserved = full && !self.make_room();
        let conn = Arc::new(Conn::new(reserved, loopback));
        let task = Task {
            edge: self.edge.clone(),
            builder: self.builder.clone(),
            draining: self.draining.clone(),
            conn: Arc::clone(&conn),
        };
        if !reserved {
            let handle = self.tasks.spawn(task.run(stream));
            self.open.insert(handle.id(), conn);
            return self.count();
        }
        if self.reserve.len() >= RESERVE_MAX
            && let Some((_, oldest)) = self.reserve.pop_front()
        {
            oldest.abort();
        }
        let handle = self.tasks.spawn(async move {
            let _ = tokio::time::timeout(RESERVE_PATIENCE, task.run(stream)).await;
        });
        self.reserve.push_back((handle.id(), handle));
    }

    /// Closes the connection that has been idle for the longest time; false where none is idle.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        let idle = self.open.values();
        let idle = idle.filter_map(|conn| Some((conn.idle_since()?, conn)));
        match idle.min_by_key(|(since, _)| *since) {
            Some((since, conn)) if now.duration_since(since) >= EVICTED_AFTER => {
                conn.ask_to_close();
                true
            }
            _ => false,
        }
    }

    fn ended(&mut self, id: Id) {
        if self.open.remove(&id).is_none() {
            self.reserve.retain(|(reserved, _)| *reserved != id);
        }
        self.count();
    }

    fn count(&self) {
        self.edge.count_connections(self.open.len());
    }
}

/// What serves one connection.
struct Task {
    edge: Edge,
    builder: Builder<Streams>,
    draining: watch::Receiver<bool>,
    conn: Arc<Conn>,
}

impl Task {
    async fn run(self, stream: TcpStream) {
        let Task {
            edge,
            builder,
            mut draining,
            conn,
        } = self;
        let config = edge.config();
        let look_every = LOOK_EVERY.min(config.body_timeout);
        let patience = Patience {
            header: config.header_timeout,
            idle: config.idle_timeout,
        };
        let wire = Wire::new(stream, Arc::clone(&conn), config.body_timeout);
        let service = Requests {
            edge: edge.clone(),
            conn: Arc::clone(&conn),
        };
        let connection = builder.serve_connection(TokioIo::new(wire), service);
        let mut connection = std::pin::pin!(connection);
        let look = patience.header.min(patience.idle).min(look_every);
        let look = tokio::time::sleep(look);
        let mut look = std::pin::pin!(look);
        let mut closing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::trace!(error, "connection ended");
                    }
                    return;
                }
                () = conn.close.notified(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    look.as_mut().reset(Instant::now() + CLOSE_WITHIN);
                }
                _ = draining.wait_for(|draining| *draining), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    look.as_mut().reset(Instant::now() + CLOSE_WITHIN);
                }
                () = look.as_mut() => match conn.look(Instant::now(), patience, look_every) {
                    // It has announced its close; without a request there is nothing to wait for.
                    _ if closing && !conn.is_active() => return,
                    _ if closing => look.as_mut().reset(Instant::now() + CLOSE_WITHIN),
                    Verdict::Stays(until) => look.as_mut().reset(until),
                    Verdict::Goes => conn.ask_to_close(),
                    Verdict::Cut => return,
                }
            }
        }
    }
}

/// A connection's requests.
struct Requests {
    edge: Edge,
    conn: Arc<Conn>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answered>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.edge.begin(request, &self.conn)
    }
}
