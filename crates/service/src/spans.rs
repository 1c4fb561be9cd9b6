//! The span and the duration of an incoming request, by OpenTelemetry's conventions for HTTP and RPC.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context, ContextGuard, KeyValue,
    trace::{self, FutureExt, SpanContext, SpanKind, SpanRef, TraceContextExt, TraceId},
};
use quadrille_telemetry::{
    Tracing,
    metrics::RequestMetrics,
    propagation::{TRACEPARENT, TRACESTATE},
    traces::{FORCE_HEADER, NewSpan, context_of, forces},
};

use tonic::{Code, Status};

use crate::{
    MessageMax,
    methods::{self, Methods},
};

/// The label of unknown routes and methods: a raw path would create a series of its own.
const OTHER: &str = "_OTHER";

/// Where the spans and durations of requests go.
pub(crate) struct RequestTelemetry {
    pub tracing: Tracing,
    pub metrics: RequestMetrics,
    /// Of gRPC, those that are served.
    pub methods: Methods,
    pub message_max: MessageMax,
}

/// Runs an HTTP request in a span under its propagated context, and measures it.
pub(crate) async fn trace_http(
    State(telemetry): State<Arc<RequestTelemetry>>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or(OTHER, MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let context = begin(&telemetry.tracing, &request, describe_http);
    let response = match &context {
        Some(context) => next.run(request).with_context(context.clone()).await,
        None => next.run(request).await,
    };
    let trace = trace_id(context.as_ref());
    let status = response.status();
    if let Some(context) = &context {
        finish_http(&context.span(), status);
    }
    let (method, status) = (known(&method), status.as_u16());
    telemetry
        .metrics
        .http(method, &route, status, began.elapsed(), trace);
    response
}

/// A method's name as a label: clients may send any name, and each would create a series.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::CONNECT => "CONNECT",
        Method::DELETE => "DELETE",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

/// The span and the duration of a gRPC call, until it ends.
pub(crate) struct CallSpan {
    telemetry: Arc<RequestTelemetry>,
    /// None if it is not served: unknown methods never become labels.
    method: Option<Arc<methods::Method>>,
    began: Instant,
    context: Option<Context>,
}

impl CallSpan {
    /// Begins a span under the call's propagated context.
    pub fn begin<B>(
        telemetry: &Arc<RequestTelemetry>,
        method: Option<Arc<methods::Method>>,
        request: &Request<B>,
    ) -> Self {
        let mut span = CallSpan {
            telemetry: Arc::clone(telemetry),
            method,
            began: Instant::now(),
            context: None,
        };
        span.context = begin(&telemetry.tracing, request, |_| {
            describe_grpc(span.method())
        });
        span
    }

    fn method(&self) -> &str {
        self.method.as_ref().map_or(OTHER, |method| &method.name)
    }

    pub fn message_max(&self) -> MessageMax {
        self.telemetry.message_max
    }

    /// Makes its span the current one until the guard is dropped.
    pub fn attach(&self) -> Option<ContextGuard> {
        self.context.clone().map(Context::attach)
    }

    pub fn end(self, code: Code) {
        if let Some(context) = &self.context {
            finish_grpc(&context.span(), code);
        }
        let trace = trace_id(self.context.as_ref());
        let (metrics, took) = (&self.telemetry.metrics, self.began.elapsed());
        let durations = || metrics.rpc(self.method(), code_name(code));
        match &self.method {
            Some(method) if code == Code::Ok => {
                method.well.get_or_init(durations).observe(took, trace);
            }
            _ => durations().observe(took, trace),
        }
    }
}

/// The trace of a request that is sampled.
fn trace_id(context: Option<&Context>) -> Option<TraceId> {
    let trace = context.map(|context| context.span().span_context().clone());
    let trace = trace.filter(SpanContext::is_sampled);
    trace.map(|trace| trace.trace_id())
}

/// For a message beyond the limit tonic has another code than other implementations: RESOURCE_EXHAUSTED.
pub(crate) fn canonical<B: Default>(
    status: Status,
    response: Response<B>,
    max: MessageMax,
) -> (Status, Response<B>) {
    if status.code() != Code::OutOfRange {
        return (status, response);
    }
    let status = Status::resource_exhausted(format!("{}; {}", status.message(), max.fix()));
    let response = status.clone().into_http();
    (status, response)
}

fn begin<B>(
    tracing: &Tracing,
    request: &Request<B>,
    describe: impl FnOnce(&Request<B>) -> NewSpan,
) -> Option<Context> {
    if !tracing.is_on() {
        return None;
    }
    let headers = request.headers();
    let header = |name| headers.get(name).map(axum::http::HeaderValue::as_bytes);
    let state = header(TRACESTATE).and_then(|state| std::str::from_utf8(state).ok());
    let parent = header(TRACEPARENT).and_then(|parent| context_of(parent, state));
    let parent = match parent {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    };
    let forced = forces(header(FORCE_HEADER));
    let span = tracing.begin_in(&parent, describe(request), forced)?;
    Some(Context::new().with_span(span))
}

/// As the gRPC specification writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn describe_grpc(method: &str) -> NewSpan {
    NewSpan::new(method.to_owned(), SpanKind::Server).with(vec![
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", method.to_owned()),
    ])
}

fn describe_http(request: &Request) -> NewSpan {
    let path = request.uri().path();
    let method = known(request.method());
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.path", path.to_owned()),
        KeyValue::new("url.scheme", "http"),
    ];
    let method = match method {
        OTHER => {
            let original = request.method().as_str().to_owned();
            attributes.push(KeyValue::new("http.request.method_original", original));
            "HTTP"
        }
        method => method,
    };
    let route = request.extensions().get::<MatchedPath>();
    // With the raw path, each id would be a name of its own.
    let name = match route {
        Some(route) => {
            attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
            format!("{method} {}", route.as_str())
        }
        None => method.to_owned(),
    };
    NewSpan::new(name, SpanKind::Server).with(attributes)
}

fn finish_grpc(span: &SpanRef<'_>, code: Code) {
    if code != Code::Ok {
        let code = code_name(code);
        span.set_attribute(KeyValue::new("rpc.response.status_code", code));
        span.set_attribute(KeyValue::new("error.type", code));
        span.set_status(trace::Status::error(format!("gRPC status {code}")));
    }
    span.end();
}

fn finish_http(span: &SpanRef<'_>, status: StatusCode) {
    span.set_attribute(KeyValue::new(
        "http.response.status_code",
        i64::from(status.as_u16()),
    ));
    if status.is_server_error() {
        span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
        span.set_status(trace::Status::error(""));
    }
    span.end();
}
