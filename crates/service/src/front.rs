//! Where a request goes first: a gRPC call straight to the assembled service, in one span and under its deadline,
//! everything else to the routes of HTTP. A call is short, and each layer of a router costs it as much as its model.

use std::sync::{Arc, OnceLock};

use axum::{Router, extract::Request, response::Response};
use tower::ServiceExt;

use crate::{
    MessageMax,
    server::{deadline, is_grpc},
    spans::{Telling, tell_grpc},
};

/// The health service is there before anything is mounted.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/";

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

impl Front {
    pub async fn answer(&self, request: Request) -> Response {
        let routed = self.0.mounted.get();
        let routed = routed
            .filter(|_| is_grpc(request.headers()) && !request.uri().path().starts_with(HEALTH));
        let answered = match routed {
            Some(routed) => {
                let (router, telling) = (routed.grpc.clone(), routed.telling.clone());
                tell_grpc(telling, request, |request| {
                    deadline(request, |request| router.oneshot(request))
                })
                .await
            }
            None => self.0.probes.clone().oneshot(request).await,
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// The largest message that is taken by gRPC.
    pub fn message_max(&self) -> MessageMax {
        let routed = self.0.mounted.get();
        routed.map_or(MessageMax::default(), |routed| routed.telling.message_max)
    }

    /// Whether a method of gRPC takes many messages.
    pub fn is_stream(&self, path: &str) -> bool {
        let routed = self.0.mounted.get();
        routed.is_some_and(|routed| routed.telling.methods.is_stream(path))
    }
}
