//! The routes of the port: probes and metrics from the start, the service's own routes once it is assembled.

use std::{convert::Infallible, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{RawQuery, Request},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use quadrille_pipeline::quote::cut;
use quadrille_telemetry::{Registry, metrics::CONTENT_TYPE};
use tonic::{Status, service::Routes};
use tower::ServiceExt;

use crate::{
    deadline::deadline,
    front::Mounted,
    health::{Condition, Probe},
    scrape::Scrape,
};

/// Probes, metrics, `grpc.health.v1` and the mounted service.
pub(crate) fn router(probe: Probe, registry: Registry, health: Routes, mounted: Mounted) -> Router {
    let (live, starting) = (probe.clone(), probe.clone());
    let answer = |state: Result<(), String>| match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    let ready = move |RawQuery(query): RawQuery| async move {
        match query.as_deref() {
            Some("verbose" | "verbose=true" | "verbose=1") => {
                let (code, body) = answer(probe.ready());
                (code, verbose(&probe.checks()) + &body)
            }
            _ => answer(probe.ready()),
        }
    };
    let scrape = Arc::new(Scrape::new(registry));
    let metrics = move || async move {
        match scrape.answer(Instant::now()) {
            Some(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            None => {
                let why = "earlier scrapes have not been read to their end yet; try again later\n";
                (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
            }
        }
    };
    health
        .into_axum_router()
        .route("/livez", get(move || async move { answer(live.live()) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(move |request: Request| dispatch(starting.clone(), mounted.clone(), request))
        .layer(middleware::from_fn(|request: Request, next: Next| async {
            let run = |request| async { Ok::<_, Infallible>(next.run(request).await) };
            match deadline(request, run).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }))
}

/// One line per check, in the format of Kubernetes.
fn verbose(checks: &[(String, Condition)]) -> String {
    let line = |(name, state): &(String, Condition)| match state {
        Ok(None) => format!("[+]{name} ok\n"),
        Ok(Some(note)) => format!("[+]{name} ok: {note}\n"),
        Err(why) => format!("[-]{name}: {why}\n"),
    };
    checks.iter().map(line).collect()
}

async fn dispatch(probe: Probe, mounted: Mounted, request: Request) -> Response {
    let is_grpc = is_grpc(request.headers());
    // A call of gRPC only comes here before anything is mounted; where that was done in between, its method is not unknown.
    let Some(routed) = mounted.get().filter(|_| !is_grpc) else {
        let why = probe.ready().err();
        let why = why.unwrap_or_else(|| "ask again".to_owned());
        let why = format!("the service is starting: {why}");
        if is_grpc {
            // Not 200, which gRPC sends with every status: so that a proxy that only knows HTTP tries another replica.
            let mut response = Status::unavailable(why).into_http();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return response;
        }
        return (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response();
    };
    match routed.http.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// The answer to an unknown path.
pub(crate) async fn not_found(request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented(format!("no method {}", cut(request.uri().path())))
            .into_http();
    }
    (
        StatusCode::NOT_FOUND,
        format!("no such path: {}\n", cut(request.uri().path())),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_may_have_a_note() {
        let checks = [
            ("assembled".to_owned(), Ok(None)),
            ("pipeline p".to_owned(), Ok(Some("restoring".to_owned()))),
            ("models".to_owned(), Err("none".to_owned())),
        ];
        assert_eq!(
            verbose(&checks),
            "[+]assembled ok\n[+]pipeline p ok: restoring\n[-]models: none\n"
        );
    }
}
