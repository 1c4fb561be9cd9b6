//! The client of a reader, while it reads: which partition it reads now, and the questions for where partitions begin and end.

use std::{
    collections::BTreeMap,
    ffi::CString,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use super::{CLOCKS_DIFFER, Change, Error, Range, Reading, TOMBSTONES_KEPT, error};
use crate::{
    Cluster,
    client::LoggingContext,
    native::{self, Bound, Bounds, BoundsQuery},
    table::{READER_GROUP, is_out_of_range},
};

/// How long a question may take before it counts as not answered.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a partition may bring nothing before another one has its turn; doubled after each turn that brought nothing, as
/// a broker may take longer than that.
const QUIET_FIRST: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(2);
/// What is fetched ahead of the handler: some milliseconds' worth.
const QUEUE_KIB_MAX: &str = "16384";
const FETCH_BYTES_MAX: &str = "4194304";

/// The partition that the client reads.
struct Turn {
    partition: i32,
    /// Since when nothing came.
    quiet_since: Instant,
    brought: bool,
}

/// What a poll brought.
pub(super) enum Polled {
    /// Handed over.
    Change { next: i64 },
    /// The offset behind transaction markers that came, where something came since the turn began.
    Nothing { position: Option<i64> },
}

/// A question about several partitions; all of it must be answered.
struct Query {
    /// With the numbers of their readings.
    asked: Vec<(i32, u64)>,
    /// Begins, ends, and where not left out what is recent enough.
    parts: Vec<(BoundsQuery, Option<Bounds>)>,
}

pub(super) struct Session {
    // Before the client, which they belong to.
    query: Option<Query>,
    consumer: BaseConsumer<LoggingContext>,
    topic: String,
    topic_name: CString,
    turn: Option<Turn>,
    patience: Duration,
    is_embedded: bool,
}

impl Session {
    pub fn connect(cluster: &Cluster, topic: &str, fetch_wait_ms_max: &str) -> KafkaResult<Self> {
        let mut settings = cluster.consumer_config();
        settings
            .set("group.id", READER_GROUP)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("fetch.message.max.bytes", FETCH_BYTES_MAX)
            .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
            // A full queue is looked at again soon: by default the rest of a second passes.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", fetch_wait_ms_max);
        Ok(Session {
            query: None,
            consumer: settings.create_with_context(LoggingContext)?,
            topic_name: CString::new(topic)?,
            topic: topic.to_owned(),
            turn: None,
            patience: QUIET_FIRST,
            is_embedded: cluster.is_embedded(),
        })
    }

    /// Ends the client on a thread of its own: closing it takes a while.
    pub fn close(self) {
        let closing = thread::Builder::new().name("changelog-close".to_owned());
        if let Err(error) = closing.spawn(move || drop(self)) {
            // It ended with the thread that did not begin.
            tracing::debug!(%error, "no thread to close a changelog's client on");
        }
    }

    pub fn forget(&mut self, partition: i32) {
        if self
            .turn
            .as_ref()
            .is_some_and(|it| it.partition == partition)
        {
            self.turn = None;
        }
    }

    /// Asks for the bounds of partitions that have none, and takes the answers that are there.
    pub fn look_up(
        &mut self,
        readings: &mut BTreeMap<i32, Reading>,
        partition: i32,
    ) -> Result<(), Error> {
        if let Some(query) = &mut self.query {
            match query.answers() {
                None => return Ok(()),
                Some(answer) => {
                    let asked = std::mem::take(&mut query.asked);
                    self.query = None;
                    self.note(readings, asked, &answer);
                }
            }
        }
        let unknown = readings.iter().filter(|(_, it)| it.range.is_none());
        let unknown: Vec<(i32, u64)> = unknown.map(|(id, it)| (*id, it.number)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let stored = readings.values().any(|it| it.from.is_some());
        let query = self.ask(unknown, stored);
        self.query = Some(query.map_err(|error| error::kafka(&self.topic, partition, &error))?);
        Ok(())
    }

    fn ask(&self, asked: Vec<(i32, u64)>, stored: bool) -> KafkaResult<Query> {
        let partitions: Vec<i32> = asked.iter().map(|(partition, _)| *partition).collect();
        let mut bounds = vec![Bound::Begin, Bound::End];
        if stored && !self.is_embedded {
            bounds.push(Bound::Since(recent_ms()));
        }
        let client = self.consumer.client();
        let send = |bound| {
            BoundsQuery::send(client, &self.topic, &partitions, bound, ANSWER_WITHIN)
                .map(|query| (query, None))
        };
        let parts = bounds.into_iter().map(send).collect::<KafkaResult<_>>()?;
        Ok(Query { asked, parts })
    }

    /// Gives each partition its range, or why it has none. One that was given up and came back meanwhile is asked about again.
    fn note(
        &self,
        readings: &mut BTreeMap<i32, Reading>,
        asked: Vec<(i32, u64)>,
        answer: &KafkaResult<Vec<Bounds>>,
    ) {
        for (partition, number) in asked {
            let reading = readings.get_mut(&partition);
            let Some(reading) = reading.filter(|it| it.number == number) else {
                continue;
            };
            let range = match answer {
                Ok(answers) => self.range(partition, reading.from, answers),
                Err(error) => Err(error::kafka(&self.topic, partition, error)),
            };
            if let Ok(range) = &range {
                reading.next = range.start;
            }
            reading.range = Some(range);
        }
    }

    fn range(&self, partition: i32, from: Option<i64>, answers: &[Bounds]) -> Result<Range, Error> {
        let of = |bounds: &Bounds| -> Result<i64, Error> {
            let found = bounds.iter().find(|(of, _)| *of == partition);
            let offset = found.map(|(_, offset)| *offset);
            let code = match offset {
                Some(Ok(offset)) => return Ok(offset),
                Some(Err(code)) => code,
                None => RDKafkaErrorCode::UnknownPartition,
            };
            let error = KafkaError::OffsetFetch(code);
            Err(error::kafka(&self.topic, partition, &error))
        };
        let mut answers = answers.iter().map(of);
        let begin = answers.next().unwrap_or(Ok(0))?;
        let end = answers.next().unwrap_or(Ok(0))?;
        let kept = answers.next().transpose()?;
        // Where nothing is recent, -1, all that is behind the store is too old.
        let kept = kept.map(|kept| if kept < 0 { end } else { kept });
        Range::of((&self.topic, partition), from, (begin, end), kept)
    }

    /// Whether the client reads this partition; it does from now on, where no other one has its turn.
    pub fn take_turn(&mut self, partition: i32, next: i64) -> Result<bool, Error> {
        if let Some(turn) = &self.turn {
            if turn.partition == partition {
                return Ok(true);
            }
            if turn.quiet_since.elapsed() < self.patience {
                return Ok(false);
            }
            self.patience = match turn.brought {
                true => QUIET_FIRST,
                false => (self.patience * 2).min(QUIET_MAX),
            };
        }
        self.assign(&[(partition, next)])?;
        self.turn = Some(Turn {
            partition,
            quiet_since: Instant::now(),
            brought: false,
        });
        Ok(true)
    }

    /// Reads these partitions from these offsets, and no others.
    pub fn assign(&self, places: &[(i32, i64)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(places.len());
        let listed = places.iter().try_for_each(|(partition, next)| {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))
        });
        // Always the whole assignment: a consumer that was left with incremental ones is never destroyed, for
        // rd_kafka_destroy waits for ever (librdkafka 2.12.1).
        let assigned = listed.and_then(|()| self.consumer.assign(&list));
        let first = places.first().map(|(partition, _)| *partition);
        assigned.map_err(|error| error::kafka(&self.topic, first.unwrap_or_default(), &error))
    }

    /// The next record of any partition, waited for so long.
    pub fn next(&self, wait: Duration) -> Option<KafkaResult<Polling<'_>>> {
        let message = self.consumer.poll(wait)?;
        Some(message.map(|message| Polling {
            partition: message.partition(),
            message,
        }))
    }

    /// The offset behind what was polled of a partition, markers included; None where nothing was since it was assigned.
    pub fn position(&self, partition: i32) -> Option<i64> {
        native::position(self.consumer.client(), &self.topic_name, partition)
    }

    /// Where a partition ends, by the last fetch.
    pub fn end(&self, partition: i32) -> Option<i64> {
        native::cached_end(self.consumer.client(), &self.topic_name, partition)
    }

    /// Takes the next record of the partition whose turn it is, if one is there; all before `next` is read.
    pub fn poll(
        &mut self,
        partition: i32,
        next: i64,
        each: &mut impl FnMut(Change<'_>),
    ) -> Result<Polled, Error> {
        loop {
            let message = match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    // The client may go on behind records that it could not read: it is assigned anew, at the first that is missing.
                    self.turn = None;
                    return Err(self.failure(partition, next, &error));
                }
                None => {
                    let position = self.position(partition);
                    if position.is_some_and(|position| position > next) {
                        self.note_brought();
                    }
                    return Ok(Polled::Nothing { position });
                }
            };
            if message.partition() != partition || message.offset() < next {
                continue;
            }
            each(change(&message));
            let next = message.offset() + 1;
            drop(message);
            self.note_brought();
            return Ok(Polled::Change { next });
        }
    }

    fn note_brought(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.quiet_since = Instant::now();
            turn.brought = true;
        }
    }

    fn failure(&mut self, partition: i32, next: i64, error: &KafkaError) -> Error {
        if !is_out_of_range(error) {
            return error::kafka(&self.topic, partition, error);
        }
        let client = self.consumer.client();
        let begin = native::cached_watermarks(client, &self.topic_name, partition);
        Error::Truncated {
            topic: self.topic.clone(),
            partition,
            from: next,
            begin: begin.map_or(0, |(begin, _)| begin),
        }
    }
}

/// A record of some partition.
pub(super) struct Polling<'a> {
    pub partition: i32,
    message: BorrowedMessage<'a>,
}

impl Polling<'_> {
    pub fn change(&self) -> Change<'_> {
        change(&self.message)
    }
}

fn change<'a>(message: &'a BorrowedMessage<'_>) -> Change<'a> {
    Change {
        offset: message.offset(),
        key: message.key().unwrap_or_default(),
        payload: message.payload(),
        timestamp_ms: message.timestamp().to_millis(),
    }
}

impl Query {
    /// All answers, in the order of the questions; None while one is missing.
    fn answers(&mut self) -> Option<KafkaResult<Vec<Bounds>>> {
        for (query, answer) in &mut self.parts {
            if answer.is_none() {
                match query.answer()? {
                    Ok(bounds) => *answer = Some(bounds),
                    Err(code) => return Some(Err(KafkaError::OffsetFetch(code))),
                }
            }
        }
        let answers = self.parts.iter_mut().map(|(_, answer)| answer.take());
        Some(Ok(answers.map(Option::unwrap_or_default).collect()))
    }
}

/// Tombstones written since then are all there still, in ms.
fn recent_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ago = TOMBSTONES_KEPT.saturating_sub(CLOCKS_DIFFER);
    let then = now.unwrap_or_default().saturating_sub(ago);
    i64::try_from(then.as_millis()).unwrap_or_default()
}
