//! Compressed bodies of requests, decompressed as they arrive.
//!
//! Decompressed bytes count against the memory limit like received ones; the reader's own limit ends a body, and it is
//! decompressed no further than it is read. It never occupies a thread for long.

use std::{
    collections::VecDeque,
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http_body::{Body, Frame, SizeHint};

use super::{
    body::{Meter, Reading},
    budget::Budget,
    coding::Coding,
    cut::Cut,
    framing::{Coming, Head},
    load::Lease,
};
use crate::MessageMax;

/// Memory of a decoder: the window, the tables and a piece of the output.
const DECODER_BYTES: usize = 96 << 10;
/// Compressed data may be larger than what it holds by its frame, and by a few bytes for each piece that a sender
/// writes out by itself; far less than this. Without a bound a body of empty blocks never ends and is never too large.
const OVERHEAD_BYTES_MAX: u64 = 64 << 10;

/// Decompresses one body, or one message.
struct Decoder {
    kind: Kind,
    came: u64,
    made: u64,
    _held: Lease,
}

enum Kind {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Decoder {
    fn new(coding: Coding, meter: &Meter) -> Result<Self, Cut> {
        let held = meter.lease(DECODER_BYTES).ok_or(Cut::Memory)?;
        Ok(Decoder {
            kind: match coding {
                Coding::Gzip => Kind::Gzip(MultiGzDecoder::new(Vec::new())),
                Coding::Deflate => Kind::Deflate(ZlibDecoder::new(Vec::new())),
            },
            came: 0,
            made: 0,
            _held: held,
        })
    }

    /// Takes some of the input and returns what it decompresses to: some 32 KiB at most.
    fn step(&mut self, input: &mut Bytes) -> Result<Bytes, Cut> {
        let (written, out) = match &mut self.kind {
            Kind::Gzip(decoder) => (decoder.write(input), decoder.get_mut()),
            Kind::Deflate(decoder) => (decoder.write(input), decoder.get_mut()),
        };
        // After the end of the compressed data nothing is consumed: the rest is garbage.
        let written = written.ok().filter(|it| *it > 0).ok_or(Cut::Corrupt)?;
        let out = std::mem::take(out);
        let _ = input.split_to(written.min(input.len()));
        self.came += written as u64;
        self.made += out.len() as u64;
        match self.came > OVERHEAD_BYTES_MAX + 2 * self.made {
            true => Err(Cut::Corrupt),
            false => Ok(out.into()),
        }
    }

    /// The rest of the output; an error if the end is missing or the checksum is wrong.
    fn finish(self) -> Result<Bytes, Cut> {
        let rest = match self.kind {
            Kind::Gzip(decoder) => decoder.finish(),
            Kind::Deflate(decoder) => decoder.finish(),
        };
        rest.map(Bytes::from).map_err(|_| Cut::Corrupt)
    }
}

/// A decompressed HTTP body.
pub(crate) struct Inflated<B> {
    body: B,
    coding: Coding,
    /// Counts received bytes, until they are decompressed.
    raw: Arc<Meter>,
    /// Counts decompressed bytes.
    meter: Arc<Meter>,
    decoder: Option<Decoder>,
    input: Bytes,
    budget: Budget,
}

impl<B> Inflated<B> {
    pub fn new(body: B, coding: Coding, raw: Arc<Meter>, meter: Arc<Meter>) -> Self {
        Inflated {
            body,
            coding,
            raw,
            meter,
            decoder: None,
            input: Bytes::new(),
            budget: Budget::default(),
        }
    }

    fn step(&mut self) -> Result<Bytes, Cut> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new(self.coding, &self.meter)?),
        };
        let before = self.input.len();
        let out = decoder.step(&mut self.input)?;
        self.budget.spend(before - self.input.len() + out.len());
        self.meter.hold(out)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

impl<B> Body for Inflated<B>
where
    B: Body<Data = Bytes, Error = axum::Error> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        loop {
            ready!(this.budget.poll(task));
            let out = if this.input.is_empty() {
                this.raw.keep(0);
                match ready!(Pin::new(&mut this.body).poll_frame(task)) {
                    Some(Ok(frame)) => {
                        // Trailers are not used here.
                        this.input = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => match this.decoder.take() {
                        None => return Poll::Ready(None),
                        Some(decoder) => decoder.finish().and_then(|out| this.meter.hold(out)),
                    },
                }
            } else {
                this.step()
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Err(cut) => return Poll::Ready(Some(Err(this.meter.refuse(cut)))),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A gRPC body whose messages are each compressed, or not, as if none were.
pub(crate) struct InflatedMessages<B> {
    body: B,
    coding: Coding,
    meter: Arc<Meter>,
    reading: Reading,
    max: MessageMax,
    input: Bytes,
    head: Coming,
    message: Message,
    /// Ready to be handed out.
    out: VecDeque<Bytes>,
    budget: Budget,
}

/// What follows a head.
enum Message {
    None,
    /// So many more bytes, uncompressed.
    Plain(usize),
    /// So many more bytes, compressed; and what was decompressed so far.
    Packed(usize, Box<Decoder>, Vec<Bytes>),
}

impl<B> InflatedMessages<B> {
    pub fn new(
        body: B,
        coding: Coding,
        meter: Arc<Meter>,
        reading: Reading,
        max: MessageMax,
    ) -> Self {
        InflatedMessages {
            body,
            coding,
            meter,
            reading,
            max,
            input: Bytes::new(),
            head: Coming::default(),
            message: Message::None,
            out: VecDeque::new(),
            budget: Budget::default(),
        }
    }

    /// Takes some of the input.
    fn step(&mut self) -> Result<(), Cut> {
        match std::mem::replace(&mut self.message, Message::None) {
            Message::None => {
                let Some(head) = self.head.take(&mut self.input) else {
                    return Ok(());
                };
                let length = head.length();
                if !head.is_packed() {
                    self.out.push_back(head.bytes());
                    self.message = plain(length);
                } else if length > self.max.bytes {
                    return Err(Cut::TooLarge(self.max));
                } else {
                    let decoder = Box::new(Decoder::new(self.coding, &self.meter)?);
                    return self.packed(length, decoder, Vec::new());
                }
            }
            Message::Plain(left) => {
                let part = self.input.split_to(left.min(self.input.len()));
                self.message = plain(left - part.len());
                self.out.push_back(part);
            }
            Message::Packed(left, decoder, made) => return self.packed(left, decoder, made),
        }
        Ok(())
    }

    fn packed(
        &mut self,
        mut left: usize,
        mut decoder: Box<Decoder>,
        mut made: Vec<Bytes>,
    ) -> Result<(), Cut> {
        let mut part = self.input.slice(..left.min(self.input.len()));
        if !part.is_empty() {
            let before = part.len();
            let out = decoder.step(&mut part)?;
            let took = before - part.len();
            self.budget.spend(took + out.len());
            left -= took;
            let _ = self.input.split_to(took);
            if decoder.made > self.max.bytes as u64 {
                return Err(Cut::TooLarge(self.max));
            }
            made.push(self.meter.hold(out)?);
        }
        if left > 0 {
            self.message = Message::Packed(left, decoder, made);
            return Ok(());
        }
        made.push(self.meter.hold(decoder.finish()?)?);
        let length: usize = made.iter().map(Bytes::len).sum();
        if length > self.max.bytes {
            return Err(Cut::TooLarge(self.max));
        }
        let head = Head::new(false, length).ok_or(Cut::TooLarge(self.max))?;
        self.out.push_back(head.bytes());
        self.out
            .extend(made.into_iter().filter(|it| !it.is_empty()));
        Ok(())
    }
}

fn plain(left: usize) -> Message {
    match left {
        0 => Message::None,
        left => Message::Plain(left),
    }
}

impl<B> Body for InflatedMessages<B>
where
    B: Body<Data = Bytes, Error = axum::Error> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if this.reading == Reading::Messages
            && this.out.is_empty()
            && !matches!(this.message, Message::Packed(..))
        {
            // A reader that asks for more has taken the complete messages.
            this.meter.keep(0);
        }
        loop {
            if let Some(out) = this.out.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            ready!(this.budget.poll(task));
            if this.input.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(task)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => this.input = data,
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    },
                    None if this.head.has_begun()
                        || matches!(this.message, Message::Packed(..)) =>
                    {
                        return Poll::Ready(Some(Err(this.meter.refuse(Cut::Corrupt))));
                    }
                    None => return Poll::Ready(None),
                    error => return Poll::Ready(error),
                }
            } else if let Err(cut) = this.step() {
                return Poll::Ready(Some(Err(this.meter.refuse(cut))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::{HttpConfig, edge::load::Load};

    /// Comes in one piece.
    struct Once(Option<Bytes>);

    impl Body for Once {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn other_tasks_have_their_turn_while_a_large_body_is_decompressed() {
        const BYTES: usize = 32 << 20;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![b'x'; BYTES]).unwrap();
        let load = Arc::new(Load::new(&HttpConfig::default()));
        let meter = || Meter::new(Arc::clone(&load));
        let body = Once(Some(encoder.finish().unwrap().into()));
        let mut inflated = Inflated::new(body, Coding::Gzip, meter(), meter());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut task = Context::from_waker(&waker);
        let (mut turn, mut turns, mut made) = (0, 0, 0);
        loop {
            match Pin::new(&mut inflated).poll_frame(&mut task) {
                Poll::Ready(Some(frame)) => {
                    let bytes = frame.unwrap().into_data().unwrap().len();
                    (turn, made) = (turn + bytes, made + bytes);
                    // A turn, and the last step of it.
                    assert!(turn < (256 << 10) + (64 << 10), "{turn}");
                    assert!(load.body_bytes() >= made, "it is counted");
                }
                Poll::Pending => (turn, turns) = (0, turns + 1),
                Poll::Ready(None) => break,
            }
        }
        assert_eq!(made, BYTES);
        assert!(turns > 100 && woken.0.load(Ordering::Relaxed) == turns);
        drop(inflated);
        assert_eq!(load.body_bytes(), 0, "all is given back");
    }
}
