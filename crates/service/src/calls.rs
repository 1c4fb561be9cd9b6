//! The gRPC services of a port. A call goes straight to the service that its path names, in one span and under its deadline:
//! calls are short, and each layer of a router costs as much as the model.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Request, Response};
use quadrille_pipeline::quote::cut;
use tokio::time::Sleep;
use tonic::{Status, body::Body, codegen::BoxFuture, server::NamedService};
use tower::Service;

use crate::{
    answer::Answer,
    deadline::{Deadline, timeout_of, too_late},
    spans::{CallSpan, canonical},
};

/// Adds headers to every response.
type HeadersFn = dyn Fn(&mut HeaderMap) + Send + Sync;

/// The services that a port answers by gRPC.
#[derive(Default)]
pub struct Calls {
    services: Vec<(&'static str, Box<dyn Callee>)>,
    insert_headers: Option<Arc<HeadersFn>>,
}

impl Calls {
    /// Adds a service, as tonic generates it.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<
                Request<Body>,
                Response = Response<Body>,
                Error = Infallible,
                Future = BoxFuture<Response<Body>, Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.services.push((S::NAME, Box::new(service)));
        self
    }

    /// Adds these headers, gRPC's initial metadata, to every response.
    pub fn with_response_headers(
        mut self,
        insert: impl Fn(&mut HeaderMap) + Send + Sync + 'static,
    ) -> Self {
        self.insert_headers = Some(Arc::new(insert));
        self
    }

    /// The full names of the services: `package.Service`.
    pub fn names(&self) -> Vec<&'static str> {
        self.services.iter().map(|(name, _)| *name).collect()
    }

    /// Begins a call.
    pub(crate) fn begin(&self, mut request: Request<Body>, span: CallSpan) -> Calling {
        let timeout = timeout_of(request.headers());
        // A timer of zero would let a quick response through.
        if timeout == Some(Duration::ZERO) {
            return self.calling(Box::pin(async { Ok(too_late()) }), None, span);
        }
        if let Some(deadline) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
            request.extensions_mut().insert(Deadline(deadline));
        }
        let late = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let named = |(service, _): &&(&str, _)| name.is_some_and(|(name, _)| name == *service);
        let call = match self.services.iter().find(named) {
            Some((_, service)) => service.answer(request),
            None => {
                let status = Status::unimplemented(format!("no method {}", cut(path)));
                Box::pin(async move { Ok(status.into_http()) })
            }
        };
        self.calling(call, late, span)
    }

    fn calling(
        &self,
        call: BoxFuture<Response<Body>, Infallible>,
        late: Option<Pin<Box<Sleep>>>,
        span: CallSpan,
    ) -> Calling {
        Calling {
            call,
            late,
            span: Some(span),
            insert_headers: self.insert_headers.clone(),
        }
    }
}

trait Callee: Send + Sync {
    fn answer(&self, request: Request<Body>) -> BoxFuture<Response<Body>, Infallible>;
}

impl<S> Callee for S
where
    S: Service<Request<Body>, Future = BoxFuture<Response<Body>, Infallible>> + Clone + Send + Sync,
{
    fn answer(&self, request: Request<Body>) -> BoxFuture<Response<Body>, Infallible> {
        // tonic's services are always ready; cloning one copies a few pointers.
        self.clone().call(request)
    }
}

/// A call that is being answered.
pub(crate) struct Calling {
    call: BoxFuture<Response<Body>, Infallible>,
    /// Its deadline, if it has one.
    late: Option<Pin<Box<Sleep>>>,
    /// None once it is answered.
    span: Option<CallSpan>,
    insert_headers: Option<Arc<HeadersFn>>,
}

impl Future for Calling {
    type Output = Response<Answer>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Response<Answer>> {
        let this = self.get_mut();
        let current = this.span.as_ref().and_then(CallSpan::attach);
        let polled = this.call.as_mut().poll(task);
        drop(current);
        let mut response = match polled {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => match &mut this.late {
                None => return Poll::Pending,
                Some(late) => {
                    ready!(late.as_mut().poll(task));
                    too_late()
                }
            },
        };
        let mut span = this.span.take();
        if let Some(status) = Status::from_header_map(response.headers()) {
            let span = span.take();
            let max = span.as_ref().map(CallSpan::message_max).unwrap_or_default();
            let (status, canonical) = canonical(status, response, max);
            response = canonical;
            if let Some(span) = span {
                span.end(status.code());
            }
        }
        if let Some(insert) = &this.insert_headers {
            insert(response.headers_mut());
        }
        Poll::Ready(response.map(|body| Answer::new(body, span)))
    }
}
