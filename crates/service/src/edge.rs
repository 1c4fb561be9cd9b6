//! The port: everything between the network and a request's handler. It enforces the limits on connections, requests, bytes and
//! time, and checks who may call; all protocols and services share it.

mod answering;
mod blocking;
mod body;
mod budget;
mod coding;
mod connection;
mod cut;
mod framing;
mod inflate;
pub(crate) mod limits;
pub(crate) mod load;
mod origin;
mod pack;
mod rate;
mod serve;
mod stalled;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use http_body::Body as _;
use hyper::body::Incoming;
use quadrille_telemetry::metrics::PortMetrics;
use tonic::{Code, Status};

pub(crate) use self::serve::serve;
use self::{
    answering::{Answering, Leaving, Meters, New},
    blocking::LARGE_BYTES,
    body::{Meter, Metered, Reading},
    coding::{CODINGS, GRPC_ACCEPT, GRPC_CODINGS, GRPC_ENCODING},
    connection::{Busy, Conn},
    cut::Cut,
    inflate::{Inflated, InflatedMessages},
    limits::HttpConfig,
    load::{Begun, Length, Load, Memory},
    origin::{Rules, is_preflight, media_type, share},
};
use crate::{front::Front, server::is_grpc, spans::CallSpan};

/// How long a browser may cache the answer to a CORS preflight, in seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// The reason of a refusal for an unsupported coding; its response lists the supported ones.
const ENCODING: &str = "encoding";

/// Cheap to clone: it is cloned for each connection and request.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Inner>);

struct Inner {
    config: HttpConfig,
    rules: Rules,
    load: Arc<Load>,
    metrics: PortMetrics,
    front: Front,
}

/// Why a request is refused before it reaches its handler.
struct Refused {
    status: StatusCode,
    grpc: Code,
    reason: &'static str,
    message: String,
}

impl Edge {
    pub fn new(config: HttpConfig, metrics: PortMetrics, front: Front) -> Self {
        Edge(Arc::new(Inner {
            rules: Rules::new(&config),
            load: Arc::new(Load::new(&config)),
            config,
            metrics,
            front,
        }))
    }

    fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    fn count_connections(&self, open: usize) {
        self.0.load.set_connections(open);
        self.0.metrics.connections(open);
    }

    /// Accepts a request.
    fn begin(&self, request: Request<Incoming>, conn: &Arc<Conn>) -> Answering {
        Answering::New(Some(New {
            edge: self.clone(),
            request,
            conn: Arc::clone(conn),
            busy: conn.begin(),
        }))
    }

    /// Begins to answer a request: by its handler, or with a refusal.
    fn answer(&self, request: Request<Incoming>, conn: &Arc<Conn>, busy: Busy) -> Answering {
        let inner = &*self.0;
        let grpc = is_grpc(request.headers());
        let path = request.uri().path();
        let method = inner.front.method(path).filter(|_| grpc).cloned();
        let mut leaving = Leaving {
            edge: self.clone(),
            grpc,
            streams: false,
            packed: coding::of_answer(request.headers(), grpc),
            meters: Meters::default(),
            origin: None,
            close: conn.reserved && request.version() < Version::HTTP_2,
            // Concurrent scrapes share one text, and a busy replica can still be scraped.
            counts: path != "/metrics",
            busy,
            begun: None,
        };
        let streams = method.as_ref().is_some_and(|method| method.stream);
        leaving.streams = streams;
        if !is_probe(path) {
            match inner.admit(&request, conn, grpc, streams) {
                Ok((begun, origin)) => (leaving.begun, leaving.origin) = (begun, origin),
                Err(refused) => return leaving.refuse(refused),
            }
        }
        if is_preflight(request.method(), request.headers()) && leaving.origin.is_some() {
            let response = preflight(request.headers(), leaving.origin.take());
            return leaving.leave_now(response);
        }
        let reading = match streams {
            true => Reading::Messages,
            false => Reading::Whole,
        };
        let routed = inner.front.calls(path).filter(|_| grpc);
        let Some(routed) = routed else {
            return match inner.read(request, conn, grpc, reading) {
                Ok((request, meters)) => {
                    leaving.meters = meters;
                    let answer = Box::pin(inner.front.answer(request));
                    Answering::Http(answer, Some(leaving))
                }
                Err(refused) => leaving.refuse(refused),
            };
        };
        match inner.read(request, conn, grpc, reading) {
            Ok((request, meters)) => {
                leaving.meters = meters;
                let span = CallSpan::begin(&routed.telemetry, method, &request);
                Answering::Call(routed.grpc.begin(request, span), Some(leaving))
            }
            Err(refused) => leaving.refuse(refused),
        }
    }
}

/// The body, boxed into axum's type.
trait Holds {
    fn holding<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = axum::Error> + Send + 'static;
}

impl Holds for Body {
    fn holding<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = axum::Error> + Send + 'static,
    {
        Body::new(body)
    }
}

impl Holds for tonic::body::Body {
    fn holding<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = axum::Error> + Send + 'static,
    {
        tonic::body::Body::new(body)
    }
}

impl Inner {
    /// Checks whether a request may be answered; returns the origin that it came from, if it is another site's page.
    fn admit(
        &self,
        request: &Request<Incoming>,
        conn: &Conn,
        grpc: bool,
        streams: bool,
    ) -> Result<(Option<Begun>, Option<HeaderValue>), Refused> {
        let (uri, headers) = (request.uri(), request.headers());
        let host = headers.get(header::HOST);
        let host = host.map(|host| host.to_str().unwrap_or("\u{fffd}"));
        let authority = uri
            .authority()
            .map(axum::http::uri::Authority::as_str)
            .or(host);
        let origin = self.rules.check(authority, headers, conn.loopback);
        let origin = origin.map_err(|foreign| Refused {
            status: StatusCode::FORBIDDEN,
            grpc: Code::PermissionDenied,
            reason: match foreign {
                origin::Foreign::Host(_) => "host",
                origin::Foreign::Origin(_) | origin::Foreign::Page => "origin",
            },
            message: foreign.to_string(),
        })?;
        let watched = uri.path() == "/metrics" || is_health_check(uri.path());
        if conn.reserved && !watched {
            let most = self.config.connections_max;
            return Err(Refused::busy(
                "connections",
                format!(
                    "{most} connections are open, which is the limit (QUADRILLE_CONNECTIONS); try again, or use another replica"
                ),
            ));
        }
        let length = match streams || (grpc && is_health_watch(uri.path())) {
            true => Length::Open,
            false => Length::Bounded,
        };
        let begun = self.load.begin(length);
        if begun.is_none() && !watched {
            let (what, most) = match length {
                Length::Bounded => ("requests", self.config.requests_max),
                Length::Open => ("streams (or all requests)", self.load.streams_max()),
            };
            return Err(Refused::busy(
                "requests",
                format!(
                    "{most} {what} are being answered, which is the limit (QUADRILLE_REQUESTS); try again, or use another replica"
                ),
            ));
        }
        if !grpc
            && !request.body().is_end_stream()
            && let Some(message) = media_type(headers)
        {
            return Err(Refused {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                grpc: Code::InvalidArgument,
                reason: "media_type",
                message,
            });
        }
        Ok((begun, origin.cloned()))
    }

    /// The request, its body counted and timed.
    fn read<B: Holds + Default>(
        &self,
        mut request: Request<Incoming>,
        conn: &Arc<Conn>,
        grpc: bool,
        reading: Reading,
    ) -> Result<(Request<B>, Meters), Refused> {
        if request.body().is_end_stream() {
            return Ok((request.map(|_| B::default()), Meters::default()));
        }
        if reading == Reading::Messages {
            let memory = Memory(Arc::clone(&self.load));
            request.extensions_mut().insert(memory);
        }
        let coding = coding::of_request(request.headers(), grpc);
        let coding = coding.map_err(|given| Refused::coding(&given))?;
        // A gRPC message announces its length.
        let length = request.body().size_hint().exact();
        let long = length.is_none_or(|length| length >= LARGE_BYTES as u64);
        let large = coding.is_some() || (long && !grpc);
        let meter = || Meter::new(Arc::clone(&self.load));
        let (raw, inflated) = (meter(), coding.map(|_| meter()));
        let of_body = Arc::clone(&raw);
        let timeout = self.config.body_timeout;
        let metered = |body| Metered::new(body, of_body, timeout, reading, Arc::clone(conn));
        let request = match coding.zip(inflated.clone()) {
            None => request.map(|body| B::holding(metered(body))),
            Some((coding, meter)) if grpc => {
                request.headers_mut().remove(GRPC_ENCODING);
                let max = self.front.message_max();
                request.map(|body| {
                    let body = metered(body);
                    B::holding(InflatedMessages::new(body, coding, meter, reading, max))
                })
            }
            Some((coding, meter)) => {
                let headers = request.headers_mut();
                headers.remove(header::CONTENT_ENCODING);
                headers.remove(header::CONTENT_LENGTH);
                let of_body = Arc::clone(&raw);
                request.map(|body| B::holding(Inflated::new(metered(body), coding, of_body, meter)))
            }
        };
        let raw = Some(raw);
        let meters = Meters {
            raw,
            inflated,
            large,
        };
        Ok((request, meters))
    }

    fn refuse(&self, refused: Refused, grpc: bool) -> Response {
        self.metrics.refused(refused.reason);
        let codings = refused.reason == ENCODING;
        if grpc {
            let mut response = Status::new(refused.grpc, refused.message).into_http();
            if codings {
                response.headers_mut().insert(GRPC_ACCEPT, GRPC_CODINGS);
            }
            return response;
        }
        let body = Json(serde_json::json!({ "error": refused.message }));
        let mut response = (refused.status, body).into_response();
        if refused.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if codings {
            let headers = response.headers_mut();
            headers.insert(header::ACCEPT_ENCODING, CODINGS);
        }
        response
    }
}

impl Refused {
    fn busy(reason: &'static str, message: String) -> Self {
        Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc: Code::ResourceExhausted,
            reason,
            message,
        }
    }

    /// A body is compressed in a way that this service does not support.
    fn coding(given: &str) -> Self {
        Refused {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            grpc: Code::Unimplemented,
            reason: ENCODING,
            message: format!(
                "the body is compressed with {given:?}; compress it once with gzip or deflate, or not at all"
            ),
        }
    }

    fn cut(cut: Cut) -> Self {
        let message = cut.message().into_owned();
        match cut {
            Cut::Memory => Refused::busy("body_memory", message),
            Cut::Slow => Refused {
                status: StatusCode::REQUEST_TIMEOUT,
                grpc: Code::DeadlineExceeded,
                reason: "body_timeout",
                message,
            },
            Cut::Corrupt => Refused {
                status: StatusCode::BAD_REQUEST,
                grpc: Code::Internal,
                reason: "body_corrupt",
                message,
            },
            Cut::TooLarge(_) => Refused {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                grpc: Code::ResourceExhausted,
                reason: "body_size",
                message,
            },
        }
    }
}

/// Probes of orchestrators and load balancers: answered whatever the `Host`, however busy the replica is.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

fn is_health_check(path: &str) -> bool {
    path.strip_prefix(crate::front::HEALTH) == Some("Check")
}

/// The streaming health check, which stays open for as long as the client likes.
fn is_health_watch(path: &str) -> bool {
    path.strip_prefix(crate::front::HEALTH) == Some("Watch")
}

/// The answer to a preflight from an allowed origin: it may send what it asks for.
fn preflight(asked: &HeaderMap, origin: Option<HeaderValue>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    if let Some(origin) = &origin {
        share(headers, origin);
    }
    let methods = HeaderValue::from_static("GET, HEAD, POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    response
}
