//! One connection: its state, and when it is closed.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep},
};

use super::stalled;

/// How the HTTP/2 preface begins; no method of HTTP/1 does.
const HTTP2_BEGINS: &[u8] = b"PRI";
/// How long a connection that is being closed gets to tell the peer (GOAWAY, FIN).
pub(super) const CLOSE_WITHIN: Duration = Duration::from_millis(100);
/// How long to read and discard what still arrives after the last response is written.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BUFFER_BYTES: usize = 8 << 10;
/// How often a connection is checked while it has a request.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub header: Duration,
    pub idle: Duration,
}

/// The outcome of checking a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays, and is checked again then.
    Stays(Instant),
    /// It is closed gracefully.
    Goes,
    /// It is dropped: nobody is listening.
    Cut,
}

/// Requests whose bodies are waited for, each at its own place.
#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A body's place among those that its connection has looked at now and then.
#[derive(Debug)]
pub(super) struct Place {
    conn: Arc<Conn>,
    at: usize,
}

impl Place {
    /// Whom to wake.
    pub fn set(&self, waker: &Waker) {
        let mut waiting = self.conn.waiting();
        if let Some(kept) = waiting.wakers.get_mut(self.at)
            && !kept.as_ref().is_some_and(|kept| kept.will_wake(waker))
        {
            *kept = Some(waker.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.conn.waiting();
        if let Some(kept) = waiting.wakers.get_mut(self.at) {
            *kept = None;
            waiting.free.push(self.at);
        }
    }
}

/// The state of a connection. Shared by its task, its requests and the search for one to close.
#[derive(Debug)]
pub(crate) struct Conn {
    /// The origin of all times here.
    opened: Instant,
    /// Requests whose responses are not written yet.
    active: AtomicU32,
    /// Milliseconds since `opened`: when the last request ended.
    idle_since: AtomicU64,
    /// Milliseconds since `opened`, plus one: when the head of a request began to arrive; 0 if none is arriving.
    head_since: AtomicU64,
    http2: AtomicBool,
    asked: AtomicBool,
    closing: AtomicBool,
    waiting: Mutex<Waiting>,
    pub(super) close: Notify,
    /// For probes only.
    pub reserved: bool,
    /// Over the loopback interface.
    pub loopback: bool,
}

impl Conn {
    pub fn new(reserved: bool, loopback: bool) -> Self {
        Conn {
            opened: Instant::now(),
            active: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            waiting: Mutex::default(),
            close: Notify::new(),
            reserved,
            loopback,
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.opened);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a body whenever the connection is checked. A timer for each body would cost a call more
    /// than its model: it wakes the runtime's driver.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        let mut waiting = self.waiting();
        let at = waiting.free.pop().unwrap_or_else(|| {
            waiting.wakers.push(None);
            waiting.wakers.len() - 1
        });
        Place {
            conn: Arc::clone(self),
            at,
        }
    }

    fn wake_waiting(&self) {
        for waker in self.waiting().wakers.iter().flatten() {
            waker.wake_by_ref();
        }
    }

    /// A request has arrived; it is being answered until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.asked.store(true, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn end(&self, now: impl FnOnce() -> Instant) {
        // With other requests it is not idle, so the clock need not be read.
        let idle = || self.idle_since.store(self.ms(now()), Ordering::Relaxed);
        let seems_last = self.active.load(Ordering::Acquire) == 1;
        match seems_last {
            true => {
                idle();
                self.active.fetch_sub(1, Ordering::AcqRel);
            }
            false if self.active.fetch_sub(1, Ordering::AcqRel) == 1 => idle(),
            false => {}
        }
    }

    /// Bytes have arrived.
    fn came(&self, now: impl FnOnce() -> Instant, bytes: &[u8], first: bool) {
        if first && bytes.starts_with(HTTP2_BEGINS) {
            self.http2.store(true, Ordering::Relaxed);
        }
        // HTTP/2 sends frames between requests, too.
        if !self.http2.load(Ordering::Relaxed) && !self.is_active() {
            let now = self.ms(now()) + 1;
            let head = &self.head_since;
            let _ = head.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire) > 0
    }

    /// Since when it has had no request; None if it has one, or is being closed.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = !self.is_active() && !self.closing.load(Ordering::Relaxed);
        idle.then(|| self.at(self.idle_since.load(Ordering::Relaxed)))
    }

    /// Asks it to close.
    pub(super) fn ask_to_close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.close.notify_one();
    }

    /// Checks it, and all bodies that are being waited for.
    pub(super) fn look(&self, now: Instant, patience: Patience, every: Duration) -> Verdict {
        self.wake_waiting();
        match self.verdict(now, patience) {
            Verdict::Stays(until) => Verdict::Stays(until.min(now + every)),
            verdict => verdict,
        }
    }

    fn verdict(&self, now: Instant, patience: Patience) -> Verdict {
        if self.is_active() {
            return Verdict::Stays(now + LOOK_EVERY);
        }
        let head_since = self.head_since.load(Ordering::Relaxed);
        let http2 = self.http2.load(Ordering::Relaxed);
        // A silent client gets no more time than one that sends its head slowly.
        let head_began = match head_since {
            0 if http2 || self.asked.load(Ordering::Relaxed) => None,
            0 => Some(self.opened),
            ms => Some(self.at(ms - 1)),
        };
        if let Some(began) = head_began {
            let until = began + patience.header;
            return match now < until {
                true => Verdict::Stays(until),
                false => Verdict::Cut,
            };
        }
        let until = self.at(self.idle_since.load(Ordering::Relaxed)) + patience.idle;
        match now < until {
            // A head that begins in the meantime has less time than that.
            true => Verdict::Stays(until.min(now + patience.header.min(LOOK_EVERY))),
            false => Verdict::Goes,
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Conn>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end(Instant::now);
    }
}

/// A response that is not read at once.
#[derive(Debug)]
struct Slow {
    /// Which one: when the connection had none before.
    answer: u64,
    began: Instant,
    /// Taken since then.
    bytes: u64,
}

/// A connection's bytes: notes what arrives, and gives up when the client stops reading.
pub(super) struct Wire {
    stream: TcpStream,
    conn: Arc<Conn>,
    first: bool,
    /// How long written bytes may wait to be read by the client.
    timeout: Duration,
    /// Some while it waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Of a response over HTTP/1 that waited.
    slow: Option<Slow>,
    /// Some once nothing more is written.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub fn new(stream: TcpStream, conn: Arc<Conn>, timeout: Duration) -> Self {
        Wire {
            stream,
            conn,
            first: true,
            timeout,
            stalled: None,
            slow: None,
            lingering: None,
        }
    }

    fn watch(
        &mut self,
        written: Poll<io::Result<usize>>,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.stalled = None;
            if let (Some(slow), Ok(bytes)) = (&mut self.slow, &written) {
                slow.bytes += *bytes as u64;
            }
            return Poll::Ready(written);
        }
        let mut stalled = match self.stalled.take() {
            Some(stalled) => stalled,
            None => Box::pin(tokio::time::sleep(self.patience())),
        };
        let waited = stalled.as_mut().poll(task);
        self.stalled = Some(stalled);
        ready!(waited);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// How long to wait until the client reads more. HTTP/2's streams are watched one by one.
    fn patience(&mut self) -> Duration {
        if self.conn.http2.load(Ordering::Relaxed) {
            return self.timeout;
        }
        let (now, answer) = (Instant::now(), self.conn.idle_since.load(Ordering::Relaxed));
        let slow = match &mut self.slow {
            Some(slow) if slow.answer == answer => slow,
            slow => slow.insert(Slow {
                answer,
                began: now,
                bytes: 0,
            }),
        };
        stalled::left(slow.bytes, now.duration_since(slow.began), self.timeout)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(task, buffer))?;
        if let Some(came @ [_, ..]) = buffer.filled().get(before..) {
            this.conn.came(Instant::now, came, this.first);
            this.first = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(task, bytes);
        this.watch(written, task)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(task, slices);
        this.watch(written, task)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(task))?;
        }
        // A response sent before its request is complete, a refusal, is lost to a client that is still sending if the
        // socket is closed with unread bytes: the system then resets the connection.
        let until = || Box::pin(tokio::time::sleep(LINGER));
        let lingering = this.lingering.get_or_insert_with(until);
        let mut unread = [MaybeUninit::uninit(); LINGER_BUFFER_BYTES];
        loop {
            if lingering.as_mut().poll(task).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::uninit(&mut unread);
            let read = ready!(Pin::new(&mut this.stream).poll_read(task, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(300),
    };

    fn at(conn: &Conn, seconds: u64) -> Instant {
        conn.opened + Duration::from_secs(seconds)
    }

    /// What becomes of it so many seconds after it was opened.
    fn after(conn: &Conn, seconds: u64) -> Verdict {
        conn.verdict(at(conn, seconds), PATIENCE)
    }

    #[test]
    fn who_says_nothing_is_cut_after_the_time_of_a_head() {
        let conn = Conn::new(false, true);
        assert!(matches!(after(&conn, 9), Verdict::Stays(_)));
        assert_eq!(after(&conn, 10), Verdict::Cut);
    }

    #[test]
    fn a_head_that_drips_is_cut_also_after_other_requests() {
        let conn = Arc::new(Conn::new(false, true));
        conn.came(|| at(&conn, 0), b"GET / HTTP/1.1\r\n\r\n", true);
        std::mem::forget(conn.begin());
        conn.end(|| at(&conn, 5));
        assert!(matches!(after(&conn, 200), Verdict::Stays(_)));
        conn.came(|| at(&conn, 200), b"G", false);
        assert!(matches!(after(&conn, 206), Verdict::Stays(_)));
        conn.came(|| at(&conn, 206), b"E", false);
        assert_eq!(after(&conn, 210), Verdict::Cut);
    }

    #[test]
    fn an_idle_connection_goes_and_one_with_a_request_stays() {
        let conn = Arc::new(Conn::new(false, true));
        conn.came(|| at(&conn, 0), b"PRI * HTTP/2.0\r\n", true);
        assert!(matches!(after(&conn, 299), Verdict::Stays(_)));
        std::mem::forget(conn.begin());
        assert!(matches!(after(&conn, 3_600), Verdict::Stays(_)));
        assert_eq!(conn.idle_since(), None);
        conn.end(|| at(&conn, 3_600));
        assert_eq!(conn.idle_since(), Some(at(&conn, 3_600)));
        conn.came(|| at(&conn, 3_700), b"a ping", false);
        assert!(matches!(after(&conn, 3_899), Verdict::Stays(_)));
        assert_eq!(after(&conn, 3_900), Verdict::Goes);
    }
}
