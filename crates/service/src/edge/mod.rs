//! The port: what comes from the network before it is anybody's request. Bounds in connections, requests, bytes and
//! time hold here, and here it is checked who asks; all protocols and services share it.

mod body;
mod coding;
mod connection;
mod framing;
mod inflate;
pub(crate) mod limits;
mod load;
mod origin;
mod pack;
mod serve;
mod taken;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use quadrille_telemetry::metrics::PortMetrics;
use tonic::{Code, Status};

pub(crate) use self::serve::serve;
use self::{
    body::{Cut, Meter, Metered, Reading},
    coding::{CODINGS, GRPC_ACCEPT, GRPC_CODINGS, GRPC_ENCODING},
    connection::{Busy, Conn},
    inflate::{Inflated, InflatedMessages},
    limits::HttpConfig,
    load::{Begun, Length, Load},
    origin::{Rules, is_preflight, media_type, share},
};
use crate::{front::Front, server::is_grpc};

/// How long a browser may keep what it was told of another site's page, seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// The reason of a refusal that says what would be understood.
const ENCODING: &str = "encoding";

/// Cheap to clone: it is, for each connection and request.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Inner>);

struct Inner {
    config: HttpConfig,
    rules: Rules,
    load: Arc<Load>,
    metrics: PortMetrics,
    front: Front,
}

/// Why a request is not answered by whom it was meant for.
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

    /// Answers a request, whatever there is to say.
    async fn answer(
        &self,
        request: Request<Incoming>,
        conn: &Arc<Conn>,
        busy: Busy,
    ) -> Response<Answered> {
        let inner = &*self.0;
        let (grpc, version) = (is_grpc(request.headers()), request.version());
        let packed = coding::of_answer(request.headers(), grpc);
        let path = request.uri().path();
        let admitted = match is_probe(path) {
            true => Ok((None, None)),
            false => inner.admit(&request, conn, grpc),
        };
        let (response, begun) = match admitted {
            Ok((begun, origin))
                if is_preflight(request.method(), request.headers()) && origin.is_some() =>
            {
                (preflight(request.headers(), origin), begun)
            }
            Ok((begun, origin)) => {
                let mut response = inner.run(request, conn, grpc).await;
                if let Some(origin) = &origin {
                    share(response.headers_mut(), origin);
                }
                (response, begun)
            }
            Err(refused) => (inner.refuse(refused, grpc), None),
        };
        let response = match packed {
            None => response,
            Some(coding) if grpc => pack::pack_messages(response, coding, &inner.load),
            Some(coding) => pack::pack(response, coding, &inner.load),
        };
        taken::gave(1);
        let mut response = response.map(|body| Answered {
            body,
            rest: Bytes::new(),
            given: 1,
            _busy: busy,
            _begun: begun,
        });
        if conn.reserved && version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

impl Inner {
    /// Whether a request may be answered here and now; the other site whose page asks, where one does.
    fn admit(
        &self,
        request: &Request<Incoming>,
        conn: &Conn,
        grpc: bool,
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
                    "{most} connections are open, as many as may be (QUADRILLE_CONNECTIONS); try again, or ask another replica"
                ),
            ));
        }
        let stays = self.front.is_stream(uri.path()) || is_health_watch(uri.path());
        let length = match grpc && stays {
            true => Length::Open,
            false => Length::Bounded,
        };
        let begun = self.load.begin(length);
        if begun.is_none() && !watched {
            let (what, most) = match length {
                Length::Bounded => ("requests", self.config.requests_max),
                Length::Open => ("streams or twice as many requests", self.load.streams_max()),
            };
            return Err(Refused::busy(
                "requests",
                format!(
                    "{most} {what} are being answered, as many as may be (QUADRILLE_REQUESTS); try again, or ask another replica"
                ),
            ));
        }
        let bodiless = request.body().is_end_stream();
        if let Some(message) = media_type(headers).filter(|_| !grpc && !bodiless) {
            return Err(Refused {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                grpc: Code::InvalidArgument,
                reason: "media_type",
                message,
            });
        }
        Ok((begun, origin.cloned()))
    }

    async fn run(&self, mut request: Request<Incoming>, conn: &Arc<Conn>, grpc: bool) -> Response {
        if request.body().is_end_stream() {
            return self.front.answer(request.map(|_| Body::empty())).await;
        }
        let coding = match coding::of_request(request.headers(), grpc) {
            Ok(coding) => coding,
            Err(given) => return self.refuse(Refused::coding(&given), grpc),
        };
        let meter = || Meter::new(Arc::clone(&self.load));
        let (raw, inflated) = (meter(), coding.map(|_| meter()));
        let reading = match grpc && self.front.is_stream(request.uri().path()) {
            true => Reading::Messages,
            false => Reading::Whole,
        };
        let timeout = self.config.body_timeout;
        let metered = |body| {
            let conn = Arc::clone(conn);
            Metered::new(body, Arc::clone(&raw), timeout, reading, conn)
        };
        let request = match coding.zip(inflated.clone()) {
            None => request.map(|body| Body::new(metered(body))),
            Some((coding, meter)) if grpc => {
                request.headers_mut().remove(GRPC_ENCODING);
                let max = self.front.message_max();
                request.map(|body| {
                    let messages =
                        InflatedMessages::new(metered(body), coding, meter, reading, max);
                    Body::new(messages)
                })
            }
            Some((coding, meter)) => {
                let headers = request.headers_mut();
                headers.remove(header::CONTENT_ENCODING);
                headers.remove(header::CONTENT_LENGTH);
                let of_body = Arc::clone(&raw);
                request.map(|body| Body::new(Inflated::new(metered(body), coding, of_body, meter)))
            }
        };
        let response = self.front.answer(request).await;
        match raw.cut().or_else(|| inflated?.cut()) {
            None => response,
            Some(cut) => {
                let refused = Refused::cut(cut);
                match grpc {
                    // tonic has passed the body's status on.
                    true => {
                        self.metrics.refused(refused.reason);
                        response
                    }
                    false => self.refuse(refused, grpc),
                }
            }
        }
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

    /// A body is compressed in a way that is not known here.
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

/// What orchestrators and load balancers ask, by whatever name, however busy it is.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

fn is_health_check(path: &str) -> bool {
    path.strip_prefix(crate::front::HEALTH) == Some("Check")
}

/// The same question for as long as the one who asks likes.
fn is_health_watch(path: &str) -> bool {
    path.strip_prefix(crate::front::HEALTH) == Some("Watch")
}

/// What a page of an allowed origin may send: what it asks for.
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

/// What is given out of an answer at once: HTTP/2 takes what it is given whole, however little the peer takes of it,
/// and then nothing counts it any more.
const PIECE_BYTES: usize = 16 << 10;

/// An answer's body: its request counts, and its connection is busy, until it is written.
pub(crate) struct Answered {
    body: Body,
    /// What it gave and is not given out yet.
    rest: Bytes,
    /// Pieces given out, and one.
    given: u64,
    _busy: Busy,
    _begun: Option<Begun>,
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        taken::asked();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(task)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        this.given += 1;
        taken::gave(this.given);
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact.saturating_add(rest)),
            None => {
                hint.set_lower(hint.lower().saturating_add(rest));
                hint
            }
        }
    }
}
