//! Dispatches a request: gRPC calls go to the assembled service's methods, everything else to the HTTP routes.

use std::sync::{Arc, OnceLock};

use axum::{Router, extract::Request, response::Response};
use tower::ServiceExt;

use crate::{MessageMax, calls::Calls, methods::Method, spans::RequestTelemetry};

/// The health service is available before anything is mounted.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/";

/// An assembled service.
pub(crate) struct Routed {
    pub grpc: Calls,
    pub http: Router,
    pub telemetry: Arc<RequestTelemetry>,
}

/// The assembled service, mounted once.
pub(crate) type Mounted = Arc<OnceLock<Routed>>;

pub(crate) struct Front {
    /// Probes, metrics and health; and the answer to all else while nothing is mounted.
    probes: Router,
    mounted: Mounted,
}

impl Front {
    pub fn new(probes: Router, mounted: Mounted) -> Self {
        Front { probes, mounted }
    }

    /// The gRPC services for this path, once mounted.
    pub fn calls(&self, path: &str) -> Option<&Routed> {
        self.mounted.get().filter(|_| !path.starts_with(HEALTH))
    }

    /// Answers everything else.
    pub fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let probes = self.probes.clone();
        async move {
            match probes.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    }

    /// The largest gRPC message that is accepted.
    pub fn message_max(&self) -> MessageMax {
        let routed = self.mounted.get();
        routed.map_or(MessageMax::default(), |routed| routed.telemetry.message_max)
    }

    /// A method of gRPC by its path.
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.mounted.get()?.telemetry.methods.get(path)
    }
}
