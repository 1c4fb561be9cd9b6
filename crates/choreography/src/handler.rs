//! What a service author writes, and what the loop hands over and takes back.

mod delivered;
mod output;

use std::{
    borrow::Cow,
    ffi::{CStr, CString},
    fmt,
    time::Instant,
};

use rdkafka::message::BorrowedHeaders;

pub(crate) use self::output::{Emitted, Outcome};
pub use self::{
    delivered::Delivered,
    output::{Destination, Output, OutputKey},
};
use crate::{LaneId, OffsetRange, native};

/// Why a record could not be handled: in a dead letter's headers, and as a label of its metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// A short stable name, a metric's label: `not_json`, `unknown_schema`.
    pub class: &'static str,
    /// For people: what is wrong and what would mend it.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

/// What a failure means for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// It may work later: the batch is handled again after a wait, then the record is dead-lettered.
    Retry(Cause),
    /// It never will: the record is dead-lettered.
    DeadLetter(Cause),
    /// Not the record's fault: nothing of the batch is kept, and the lane begins again from the committed offsets, with what it had
    /// restored once more.
    Restart(Cause),
    /// The service cannot go on: it stops with exit code 1.
    Fatal(Cause),
}

impl Error {
    pub fn retry(class: &'static str, message: impl Into<String>) -> Self {
        Error::Retry(Cause {
            class,
            message: message.into(),
        })
    }

    pub fn dead_letter(class: &'static str, message: impl Into<String>) -> Self {
        Error::DeadLetter(Cause {
            class,
            message: message.into(),
        })
    }

    pub fn restart(class: &'static str, message: impl Into<String>) -> Self {
        Error::Restart(Cause {
            class,
            message: message.into(),
        })
    }

    pub fn fatal(class: &'static str, message: impl Into<String>) -> Self {
        Error::Fatal(Cause {
            class,
            message: message.into(),
        })
    }
}

/// A record's headers.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a>(pub(crate) Option<&'a BorrowedHeaders>);

impl<'a> Headers<'a> {
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The last value under a name, as Kafka clients resolve it.
    pub fn last(&self, name: &str) -> Option<&'a [u8]> {
        native::header_last(self.0?, &CString::new(name).ok()?)
    }

    /// As [`Headers::last`], without an allocation: for what is asked of every record.
    pub fn last_under(&self, name: &CStr) -> Option<&'a [u8]> {
        native::header_last(self.0?, name)
    }

    /// The last value under a name, where it is UTF-8.
    pub fn last_text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.last(name)?).ok()
    }

    /// All headers, in the order of the record; a value may be null (None).
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Option<&'a [u8]>)> + use<'a> {
        let headers = self.0;
        (0..).map_while(move |index| native::header_at(headers?, index))
    }
}

/// One record as it came, borrowed from the client's buffer.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// None: the record has no key.
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch: the producer's time, or the broker's with `message.timestamp.type=LogAppendTime`.
    pub timestamp_ms: Option<i64>,
    pub headers: Headers<'a>,
    /// When the batch it came in was complete.
    pub polled_at: Instant,
}

/// A decoded record and where it came from.
pub struct Item<'a, R> {
    pub record: &'a R,
    pub incoming: &'a Incoming<'a>,
}

/// A service's work. One handler per lane; it is called from that lane's thread only.
///
/// ```
/// use std::time::Instant;
///
/// use quadrille_choreography::{Handler, Headers, Incoming, Item, Output, handler::Error};
///
/// /// Doubles numbers; what is no number is a dead letter.
/// struct Double;
///
/// impl Handler for Double {
///     type Record = i64;
///
///     fn decode(&mut self, incoming: &Incoming<'_>, record: &mut i64) -> Result<(), Error> {
///         let text = std::str::from_utf8(incoming.payload.unwrap_or_default());
///         let number = text.ok().and_then(|text| text.parse().ok());
///         *record = number.ok_or_else(|| Error::dead_letter("no_number", "send digits"))?;
///         Ok(())
///     }
///
///     fn handle(&mut self, items: &[Item<'_, i64>], output: &mut Output) {
///         for item in items {
///             let doubled = (item.record * 2).to_string();
///             output.emit(|payload| payload.extend_from_slice(doubled.as_bytes()));
///         }
///     }
/// }
///
/// // As the loop calls it: a handler can be tested without Kafka.
/// let incoming = Incoming {
///     topic: "numbers",
///     partition: 0,
///     offset: 7,
///     key: None,
///     payload: Some(b"21"),
///     timestamp_ms: None,
///     headers: Headers::default(),
///     polled_at: Instant::now(),
/// };
/// let (mut handler, mut record, mut output) = (Double, 0, Output::default());
/// handler.decode(&incoming, &mut record).unwrap();
/// handler.handle(&[Item { record: &record, incoming: &incoming }], &mut output);
/// assert_eq!(output.payload(0), Some(&b"42"[..]));
/// ```
pub trait Handler: Send + 'static {
    /// What a payload decodes to. Values are reused from batch to batch.
    type Record: Default + Send;

    /// Whether it can handle records. A lane joins its group only once this is true, so that other replicas have the
    /// partitions meanwhile; then it is not asked again.
    fn is_ready(&self) -> bool {
        true
    }

    /// Called before a batch is handed over, whole or in parts, and again before each retry of it.
    fn begin(&mut self) {}

    /// Decodes one record into `record`, which holds an earlier one's data. A failure is that record's alone.
    ///
    /// # Errors
    /// As [`Error`].
    fn decode(&mut self, incoming: &Incoming<'_>, record: &mut Self::Record) -> Result<(), Error>;

    /// Decides every item, in order, by exactly one outcome of `output` each ([`Output::emit`] and its kin, [`Output::absorb`] or
    /// [`Output::fail`]); another number stops the service. A batch may be handed over again, whole or in
    /// parts, when its transaction did not commit.
    fn handle(&mut self, items: &[Item<'_, Self::Record>], output: &mut Output);

    /// Where the handler keeps results and offsets itself; with [`crate::CommitMode::Store`], and only then.
    fn store(&mut self) -> Option<&mut dyn OffsetStore> {
        None
    }

    /// Whether it keeps state for each partition. Then a partition's records wait until the state is restored
    /// ([`Handler::restore`]), and a record whose output cannot be sent leaves no trace in it: the batch is handled again
    /// without it.
    fn keeps_state(&self) -> bool {
        false
    }

    /// These partitions were assigned to the lane.
    fn assigned(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// Restores the state of a partition that was just assigned, as of the input offset `next` (None: nothing was committed
    /// yet). Called repeatedly until it is done, between the batches of other partitions; it should return within a few
    /// milliseconds.
    ///
    /// No commit of an earlier owner is under way any more: `next` is stable. What such a commit wrote is in the log, but
    /// the marker that ends its transaction may still come: the state is complete once the log's present end has been
    /// passed, the high watermark, not the last stable offset.
    ///
    /// # Errors
    /// `Retry` is retried for as long as it takes; any other error stops the service.
    fn restore(&mut self, partition: i32, next: Option<i64>) -> Result<Restore, Error> {
        let _ = (partition, next);
        Ok(Restore::Done)
    }

    /// Lanes, of this replica and of others, that have said of themselves that they hold the state of this partition; this lane may be
    /// among them. Asked while the partition's restore comes no further: such a lane may have died within a transaction, which holds up
    /// what the restore waits for. It is ended at once, unless the lane is a member of the group; with none it is waited for until Kafka
    /// ends it.
    fn claimants(&self, partition: i32) -> Vec<LaneId> {
        let _ = partition;
        Vec::new()
    }

    /// These partitions were revoked: their state belongs to another lane now.
    fn revoked(&mut self, partitions: &[i32]) {
        let _ = partitions;
    }

    /// What was decided since [`Handler::begin`] is durable; where its outputs ended, a state's changelog among them.
    fn committed(&mut self, delivered: &Delivered) {
        let _ = delivered;
    }

    /// What was decided since [`Handler::begin`] is not durable and never will be: undo it.
    fn aborted(&mut self) {}

    /// The last call of [`Handler::handle`] panicked: undo what it changed. Its record, the only one of that call, becomes a
    /// dead letter.
    fn panicked(&mut self) {}

    /// Called between batches, about ten times a second.
    fn tick(&mut self) {}
}

/// How far a partition's state is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    Done,
    /// In records of the log, or whatever the handler counts.
    Pending {
        done: u64,
        total: u64,
    },
}

/// For each partition the offset to read next; None where nothing was stored yet.
pub type ClaimedOffsets = Vec<(i32, Option<i64>)>;

/// Asked during a long call: whether the service is stopping and the caller no longer waits for the result.
pub type Cancelled<'a> = &'a dyn Fn() -> bool;

/// How a handler's own store shows in traces.
#[derive(Debug, Clone)]
pub struct StoreSpan {
    /// Operation and target: `INSERT predictions`.
    pub name: &'static str,
    /// `db.*` of the conventions.
    pub attributes: Vec<(&'static str, &'static str)>,
}

/// Results and the input's offsets kept together outside Kafka, in one transaction of theirs.
///
/// Each lane has a store of its own. It knows of a partition what it claimed or committed itself, so that a lane that was
/// frozen while its partition moved cannot commit in its successor's name.
pub trait OffsetStore {
    /// Asks at which offsets newly assigned partitions continue. Does not block: None while the answer is pending; call again
    /// with the same partitions.
    ///
    /// # Errors
    /// `Retry` is retried for as long as it takes; any other error stops the service.
    fn claim(&mut self, partitions: &[i32]) -> Option<Result<ClaimedOffsets, Error>>;

    /// The offset at which a partition continues, as claimed or committed last. Earlier records are not handed over.
    fn next(&self, partition: i32) -> Option<i64>;

    /// Makes durable what the last `handle` decided, and each range's end as the next offset: all of it or nothing.
    ///
    /// # Errors
    /// `Retry` is retried for as long as it takes; `DeadLetter` means that another lane owns a partition now (this lane
    /// closes its clients and joins again); `Fatal` stops the service.
    fn commit(&mut self, ranges: &[OffsetRange], cancelled: Cancelled<'_>) -> Result<(), Error>;

    /// The partition's log was truncated before the stored offset: it continues at `next`, in a new generation of the log.
    /// The only way for an offset to go back.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`].
    fn truncated(
        &mut self,
        partition: i32,
        next: i64,
        cancelled: Cancelled<'_>,
    ) -> Result<(), Error>;

    /// How a commit shows in traces.
    fn describe(&self) -> Option<StoreSpan> {
        None
    }
}
