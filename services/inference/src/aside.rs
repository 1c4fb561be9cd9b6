//! Large requests are read and answered where they hold up nobody: a runtime's thread that decodes a megabyte of JSON answers no probe meanwhile.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::Request,
    http::header,
    response::Response,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tower::{Layer, Service};

/// A body from which on a request is large: to decode it takes about a millisecond.
const LARGE_BYTES: u64 = 64 << 10;

/// The same endpoints.
pub(crate) fn aside(router: Router) -> Router {
    router.layer(Asides)
}

#[derive(Clone)]
struct Asides;

impl<S> Layer<S> for Asides {
    type Service = Aside<S>;

    fn layer(&self, inner: S) -> Aside<S> {
        Aside(inner)
    }
}

#[derive(Clone)]
struct Aside<S>(S);

impl<S> Service<Request> for Aside<S>
where
    S: Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Work<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let large = is_large(&request)
            && Handle::try_current()
                .is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread);
        match large {
            true => Work::Aside(Box::pin(self.0.call(request))),
            false => Work::Here(Box::pin(self.0.call(request))),
        }
    }
}

/// Whether a request's body is large, as far as its head says. One whose length is not known, or that comes compressed, may be.
fn is_large(request: &Request<Body>) -> bool {
    let length = request.body().size_hint().exact();
    length.is_none_or(|length| length >= LARGE_BYTES)
        || request.headers().contains_key(header::CONTENT_ENCODING)
}

/// A request at work.
enum Work<F> {
    Here(Pin<Box<F>>),
    /// What else waits for this thread goes to another one while it is polled.
    Aside(Pin<Box<F>>),
}

impl<F: Future> Future for Work<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            Work::Here(work) => work.as_mut().poll(context),
            Work::Aside(work) => tokio::task::block_in_place(|| work.as_mut().poll(context)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_large_by_its_length_or_if_nobody_knows_it() {
        let request = |bytes: usize| Request::new(Body::from(vec![0_u8; bytes]));
        assert!(!is_large(&request(0)) && !is_large(&request(1_000)));
        assert!(is_large(&request(64 << 10)));
        let mut compressed = request(1_000);
        let gzip = header::HeaderValue::from_static("gzip");
        compressed
            .headers_mut()
            .insert(header::CONTENT_ENCODING, gzip);
        assert!(is_large(&compressed));
        let stream = futures_util::stream::empty::<Result<&'static [u8], std::io::Error>>();
        assert!(is_large(&Request::new(Body::from_stream(stream))));
    }
}
