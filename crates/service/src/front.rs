//! Where a request goes first: a gRPC call straight to the assembled service, in one span and under its deadline,
//! everything else to the routes of HTTP. A call is short, and each layer of a router costs it as much as its model.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::{Router, extract::Request, response::Response};
use tower::{Service, ServiceExt};

use crate::{
    server::{deadline, is_grpc},
    spans::{Telling, tell_grpc},
};

/// The health service is there before anything is mounted.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// An assembled service.
pub(crate) struct Routed {
    pub grpc: Router,
    pub http: Router,
    pub telling: Telling,
}

/// The assembled service, mounted once.
pub(crate) type Mounted = Arc<OnceLock<Routed>>;

/// Cheap to clone: it is, for each request.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

struct Inner {
    /// Probes, metrics, health, and what is not mounted yet.
    probes: Router,
    mounted: Mounted,
}

impl Front {
    pub fn new(probes: Router, mounted: Mounted) -> Self {
        Front(Arc::new(Inner { probes, mounted }))
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let routed = self.0.mounted.get();
        let routed = routed
            .filter(|_| is_grpc(request.headers()) && !request.uri().path().starts_with(HEALTH));
        match routed {
            Some(routed) => {
                let (router, telling) = (routed.grpc.clone(), routed.telling.clone());
                Box::pin(tell_grpc(telling, request, |request| {
                    deadline(request, |request| router.oneshot(request))
                }))
            }
            None => Box::pin(self.0.probes.clone().oneshot(request)),
        }
    }
}
