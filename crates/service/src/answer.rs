//! The body of a gRPC response. Its status comes last, and a stream does its work while its response is being read, so the
//! request's span stays open until the body ends.

use std::{
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use axum::body::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Code, Status, body::Body};

use crate::spans::CallSpan;

pub(crate) struct Answer {
    body: Body,
    /// Whose span is current while the body is made; gone once its status is known.
    span: Option<CallSpan>,
}

impl Answer {
    pub fn new(body: Body, span: Option<CallSpan>) -> Self {
        Answer { body, span }
    }

    fn ends(&mut self, code: Code) {
        if let Some(span) = self.span.take() {
            span.end(code);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let current = this.span.as_ref().and_then(CallSpan::attach);
        let frame = ready!(Pin::new(&mut this.body).poll_frame(task));
        drop(current);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    this.ends(status.map_or(Code::Unknown, |status| status.code()));
                }
            }
            Some(Err(_)) => this.ends(Code::Unknown),
            // The status is in the trailers; a response without them was aborted.
            None => this.ends(Code::Unknown),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    /// The client has gone away, or the body ended without a status.
    fn drop(&mut self) {
        let code = match self.body.is_end_stream() {
            true => Code::Unknown,
            false => Code::Cancelled,
        };
        self.ends(code);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::{HeaderMap, Request};
    use quadrille_telemetry::{Registry, Tracing, metrics::RequestMetrics};

    use super::*;
    use crate::{MessageMax, methods::Methods, spans::RequestTelemetry};

    /// A body of frames.
    struct Frames(Vec<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Task<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            let frames = &mut self.get_mut().0;
            Poll::Ready((!frames.is_empty()).then(|| Ok(frames.remove(0))))
        }
    }

    fn data() -> Frame<Bytes> {
        Frame::data(Bytes::from_static(b"a message"))
    }

    fn trailers(status: &'static str) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        Frame::trailers(trailers)
    }

    /// The codes that are recorded of a body of which so many frames are read.
    fn recorded(frames: Vec<Frame<Bytes>>, read: usize) -> Vec<String> {
        let registry = Registry::default();
        let telemetry = Arc::new(RequestTelemetry {
            tracing: Tracing::from_env("test", "test", &registry).unwrap(),
            metrics: RequestMetrics::register(&registry),
            methods: Methods::default(),
            message_max: MessageMax::default(),
        });
        let span = CallSpan::begin(&telemetry, None, &Request::new(()));
        let mut answer = Answer::new(Body::new(Frames(frames)), Some(span));
        let mut task = Task::from_waker(std::task::Waker::noop());
        for _ in 0..read {
            let _ = Pin::new(&mut answer).poll_frame(&mut task);
        }
        drop(answer);
        let metrics = registry.encode();
        let counts = metrics.lines().filter(|line| line.contains("_count{"));
        let code = |line: &str| {
            let (_, code) = line.split_once("rpc_response_status_code=\"")?;
            let (code, count) = code.split_once("\"} ")?;
            assert_eq!(count, "1", "{line}");
            Some(code.to_owned())
        };
        counts.filter_map(code).collect()
    }

    #[test]
    fn the_status_is_the_trailers() {
        assert_eq!(recorded(vec![data(), trailers("0")], 2), ["OK"]);
        assert_eq!(recorded(vec![data(), trailers("0")], 3), ["OK"]);
        assert_eq!(
            recorded(vec![data(), trailers("8")], 2),
            ["RESOURCE_EXHAUSTED"]
        );
    }

    #[test]
    fn an_answer_without_a_status_did_not_go_well() {
        assert_eq!(recorded(vec![data()], 2), ["UNKNOWN"]);
    }

    #[test]
    fn an_answer_nobody_reads_to_its_end_was_cancelled() {
        assert_eq!(recorded(vec![data(), trailers("0")], 1), ["CANCELLED"]);
        assert_eq!(recorded(vec![data(), trailers("0")], 0), ["CANCELLED"]);
    }
}
