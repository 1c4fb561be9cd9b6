//! A compacted topic of one partition, read as a table: from its beginning to its end, and on.
//!
//! Records come in the order of the log, committed ones only. The reader knows up to which moment it has read
//! everything, says why where it cannot, and begins again when the topic was deleted and recreated.

pub mod fetch;
pub mod seek;
pub mod write;

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    types::RDKafkaRespErr,
};

pub use fetch::{fetch_record, fetch_records};
pub use seek::{Seeker, Sought};
pub use write::{TableWrite, write_table};

use crate::{
    Cluster,
    client::{self, LoggingContext},
};

/// How often the end of the log is asked for: a reader's knowledge is never older than this while Kafka answers.
const QUERY_EVERY: Duration = Duration::from_secs(2);
/// How often to check whether the topic is the same one still.
const IDENTIFY_EVERY: Duration = Duration::from_secs(10);
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A fetch that waits for news holds up the next question on its connection, and the news of having reached the end.
/// Ten idle fetches a second cost nothing to speak of.
const FETCH_WAIT_MS: &str = "100";
/// Bounds what was fetched and not yet taken: some of the models' largest records.
const QUEUE_KIB_MAX: &str = "8192";
/// A partition's share of one answer: a few chunks of a package. A larger record comes all the same.
const FETCH_BYTES_MAX: &str = "2097152";
/// Records of one [`TableReader::read`], so that its caller can look up between.
const READ_RECORDS_MAX: usize = 10_000;

/// One record of a table.
#[derive(Debug, Clone, Copy)]
pub struct TableRecord<'a> {
    pub offset: i64,
    pub key: &'a [u8],
    /// None: a tombstone, the key is deleted.
    pub value: Option<&'a [u8]>,
}

/// What reading a table brings.
#[derive(Debug, Clone, Copy)]
pub enum TableEvent<'a> {
    /// Everything read before is void: the topic was recreated and is read from its beginning.
    Restarted,
    Record(TableRecord<'a>),
}

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableState {
    /// On its way to the end.
    Reading,
    /// All that was committed at this moment has been read.
    Complete { as_of: Instant },
    /// There is no such topic.
    Missing { since: Instant },
    /// The topic has not been readable for a while.
    Unreadable { since: Instant, why: String },
}

/// A life of the client: from one assignment to the next.
struct Session {
    consumer: BaseConsumer<LoggingContext>,
    topic_id: Option<String>,
    identified_at: Instant,
    /// The offset from which it reads.
    start_offset: i64,
    /// The end of the log when the session began.
    end_at_start: i64,
}

/// A question for the end of the log, and its answer.
#[derive(Debug, Clone, Copy)]
struct EndQuery {
    at: Instant,
    end: i64,
    /// Where the reader was then.
    covered: i64,
}

/// A reader of one table.
pub struct TableReader {
    cluster: Cluster,
    topic: String,
    session: Option<Session>,
    /// The client of a session that could not begin.
    idle_client: Option<BaseConsumer<LoggingContext>>,
    /// Of the topic read so far; another one means another topic.
    topic_id: Option<String>,
    /// Everything before this offset has been read.
    covered: i64,
    end_query: Option<EndQuery>,
    next_query: Instant,
    state: TableState,
    /// It was said that the topic cannot be read.
    warned: bool,
}

impl TableReader {
    /// A reader that has not asked anything yet.
    pub fn new(cluster: &Cluster, topic: &str) -> Self {
        TableReader {
            cluster: cluster.clone(),
            topic: topic.to_owned(),
            session: None,
            idle_client: None,
            topic_id: None,
            covered: 0,
            end_query: None,
            next_query: Instant::now(),
            state: TableState::Reading,
            warned: false,
        }
    }

    pub fn state(&self) -> &TableState {
        &self.state
    }

    /// The offset before which everything has been read.
    pub fn next_offset(&self) -> i64 {
        self.covered
    }

    /// Fetches nothing until the next read, which asks for the end first: for tables that are read now and then.
    pub fn suspend(&mut self) {
        self.end_session();
    }

    /// Reads what is there, waiting up to `wait` where nothing is. Failures show in [`TableReader::state`].
    pub fn read(&mut self, wait: Duration, mut each: impl FnMut(TableEvent<'_>)) {
        let begun = Instant::now();
        if self.session.is_none() || begun >= self.next_query {
            self.next_query = begun + QUERY_EVERY;
            if let Err(error) = self.query_end(&mut each) {
                self.fail(error.to_string());
                // The topic may be gone: the next question looks for it first.
                self.end_session();
            }
        }
        match &self.session {
            Some(_) => self.drain(wait, &mut each),
            // Nothing to wait for but the next question.
            None => std::thread::sleep(wait.min(self.next_query - begun)),
        }
        self.update_state();
    }

    /// Opens a session where there is none, asks for the end, and finds out whether the topic is the same one.
    fn query_end(&mut self, each: &mut impl FnMut(TableEvent<'_>)) -> Result<(), KafkaError> {
        let at = Instant::now();
        let Some(session) = &mut self.session else {
            return self.open(each);
        };
        let (_, end) = session
            .consumer
            .fetch_watermarks(&self.topic, 0, ANSWER_WITHIN)?;
        let unreadable = matches!(self.state, TableState::Unreadable { .. });
        if end < self.covered || unreadable || session.identified_at.elapsed() > IDENTIFY_EVERY {
            session.identified_at = at;
            let id = topic_id(&self.cluster, &session.consumer, &self.topic);
            if end < self.covered || (id.is_some() && id != session.topic_id) {
                self.end_session();
                return self.open(each);
            }
        }
        let stuck = |end_query: &EndQuery| {
            end_query.end == end && self.covered < end && end_query.covered == self.covered
        };
        if self.end_query.as_ref().is_some_and(stuck) {
            // Nothing came although there is something; or only what compaction has emptied.
            match session.start_offset == self.covered {
                // Nothing ever came to this client. One that was made and assigned while Kafka was unreachable answered
                // questions for offsets for minutes after Kafka's return, and fetched nothing (2.12.1).
                true => self.session = None,
                false => self.end_session(),
            }
            return self.open(each);
        }
        self.end_query = Some(EndQuery {
            at,
            end,
            covered: self.covered,
        });
        Ok(())
    }

    /// Begins a session where the last one ended, or at the beginning of a topic that is another.
    fn open(&mut self, each: &mut impl FnMut(TableEvent<'_>)) -> Result<(), KafkaError> {
        let at = Instant::now();
        let mut consumer = match self.idle_client.take() {
            Some(consumer) => consumer,
            None => consumer(&self.cluster)?,
        };
        let there = exists(&consumer, &self.topic);
        if !matches!(there, Ok(true)) {
            // The same client asks again: making one every time costs threads and connections.
            self.idle_client = Some(consumer);
            there?;
            let since = match self.state {
                TableState::Missing { since } => since,
                _ => {
                    let advice = "create it with `quadrille topics create`";
                    tracing::warn!(topic = self.topic, advice, "topic is missing");
                    at
                }
            };
            self.end_query = None;
            self.state = TableState::Missing { since };
            return Ok(());
        }
        let topic_id = topic_id(&self.cluster, &consumer, &self.topic);
        // Before the assignment: an end that is reported after it is not older.
        let (_, end) = consumer.fetch_watermarks(&self.topic, 0, ANSWER_WITHIN)?;
        let other = topic_id.is_some() && self.topic_id.is_some() && topic_id != self.topic_id;
        if other || end < self.covered {
            tracing::warn!(
                topic = self.topic,
                "topic was recreated; reading it from the beginning"
            );
            self.covered = 0;
            self.state = TableState::Reading;
            // What the old client knows of the partition is the other topic's.
            consumer = self::consumer(&self.cluster)?;
            each(TableEvent::Restarted);
        }
        let from = match self.covered {
            0 => Offset::Beginning,
            covered => Offset::Offset(covered),
        };
        assign(&consumer, &self.topic, 0, from)?;
        self.topic_id = topic_id.clone().or(self.topic_id.take());
        self.end_query = Some(EndQuery {
            at,
            end,
            covered: self.covered,
        });
        self.session = Some(Session {
            consumer,
            topic_id,
            identified_at: at,
            start_offset: self.covered,
            end_at_start: end,
        });
        Ok(())
    }

    /// Keeps the client for the next session.
    fn end_session(&mut self) {
        if let Some(session) = self.session.take()
            && session.consumer.unassign().is_ok()
        {
            self.idle_client = Some(session.consumer);
        }
    }

    fn drain(&mut self, wait: Duration, each: &mut impl FnMut(TableEvent<'_>)) {
        let mut wait = wait;
        for _ in 0..READ_RECORDS_MAX {
            let Some(session) = &self.session else { return };
            let Some(polled) = session.consumer.poll(wait) else {
                break;
            };
            wait = Duration::ZERO;
            match polled {
                Ok(message) if message.offset() < self.covered => {}
                Ok(message) => {
                    self.covered = message.offset() + 1;
                    each(TableEvent::Record(record(&message)));
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    self.covered = self.covered.max(session.end_at_start);
                }
                Err(error) if is_out_of_range(&error) => {
                    tracing::warn!(topic = self.topic, %error, "the next offset is not in the log any more; reading the topic from the beginning");
                    self.session = None;
                    self.covered = 0;
                    self.state = TableState::Reading;
                    self.end_query = None;
                    self.next_query = Instant::now();
                    each(TableEvent::Restarted);
                    return;
                }
                // The client retries by itself; the next query of the end shows whether it can.
                Err(error) => tracing::debug!(topic = self.topic, %error, "poll of a table failed"),
            }
        }
        // Markers of transactions take offsets, too.
        self.covered = self.covered.max(self.position().unwrap_or(0));
    }

    fn position(&self) -> Option<i64> {
        let position = self.session.as_ref()?.consumer.position().ok()?;
        match position.find_partition(&self.topic, 0)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    fn fail(&mut self, why: String) {
        let since = match &self.state {
            TableState::Unreadable { since, .. } => *since,
            TableState::Complete { as_of } => *as_of,
            TableState::Reading | TableState::Missing { .. } => Instant::now(),
        };
        // A topic made just now has no leader for a moment.
        if since.elapsed() > QUERY_EVERY && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(topic = self.topic, why, "topic cannot be read");
        }
        self.end_query = None;
        self.state = TableState::Unreadable { since, why };
    }

    fn update_state(&mut self) {
        let Some(end_query) = self.end_query else {
            return;
        };
        if self.covered >= end_query.end {
            self.state = TableState::Complete {
                as_of: end_query.at,
            };
            self.warned = false;
        } else if !matches!(self.state, TableState::Complete { .. }) {
            // A complete one that is behind says how old its knowledge is.
            self.state = TableState::Reading;
        }
    }
}

fn record<'a>(message: &'a BorrowedMessage<'_>) -> TableRecord<'a> {
    TableRecord {
        offset: message.offset(),
        key: message.key().unwrap_or_default(),
        value: message.payload(),
    }
}

/// Whether the log has no such offset any more.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    let codes = [
        RDKafkaErrorCode::AutoOffsetReset,
        RDKafkaErrorCode::OffsetOutOfRange,
    ];
    error
        .rdkafka_error_code()
        .is_some_and(|code| codes.contains(&code))
}

/// The group of clients outside any group: the client needs one; it is never joined and nothing is committed.
pub(crate) const READER_GROUP: &str = "quadrille.table.reader";

/// A client for one partition, outside any group.
fn consumer(cluster: &Cluster) -> Result<BaseConsumer<LoggingContext>, KafkaError> {
    let mut settings = cluster.client_config();
    settings
        .set("group.id", READER_GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", FETCH_WAIT_MS)
        .set("fetch.message.max.bytes", FETCH_BYTES_MAX)
        .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
        // A full queue is looked at again soon: its default of a second would be a megabyte a second.
        .set("fetch.queue.backoff.ms", "5");
    settings.create_with_context(LoggingContext)
}

fn assign(
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    partition: i32,
    from: Offset,
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, from)?;
    consumer.assign(&list)
}

fn exists(consumer: &BaseConsumer<LoggingContext>, topic: &str) -> Result<bool, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let unknown = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
    ];
    match found.map(|found| found.error()) {
        None => Ok(false),
        Some(Some(error)) if unknown.contains(&error) => Ok(false),
        Some(Some(error)) => Err(KafkaError::MetadataFetch(error.into())),
        Some(None) => Ok(true),
    }
}

/// None where there is none, or no answer: then it is asked again.
pub(crate) fn topic_id(
    cluster: &Cluster,
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
) -> Option<String> {
    let described = client::describe(cluster, consumer.client(), &[topic], ANSWER_WITHIN);
    described.ok()?.pop()?.id
}

/// Reads a table once, to the end it has when the call begins.
///
/// # Errors
/// There is no such topic, or its end was not reached `within` this time.
pub fn read_table(
    cluster: &Cluster,
    topic: &str,
    within: Duration,
    mut each: impl FnMut(TableEvent<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    let mut table = TableReader::new(cluster, topic);
    let mut flow = ControlFlow::Continue(());
    loop {
        table.read(Duration::from_millis(100), |event| {
            if flow.is_continue() {
                flow = each(event);
            }
        });
        let why = match table.state() {
            TableState::Complete { .. } => return Ok(()),
            TableState::Missing { .. } => return Err(Error::Missing(topic.to_owned())),
            TableState::Unreadable { why, .. } => why.clone(),
            TableState::Reading => format!(
                "only offsets before {} were read, not up to its end",
                table.next_offset()
            ),
        };
        if flow.is_break() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Unreadable {
                topic: topic.to_owned(),
                within,
                why,
            });
        }
    }
}

/// Why a table was not read to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no topic {0}; create it with `quadrille topics create`")]
    Missing(String),
    #[error("topic {topic} could not be read within {} s: {why}; check KAFKA_BOOTSTRAP_SERVERS and KAFKA_PROPERTIES", within.as_secs())]
    Unreadable {
        topic: String,
        within: Duration,
        why: String,
    },
}
