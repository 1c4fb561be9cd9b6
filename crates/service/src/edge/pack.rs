//! Compresses responses as they are written, if the client asks for it and it is worth it.
//!
//! It never occupies a thread for long, and its memory counts against that of requests: if that is scarce, a response is sent
//! uncompressed.

use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use http_body::{Body as _, Frame};

use super::{
    budget::Budget,
    coding::{Coding, GRPC_ENCODING},
    framing::{Coming, Head},
    load::{Lease, Load},
};

/// Smaller responses fit a packet anyway.
const WORTH_BYTES: usize = 1 << 10;
/// Compressed at once; a few milliseconds at the slowest.
const STEP_BYTES: usize = 64 << 10;
/// Memory of an encoder: tables, window and output.
const ENCODER_BYTES: usize = 400 << 10;
/// Numbers in JSON hardly compress better at higher levels, which take several times as long.
const LEVEL: Compression = Compression::fast();

/// Compresses one response, or one message of it.
struct Encoder {
    kind: Kind,
    _held: Lease,
}

enum Kind {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding, load: &Arc<Load>) -> Option<Self> {
        if load.is_memory_scarce() {
            return None;
        }
        let held = load.lease(ENCODER_BYTES)?;
        Some(Encoder {
            kind: match coding {
                Coding::Gzip => Kind::Gzip(GzEncoder::new(Vec::new(), LEVEL)),
                Coding::Deflate => Kind::Deflate(ZlibEncoder::new(Vec::new(), LEVEL)),
            },
            _held: held,
        })
    }

    fn step(&mut self, input: &[u8]) -> Result<Vec<u8>, axum::Error> {
        let (written, out) = match &mut self.kind {
            Kind::Gzip(encoder) => (encoder.write_all(input), encoder.get_mut()),
            Kind::Deflate(encoder) => (encoder.write_all(input), encoder.get_mut()),
        };
        written.map_err(axum::Error::new)?;
        Ok(std::mem::take(out))
    }

    fn finish(self) -> Result<Vec<u8>, axum::Error> {
        let rest = match self.kind {
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Deflate(encoder) => encoder.finish(),
        };
        rest.map_err(axum::Error::new)
    }
}

/// Compresses an HTTP response that is complete and large enough. A stream is left as it is: the encoder would hold back what
/// is written until there is more.
pub(super) fn pack(mut response: Response, coding: Coding, load: &Arc<Load>) -> Response {
    let length = response.body().size_hint().exact();
    let worth = length.is_some_and(|it| it >= WORTH_BYTES as u64);
    if !worth || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let Some(encoder) = Encoder::new(coding, load) else {
        return response;
    };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, coding.name());
    let vary = HeaderValue::from_static("accept-encoding");
    headers.append(header::VARY, vary);
    response.map(|body| {
        Body::new(Packed {
            body,
            encoder: Some(encoder),
            input: Bytes::new(),
            budget: Budget::default(),
        })
    })
}

/// Compresses the messages of a gRPC response that are large enough.
pub(super) fn pack_messages(mut response: Response, coding: Coding, load: &Arc<Load>) -> Response {
    if response.body().is_end_stream() {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(GRPC_ENCODING, coding.name());
    response.map(|body| {
        Body::new(PackedMessages {
            body,
            coding,
            load: Arc::clone(load),
            input: Bytes::new(),
            head: Coming::default(),
            message: Message::None,
            budget: Budget::default(),
        })
    })
}

type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

struct Packed {
    body: Body,
    /// None once everything is written.
    encoder: Option<Encoder>,
    input: Bytes,
    budget: Budget,
}

impl http_body::Body for Packed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        loop {
            ready!(this.budget.poll(task));
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            let out = if this.input.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(task)) {
                    Some(Ok(frame)) => {
                        this.input = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => match this.encoder.take().map(Encoder::finish) {
                        Some(rest) => rest?,
                        None => continue,
                    },
                }
            } else {
                let part = this.input.split_to(this.input.len().min(STEP_BYTES));
                this.budget.spend(part.len());
                encoder.step(&part)?
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}

struct PackedMessages {
    body: Body,
    coding: Coding,
    load: Arc<Load>,
    input: Bytes,
    head: Coming,
    message: Message,
    budget: Budget,
}

/// What follows a head.
enum Message {
    None,
    /// So many more bytes, uncompressed.
    Plain(usize),
    /// So many more bytes, with their encoder and its output so far.
    Packed(usize, Box<Encoder>, Vec<u8>),
}

impl PackedMessages {
    /// Takes some of the input, and returns what can be written then.
    fn step(&mut self) -> Result<Option<Bytes>, axum::Error> {
        match std::mem::replace(&mut self.message, Message::None) {
            Message::None => {
                let Some(head) = self.head.take(&mut self.input) else {
                    return Ok(None);
                };
                let length = head.length();
                let worth = head.is_plain() && length >= WORTH_BYTES;
                let encoder = worth.then(|| Encoder::new(self.coding, &self.load));
                match encoder.flatten() {
                    Some(encoder) => {
                        self.message = Message::Packed(length, Box::new(encoder), Vec::new());
                        Ok(None)
                    }
                    None => {
                        self.message = plain(length);
                        Ok(Some(head.bytes()))
                    }
                }
            }
            Message::Plain(left) => {
                let part = self.input.split_to(left.min(self.input.len()));
                self.message = plain(left - part.len());
                Ok(Some(part))
            }
            Message::Packed(left, mut encoder, mut made) => {
                let part = left.min(self.input.len()).min(STEP_BYTES);
                let part = self.input.split_to(part);
                self.budget.spend(part.len());
                made.extend(encoder.step(&part)?);
                let left = left - part.len();
                if left > 0 {
                    self.message = Message::Packed(left, encoder, made);
                    return Ok(None);
                }
                made.extend(encoder.finish()?);
                let head = Head::new(true, made.len());
                let head = head.ok_or_else(|| axum::Error::new("a message of more than 4 GiB"))?;
                Ok(Some([&head.bytes(), made.as_slice()].concat().into()))
            }
        }
    }
}

fn plain(left: usize) -> Message {
    match left {
        0 => Message::None,
        left => Message::Plain(left),
    }
}

impl http_body::Body for PackedMessages {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        loop {
            ready!(this.budget.poll(task));
            if !this.input.is_empty() {
                if let Some(out) = this.step()? {
                    return Poll::Ready(Some(Ok(Frame::data(out))));
                }
                continue;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(task)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.input = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
    }
}
