//! The port as clients meet it, over sockets.

mod compression;

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, mpsc},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{self, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    routing::{get, post},
};
use http_body::Frame;
use quadrille_telemetry::{
    Registry, Tracing,
    metrics::{PortMetrics, RequestMetrics},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code, Status, body::Body, codegen::BoxFuture, server::NamedService, service::Routes,
    transport::Endpoint,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::Service;

use super::{Edge, limits::HttpConfig};
use crate::{
    Calls, MessageMax,
    front::{Front, Mounted, Routed},
    health::Probe,
    methods::{Methods, served},
    server,
    spans::{RequestTelemetry, trace_http},
};

/// Longer than a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than sockets hold.
const LARGE_BYTES: usize = 64 << 20;

/// A port with these settings: `POST /echo` answers how long the body was, `GET /never` never, `GET /large` much,
/// `GET /text` and `GET /stream` some text; the gRPC method `test.Echo/Call` what it got.
async fn start(config: HttpConfig) -> SocketAddr {
    start_with(config, Calls::default().with(Echo).with(Silence)).await
}

/// The same with these gRPC services.
async fn start_with(config: HttpConfig, grpc: Calls) -> SocketAddr {
    let registry = Registry::default();
    let mounted: Mounted = Arc::new(OnceLock::new());
    let echo = post(|body: Bytes| async move { body.len().to_string() });
    let large = get(|| async { vec![b'x'; LARGE_BYTES] });
    let stream = get(|| async {
        let parts = (0..8).map(|_| Ok::<_, axum::Error>(Frame::data(Bytes::from(text()))));
        axum::body::Body::new(Parts(parts.collect()))
    });
    let sets = [quadrille_proto::v1::FILE_DESCRIPTOR_SET];
    let telemetry = Arc::new(RequestTelemetry {
        tracing: Tracing::from_env("test", "test", &registry).unwrap(),
        metrics: RequestMetrics::register(&registry),
        methods: Methods::of(&served(&["quadrille.v1.IngestService"], &sets).unwrap()),
        message_max: MessageMax::default(),
    });
    let routed = Routed {
        grpc,
        http: Router::new()
            .route("/echo", echo)
            .route("/never", get(std::future::pending::<()>))
            .route("/large", large)
            .route("/text", get(|| async { text() }))
            .route("/stream", stream)
            .layer(from_fn_with_state(telemetry.clone(), trace_http)),
        telemetry,
    };
    let _ = mounted.set(routed);
    let (_, health) = tonic_health::server::health_reporter();
    let port = PortMetrics::register(&registry);
    let health = Routes::new(health);
    let probes = server::router(
        Probe::new(Default::default(), Default::default()),
        registry,
        health,
        Arc::clone(&mounted),
    );
    let edge = Edge::new(config, port, Front::new(probes, mounted));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(super::serve(listener, edge, std::future::pending()));
    address
}

/// Some KiB.
fn text() -> String {
    (0..2_000).map(|n| format!("line {n}\n")).collect()
}

/// A body whose length nobody knows before it is over.
struct Parts(VecDeque<Result<Frame<Bytes>, axum::Error>>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// A body that has begun, and that is all.
struct Silent;

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Pending
    }
}

/// Makes a service of gRPC of a type: its name, and what it does with a request.
macro_rules! service {
    ($service:ty, $name:literal, |$this:ident, $request:ident| $answer:expr) => {
        impl NamedService for $service {
            const NAME: &'static str = $name;
        }

        impl Service<http::Request<Body>> for $service {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<http::Response<Body>, Infallible>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, $request: http::Request<Body>) -> Self::Future {
                let $this = self.clone();
                Box::pin(async move { Ok($answer) })
            }
        }
    };
}

/// Answers what it got.
#[derive(Clone)]
struct Echo;

service!(Echo, "test.Echo", |_echo, request| {
    let body = axum::body::Body::new(request.into_body());
    match axum::body::to_bytes(body, LARGE_BYTES).await {
        Ok(bytes) => {
            let mut response = http::Response::new(Body::new(axum::body::Body::from(bytes)));
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => Status::from_error(Box::new(error)).into_http(),
    }
});

/// Answers with a body that has begun.
#[derive(Clone)]
struct Silence;

service!(
    Silence,
    "quadrille.v1.IngestService",
    |_silence, _request| http::Response::new(Body::new(Silent))
);

/// Reads a call, and then works on it for as long as it takes until something is received.
#[derive(Clone)]
struct Work(Arc<Mutex<mpsc::Receiver<()>>>);

service!(Work, "test.Work", |work, request| {
    let body = axum::body::Body::new(request.into_body());
    let _ = axum::body::to_bytes(body, LARGE_BYTES).await;
    // All that has come is known from here on.
    tokio::task::yield_now().await;
    let _ = work.0.lock().unwrap().recv_timeout(PATIENCE);
    http::Response::new(Body::empty())
});

/// A method of gRPC that takes many messages; its answer begins at once and never ends.
const STREAM: &str = "/quadrille.v1.IngestService/SubmitStream";

/// A connection on which something has been said.
async fn say(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the other side closes.
async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard));
    let _ = read.await.expect("the service closes");
    String::from_utf8_lossy(&heard).into_owned()
}

/// What is answered to a whole request with these lines in its head, on a connection of its own.
async fn ask(address: SocketAddr, lines: &str, body: &[u8]) -> String {
    let length = body.len();
    let head = format!("{lines}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let mut stream = say(address, &head).await;
    // One that is refused early is closed before all is sent.
    let _ = stream.write_all(body).await;
    hear(&mut stream).await
}

const ECHO: &str = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";

async fn echo(address: SocketAddr, bytes: usize) -> String {
    ask(address, ECHO, &vec![b'x'; bytes]).await
}

/// Begins a body and does not end it.
async fn begin(address: SocketAddr, length: usize, bytes: usize) -> TcpStream {
    let mut stream = say(
        address,
        &format!("{ECHO}\r\nContent-Length: {length}\r\n\r\n"),
    )
    .await;
    // One that is refused early is closed before all is sent.
    let _ = stream.write_all(&vec![b'x'; bytes]).await;
    stream
}

/// Asks until the answer is as it should be.
async fn eventually<F: Future<Output = String>>(ask: impl Fn() -> F, expected: &str) -> String {
    let asking = async {
        loop {
            let answer = ask().await;
            if answer.contains(expected) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("no {expected:?} within {PATIENCE:?}"))
}

fn assert_status(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_every_connection_is_busy() {
    let config = HttpConfig {
        connections_max: 4,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        busy.push(begin(address, 10, 5).await);
    }
    for _ in 0..100 {
        let probe = ask(address, "GET /livez HTTP/1.1\r\nHost: health", b"").await;
        assert_status(&probe, 200);
    }
    let refused = echo(address, 10).await;
    assert_status(&refused, 503);
    assert!(
        refused.contains("QUADRILLE_CONNECTIONS") && refused.contains("retry-after: 1"),
        "{refused}"
    );
    let metrics = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost", b"").await;
    for line in [
        "quadrille_connections 4",
        "quadrille_requests_refused_total{reason=\"connections\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let check = health.check(HealthCheckRequest::default()).await;
    assert!(check.is_ok(), "{check:?}");
    // Who was there is served on.
    let mut first = busy.remove(0);
    first.write_all(b"12345").await.unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_that_is_watched_counts_among_the_streams_and_a_check_is_answered_beyond_them() {
    let config = HttpConfig {
        requests_max: 4,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let mut watched = Vec::new();
    for _ in 0..2 {
        watched.push(health.watch(HealthCheckRequest::default()).await.unwrap());
    }
    let refused = health.watch(HealthCheckRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    let check = health.check(HealthCheckRequest::default()).await;
    assert!(check.is_ok(), "{check:?}");
    drop(watched);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_makes_room_for_a_new_one() {
    let config = HttpConfig {
        connections_max: 2,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let mut idle = say(address, &format!("{ECHO}\r\nContent-Length: 0\r\n\r\n")).await;
    let _busy = begin(address, 10, 5).await;
    eventually(|| echo(address, 3), "HTTP/1.1 200").await;
    assert_status(&hear(&mut idle).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_one_bound_and_what_does_not_fit_is_told_to_come_back() {
    let config = HttpConfig {
        body_memory_max: 1 << 20,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    // Where both are read at once, either may be the one that does not fit, or both: then it is tried again.
    let tried = async {
        loop {
            let mut held = begin(address, 700 << 10, 600 << 10).await;
            let refused = echo(address, 600 << 10).await;
            let small = echo(address, 64 << 10).await;
            let _ = held.write_all(&vec![b'x'; 100 << 10]).await;
            let mut head = [0; 12];
            let answered = held.read_exact(&mut head).await.is_ok();
            if answered && &head == b"HTTP/1.1 200" && refused.contains("HTTP/1.1 503") {
                return (refused, small);
            }
        }
    };
    let tried = tokio::time::timeout(PATIENCE, tried).await;
    let (refused, small) = tried.expect("a body that waits keeps another out");
    assert!(
        refused.contains("QUADRILLE_BODY_MEMORY") && refused.contains("retry-after: 1"),
        "{refused}"
    );
    assert_status(&small, 200);
    assert_status(&echo(address, 600 << 10).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_do_not_come_and_idle_connections_are_closed() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..HttpConfig::default()
    };
    let address = start(config).await;
    for begun in ["", "POST /ec", "PRI * HTTP/2.0\r\n"] {
        let mut stream = say(address, begun).await;
        assert_eq!(hear(&mut stream).await, "", "{begun:?}");
    }
    let mut stream = say(address, &format!("{ECHO}\r\nContent-Length: 0\r\n\r\n")).await;
    assert_status(&hear(&mut stream).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_is_a_408_and_an_answer_nobody_takes_ends() {
    let config = HttpConfig {
        body_timeout: Duration::from_millis(500),
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let answer = hear(&mut begin(address, 10, 5).await).await;
    assert_status(&answer, 408);
    assert!(answer.contains("QUADRILLE_BODY_TIMEOUT"), "{answer}");
    let _reader = say(address, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let metrics = || ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost", b"");
    eventually(metrics, "quadrille_connections 2").await;
    eventually(metrics, "quadrille_connections 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_over_all_connections() {
    let config = HttpConfig {
        requests_max: 1,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let never = say(address, "GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let refused = eventually(|| echo(address, 1), "HTTP/1.1 503").await;
    assert!(refused.contains("QUADRILLE_REQUESTS"), "{refused}");
    let probe = ask(address, "GET /livez HTTP/1.1\r\nHost: localhost", b"").await;
    assert_status(&probe, 200);
    drop(never);
    eventually(|| echo(address, 1), "HTTP/1.1 200").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_nothing_leave_room_for_calls() {
    let config = HttpConfig {
        requests_max: 4,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let lines = format!(
        "POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked"
    );
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut stream = say(address, &format!("{lines}\r\n\r\n")).await;
        // It counts as soon as it is answered, and not before: until then another could take its place.
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        silent.push(stream);
    }
    let another = format!("{lines}\r\nConnection: close\r\n\r\n");
    let refused = hear(&mut say(address, &another).await).await;
    // RESOURCE_EXHAUSTED
    assert!(refused.contains("grpc-status: 8"), "{refused}");
    assert!(refused.contains("QUADRILLE_REQUESTS"), "{refused}");
    assert_status(&echo(address, 1).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_and_rebound_names_are_refused() {
    let config = HttpConfig {
        allowed_origins: vec!["https://app.example".to_owned()],
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let json = "Content-Type: application/json";
    let post = |host: &str, more: &str| {
        let lines = format!("POST /echo HTTP/1.1\r\nHost: {host}\r\n{more}");
        async move { ask(address, &lines, b"{}").await }
    };
    let rebound = post("evil.example:7001", json).await;
    assert_status(&rebound, 403);
    assert!(rebound.contains("QUADRILLE_ALLOWED_HOSTS"), "{rebound}");
    let page = post(
        "localhost",
        &format!("{json}\r\nOrigin: http://evil.example"),
    )
    .await;
    assert_status(&page, 403);
    assert!(page.contains("QUADRILLE_ALLOWED_ORIGINS"), "{page}");
    let own = format!("{json}\r\nOrigin: http://{address}");
    assert_status(&post(&address.to_string(), &own).await, 200);
    for simple in ["text/plain", "application/x-www-form-urlencoded"] {
        let answer = post("localhost", &format!("Content-Type: {simple}")).await;
        assert_status(&answer, 415);
        assert!(answer.contains("application/json"), "{answer}");
    }
    let origin = "Origin: https://app.example";
    let allowed = post("localhost", &format!("{json}\r\n{origin}")).await;
    assert_status(&allowed, 200);
    assert!(allowed.contains("access-control-allow-origin: https://app.example"));
    let preflight = format!(
        "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\n{origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type"
    );
    let preflight = ask(address, &preflight, b"").await;
    assert_status(&preflight, 204);
    assert!(preflight.contains("access-control-allow-headers: content-type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_grpc_for_another_name_is_refused() {
    let address = start(HttpConfig::default()).await;
    let check = |endpoint: Endpoint| async move {
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        let check = health.check(HealthCheckRequest::default()).await;
        check.map(drop).map_err(|status| status.code())
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    assert_eq!(check(endpoint.clone()).await, Ok(()));
    let rebound = endpoint.origin("http://evil.example:7001".parse().unwrap());
    assert_eq!(check(rebound).await, Err(Code::PermissionDenied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_somebody_invents_is_no_label() {
    let address = start(HttpConfig::default()).await;
    for n in 0..50 {
        let invented = format!("ZZ{n} /echo HTTP/1.1\r\nHost: localhost");
        assert_status(&ask(address, &invented, b"").await, 405);
    }
    // A deadline that has passed is answered before anyone looks at what is asked.
    let late = "POST /no.such/Method HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\ngrpc-timeout: 0n";
    assert!(ask(address, late, b"").await.contains("grpc-status: 4"));
    let metrics = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost", b"").await;
    let mut lines = metrics.lines();
    let counted = lines.any(|line| {
        line.starts_with("http_server_request_duration_seconds_count")
            && line.contains("http_request_method=\"_OTHER\"")
            && line.ends_with("} 50")
    });
    assert!(counted, "{metrics}");
    assert!(
        !metrics.contains("ZZ") && !metrics.contains("no.such"),
        "{metrics}"
    );
    assert!(metrics.contains("rpc_method=\"_OTHER\""), "{metrics}");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_that_nobody_takes_count_and_small_ones_and_metrics_are_answered_beyond() {
    let config = HttpConfig {
        body_memory_max: 1 << 20,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let large = "GET /large HTTP/1.1\r\nHost: localhost";
    let mut first = say(address, &format!("{large}\r\n\r\n")).await;
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200", "one may be larger than all");
    let refused = ask(address, large, b"").await;
    assert_status(&refused, 503);
    assert!(refused.contains("QUADRILLE_BODY_MEMORY"), "{refused}");
    let text = "GET /text HTTP/1.1\r\nHost: localhost";
    assert_status(&ask(address, text, b"").await, 200);
    let metrics = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost", b"").await;
    assert!(metrics.contains("reason=\"body_memory\"} 1"), "{metrics}");
    drop(first);
    loop {
        let mut second = say(address, &format!("{large}\r\n\r\n")).await;
        second.read_exact(&mut head).await.unwrap();
        match &head {
            b"HTTP/1.1 200" => break,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_http2_that_nobody_takes_counts_and_is_reset() {
    for window in [0_u32, 1] {
        let config = HttpConfig {
            requests_max: 1,
            body_timeout: Duration::from_secs(2),
            ..HttpConfig::default()
        };
        let address = start(config).await;
        // :method GET, :scheme http, :path /large, :authority localhost
        let mut head = vec![0x82, 0x86, 0x04, 6];
        head.extend_from_slice(b"/large");
        head.extend_from_slice(&[0x41, 9]);
        head.extend_from_slice(b"localhost");
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let window = [&[0, 4], &window.to_be_bytes()[..]].concat();
        bytes.extend(frame(4, 0, 0, &window));
        bytes.extend(frame(1, 0x5, 1, &head));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut heard = Vec::new();
        // HEADERS: it is the one request, and not one of those that follow.
        while !heard.windows(6).any(|it| it == [1, 4, 0, 0, 0, 1]) {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard));
            assert!(read.await.expect("an answer").unwrap() > 0);
        }
        let refused = eventually(|| echo(address, 1), "HTTP/1.1 503").await;
        assert!(refused.contains("QUADRILLE_REQUESTS"), "{refused}");
        eventually(|| echo(address, 1), "HTTP/1.1 200").await;
        // RST_STREAM of the one there is.
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1];
        while !heard.windows(reset.len()).any(|it| it == reset) {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard));
            assert!(read.await.expect("it is reset").unwrap() > 0);
        }
        assert!(heard.len() < 64 << 10, "{}", heard.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_requests_and_takes_them_back_at_once_is_thrown_out() {
    let address = start(HttpConfig::default()).await;
    // :method GET, :scheme http, :path /, :authority localhost
    let mut head = vec![0x82, 0x86, 0x84, 0x41, 9];
    head.extend_from_slice(b"localhost");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for stream in (1..2_000).step_by(2) {
        bytes.extend(frame(1, 0x5, stream, &head));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(&bytes).await;
    let mut heard = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard));
    let _ = read.await.expect("the service closes");
    // GOAWAY, ENHANCE_YOUR_CALM
    let calm = |at: &[u8]| at[0] == 7 && at.ends_with(&11_u32.to_be_bytes());
    assert!(heard.windows(14).any(calm), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_probe_is_answered_on_the_only_thread_while_a_large_call_is_worked_on() {
    let (done, is_done) = mpsc::channel();
    let work = Work(Arc::new(Mutex::new(is_done)));
    let address = start_with(HttpConfig::default(), Calls::default().with(work)).await;
    // Of a thread of its own: what the runtime's only one would have to do would not be done.
    let asking = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let connect = || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE / 2)).unwrap();
            stream
        };
        let mut call = connect();
        let chunk = vec![0; 256 << 10];
        write!(
            call,
            "POST /test.Work/Call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            chunk.len()
        )
        .unwrap();
        call.write_all(&chunk).unwrap();
        call.write_all(b"\r\n0\r\n\r\n").unwrap();
        let mut answers = Vec::new();
        // Those that come before it is worked on as well.
        for _ in 0..100 {
            let mut probe = connect();
            let head = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            probe.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            let read = probe.read_to_string(&mut answer);
            answers.push(read.map(|_| answer.starts_with("HTTP/1.1 200")));
        }
        done.send(()).unwrap();
        let mut head = [0; 12];
        call.read_exact(&mut head).unwrap();
        (answers, head)
    });
    let asked = tokio::task::spawn_blocking(|| asking.join());
    let (answers, head) = asked.await.unwrap().unwrap();
    for answer in answers {
        assert!(answer.expect("a probe is answered"));
    }
    assert_eq!(&head, b"HTTP/1.1 200");
}
