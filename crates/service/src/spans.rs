//! The span of a request from outside, by OpenTelemetry's conventions for HTTP and RPC.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt, SpanKind, Status, TraceContextExt},
};
use quadrille_telemetry::{
    Tracing,
    propagation::{TRACEPARENT, TRACESTATE},
    traces::{FORCE_HEADER, NewSpan, context_of, forces},
};

use crate::server::is_grpc;

/// Runs a request in a span under the context it came with.
pub(crate) async fn trace(
    State(tracing): State<Tracing>,
    request: Request,
    next: Next,
) -> Response {
    if !tracing.is_on() {
        return next.run(request).await;
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
    let grpc = is_grpc(headers);
    let Some(span) = tracing.begin_in(&parent, describe(&request, grpc), forced) else {
        return next.run(request).await;
    };
    let context = Context::new().with_span(span);
    let response = next.run(request).with_context(context.clone()).await;
    finish(&context, &response, grpc);
    response
}

fn describe(request: &Request, grpc: bool) -> NewSpan {
    let path = request.uri().path();
    if grpc {
        let method = path.trim_start_matches('/').to_owned();
        return NewSpan::new(method.clone(), SpanKind::Server).with(vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
        ]);
    }
    let method = request.method().as_str().to_owned();
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.clone()),
        KeyValue::new("url.path", path.to_owned()),
        KeyValue::new("url.scheme", "http"),
    ];
    let route = request.extensions().get::<MatchedPath>();
    // A path as it came would make a name of each id.
    let name = match route {
        Some(route) => {
            attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
            format!("{method} {}", route.as_str())
        }
        None => method,
    };
    NewSpan::new(name, SpanKind::Server).with(attributes)
}

/// What came of it, as far as the head of the answer says.
fn finish(context: &Context, response: &Response, grpc: bool) {
    let span = context.span();
    if grpc {
        // A status in the trailers, after a body, is not seen here.
        let status = response.headers().get("grpc-status");
        let status = status.and_then(|status| status.to_str().ok());
        if let Some(status) = status.filter(|status| *status != "0") {
            span.set_attribute(KeyValue::new("rpc.response.status_code", status.to_owned()));
            span.set_attribute(KeyValue::new("error.type", status.to_owned()));
            span.set_status(Status::error(format!("gRPC status {status}")));
        }
    } else {
        let status = response.status();
        span.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(status.as_u16()),
        ));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
    }
    span.end();
}
