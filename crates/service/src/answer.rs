//! The body of a gRPC answer. Its status comes last, and what a stream does it does while its answer is read:
//! so both belong to the request's span until the body ends.

use std::{
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use opentelemetry::Context;
use tonic::{Code, Status};

pub(crate) struct Answer<E: FnOnce(Code)> {
    body: Body,
    context: Option<Context>,
    /// Called once, with the status.
    end: Option<E>,
}

impl<E: FnOnce(Code)> Answer<E> {
    /// `context`: current while the body is made.
    pub fn new(body: Body, context: Option<Context>, end: E) -> Self {
        Answer {
            body,
            context,
            end: Some(end),
        }
    }

    fn ends(&mut self, code: Code) {
        if let Some(end) = self.end.take() {
            end(code);
        }
    }
}

impl<E: FnOnce(Code) + Unpin> http_body::Body for Answer<E> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let current = this.context.clone().map(Context::attach);
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
            // An answer says how it ended by its trailers; one that has none broke off.
            None => this.ends(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<E: FnOnce(Code)> Drop for Answer<E> {
    /// Who asked has gone, or nothing was left to read and no status came.
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
    use std::sync::{Arc, Mutex};

    use axum::http::HeaderMap;

    use super::*;

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

    /// What is told of a body of which so many frames are read.
    fn told(frames: Vec<Frame<Bytes>>, read: usize) -> Vec<Code> {
        let codes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&codes);
        let end = move |code| told.lock().unwrap().push(code);
        let mut answer = Answer::new(Body::new(Frames(frames)), None, end);
        let mut task = Task::from_waker(std::task::Waker::noop());
        for _ in 0..read {
            let _ = Pin::new(&mut answer).poll_frame(&mut task);
        }
        drop(answer);
        let codes = codes.lock().unwrap();
        codes.clone()
    }

    #[test]
    fn the_status_is_the_trailers() {
        assert_eq!(told(vec![data(), trailers("0")], 2), [Code::Ok]);
        assert_eq!(told(vec![data(), trailers("0")], 3), [Code::Ok]);
        assert_eq!(
            told(vec![data(), trailers("8")], 2),
            [Code::ResourceExhausted]
        );
    }

    #[test]
    fn an_answer_without_a_status_did_not_go_well() {
        assert_eq!(told(vec![data()], 2), [Code::Unknown]);
    }

    #[test]
    fn an_answer_nobody_reads_to_its_end_was_cancelled() {
        assert_eq!(told(vec![data(), trailers("0")], 1), [Code::Cancelled]);
        assert_eq!(told(vec![data(), trailers("0")], 0), [Code::Cancelled]);
    }
}
