//! A request that is being answered, and what is done to its response before it is sent. No `async` block around a gRPC call:
//! it would hold the request once per layer, and be copied as often.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    Edge, Refused,
    blocking::{LARGE_BYTES, run_blocking},
    body::Meter,
    coding::Coding,
    connection::{Busy, Conn},
    cut::Cut,
    load::{Begun, Lease, Load},
    origin::share,
    pack,
    stalled::{self, PIECE_BYTES},
};
use crate::{answer::Answer, calls::Calling};

/// A request that is being answered.
pub(crate) enum Answering {
    /// Not begun yet: the connection's task only hands it to the stream's.
    New(Option<New>),
    /// Refused, or answered at once.
    Now(Option<Response<Answered>>),
    Call(Calling, Option<Leaving>),
    Http(
        Pin<Box<dyn Future<Output = Response> + Send>>,
        Option<Leaving>,
    ),
}

impl Future for Answering {
    type Output = Result<Response<Answered>, Infallible>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Answering::New(new) = this
            && let Some(new) = new.take()
        {
            *this = new.edge.answer(new.request, &new.conn, new.busy);
        }
        let response = match this {
            Answering::New(_) => None,
            Answering::Now(response) => response.take(),
            Answering::Http(answer, leaving) => {
                let large = leaving.as_ref().is_some_and(Leaving::is_large);
                let response = ready!(run_blocking(large, || answer.as_mut().poll(task)));
                leaving.take().map(|it| it.leave(response.map(Said::Http)))
            }
            Answering::Call(calling, leaving) => {
                let large = leaving.as_ref().is_some_and(Leaving::is_large);
                let response = ready!(run_blocking(large, || Pin::new(calling).poll(task)));
                leaving.take().map(|it| {
                    let load = Arc::clone(&it.edge.0.load);
                    it.leave(response.map(|body| Said::Call(Call::new(body, load))))
                })
            }
        };
        match response {
            Some(response) => {
                stalled::gave(1, 1);
                Poll::Ready(Ok(response))
            }
            // Already answered.
            None => Poll::Pending,
        }
    }
}

/// A request as received.
pub(crate) struct New {
    pub edge: Edge,
    pub request: Request<Incoming>,
    pub conn: Arc<Conn>,
    pub busy: Busy,
}

/// The bytes that a request holds, as received and decompressed.
#[derive(Default)]
pub(super) struct Meters {
    pub raw: Option<Arc<Meter>>,
    pub inflated: Option<Arc<Meter>>,
    /// Its headers say that it is, or may be, large.
    pub large: bool,
}

impl Meters {
    /// Whether enough of it has arrived that decoding it would hold up other tasks of this thread.
    fn is_large(&self) -> bool {
        let large = |meter: &Option<Arc<Meter>>| {
            let meter = meter.as_ref();
            meter.is_some_and(|meter| meter.held() >= LARGE_BYTES)
        };
        self.large || large(&self.raw) || large(&self.inflated)
    }

    fn cut(&self) -> Option<Cut> {
        let meters = [&self.raw, &self.inflated];
        meters.into_iter().flatten().find_map(|meter| meter.cut())
    }
}

/// What is done to a response before it is sent.
pub(crate) struct Leaving {
    pub edge: Edge,
    pub grpc: bool,
    /// A stream: messages arrive while it is being answered.
    pub streams: bool,
    pub packed: Option<Coding>,
    pub meters: Meters,
    /// The other site's origin, if its page sent the request.
    pub origin: Option<HeaderValue>,
    /// The connection is closed after it.
    pub close: bool,
    /// Whether a large response counts until the client has read it.
    pub counts: bool,
    pub busy: Busy,
    pub begun: Option<Begun>,
}

impl Leaving {
    pub fn refuse(self, refused: Refused) -> Answering {
        let response = self.edge.0.refuse(refused, self.grpc);
        self.leave_now(response)
    }

    pub fn leave_now(self, response: Response) -> Answering {
        Answering::Now(Some(self.leave(response.map(Said::Http))))
    }

    fn is_large(&self) -> bool {
        self.meters.is_large()
    }

    fn leave(self, response: Response<Said>) -> Response<Answered> {
        let inner = &*self.edge.0;
        let cut = self.meters.cut();
        // What the request held is free for its response.
        let large = match self.streams {
            true => Large::As(self.meters),
            false => Large::Is(self.meters.is_large()),
        };
        let response = match cut.map(Refused::cut) {
            None => response,
            // tonic has passed the body's status on.
            Some(refused) if self.grpc => {
                inner.metrics.refused(refused.reason);
                response
            }
            Some(refused) => inner.refuse(refused, false).map(Said::Http),
        };
        let length = response.body().size_hint().exact().unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut response = match self.packed {
            None => response,
            Some(coding) => {
                let response = response.map(Body::new);
                let packed = match self.grpc {
                    true => pack::pack_messages(response, coding, &inner.load),
                    false => pack::pack(response, coding, &inner.load),
                };
                packed.map(Said::Http)
            }
        };
        let mut held = None;
        if self.counts && length > UNCOUNTED_BYTES {
            // It is in memory already, even if it is sent compressed.
            held = inner.load.lease_answer(length);
            if held.is_none() {
                let refused = Refused::cut(Cut::Memory);
                response = inner.refuse(refused, false).map(Said::Http);
            }
        }
        if let Some(origin) = &self.origin {
            share(response.headers_mut(), origin);
        }
        if self.close {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response.map(|said| Answered {
            said,
            large,
            rest: Bytes::new(),
            given: 1,
            first: 1,
            _held: held,
            _busy: self.busy,
            _begun: self.begun,
        })
    }
}

/// A response up to this size does not count while it is not read: there are no more of them than requests.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// The content of a response.
pub(super) enum Said {
    Http(Body),
    Call(Call),
}

/// The response of a gRPC call: its messages' lengths are known when they arrive.
pub(super) struct Call {
    body: Answer,
    load: Arc<Load>,
    /// The lease of the message that is being read, if it is large.
    held: Option<Lease>,
    is_over: bool,
}

impl Call {
    fn new(body: Answer, load: Arc<Load>) -> Self {
        Call {
            body,
            load,
            held: None,
            is_over: false,
        }
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // A reader that asks for more has taken what it was given.
        self.held = None;
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        let length = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if length > UNCOUNTED_BYTES {
            self.held = self.load.lease_answer(length);
            if self.held.is_none() {
                self.is_over = true;
                return Poll::Ready(Some(Ok(Frame::trailers(no_room()))));
            }
        }
        Poll::Ready(frame)
    }
}

/// Ends a response for which there is no memory.
fn no_room() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Its message is plain text.
    let _ = Cut::Memory.status().add_header(&mut trailers);
    trailers
}

impl http_body::Body for Said {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Said::Http(body) => Pin::new(body).poll_frame(task),
            Said::Call(call) => call.poll(task),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Said::Http(body) => body.is_end_stream(),
            Said::Call(call) => call.is_over || call.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Said::Http(body) => body.size_hint(),
            Said::Call(call) => call.body.size_hint(),
        }
    }
}

/// Whether a request is large, and so decoded where it blocks no other task.
enum Large {
    Is(bool),
    /// As much as it holds at the moment.
    As(Meters),
}

/// A response's body: its request counts, and its connection is busy, until it is written.
pub(crate) struct Answered {
    said: Said,
    large: Large,
    /// Produced, but not yet handed out.
    rest: Bytes,
    /// The number of pieces handed out, plus one.
    given: u64,
    /// Of these, those before what it gave last.
    first: u64,
    _held: Option<Lease>,
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
        stalled::asked();
        if this.rest.is_empty() {
            let large = match &this.large {
                Large::Is(large) => *large,
                Large::As(meters) => meters.is_large(),
            };
            match ready!(run_blocking(large, || Pin::new(&mut this.said).poll_frame(task))) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => (this.rest, this.first) = (data, this.given),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        this.given += 1;
        stalled::gave(this.given, this.first);
        let piece = match this.rest.len() > PIECE_BYTES {
            true => this.rest.split_to(PIECE_BYTES),
            false => std::mem::take(&mut this.rest),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.said.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.said.size_hint(), self.rest.len() as u64);
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact.saturating_add(rest)),
            None => {
                hint.set_lower(hint.lower().saturating_add(rest));
                hint
            }
        }
    }
}
