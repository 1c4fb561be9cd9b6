//! Batches of records that the client cannot read: which partition has one, and where it ends.
//!
//! librdkafka (2.12.1) reports such a batch by an error, goes back to its first offset, and reports it again, without
//! end. Its poll does not say whose error it is, and no error says where the batch ends. So a client of its own looks, at
//! one offset of one partition at a time, and only when something is wrong: `fetch.message.max.bytes=1` makes brokers
//! answer with exactly one batch, whole.
//!
//! - What does not decompress (damaged, of an unknown codec, or with zstd larger than `receive.message.max.bytes`) and what
//!   fails its checksum is reported with the batch's first offset, wherever in the batch the fetch began. So the batch
//!   ends where another one is reported, or none: found in twice the logarithm of its length.
//! - What is larger than `receive.message.max.bytes` as it lies there breaks the connection, and the error names no
//!   partition. A client that may receive it reads that one batch and knows its last offset.

use std::{
    ffi::CString,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    StageConfig,
    client::LoggingContext,
    native::{self, Event, Queue},
};

/// How long one look at one offset may take.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// How long all of them may take together: the lane does not poll meanwhile.
const SEARCH_WITHIN: Duration = Duration::from_secs(60);
/// The largest that the client takes (`receive.message.max.bytes`).
const RECEIVE_BYTES_MAX: &str = "2147483647";
/// How often to check whether something came.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A range of offsets that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub partition: i32,
    /// The first that is to be read.
    pub first: i64,
    pub last: i64,
    /// As the client says it.
    pub why: String,
}

/// Whether an error may be about a batch that the client cannot read, and not about the state of things.
pub(crate) fn is_suspect(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_of_a_batch)
}

fn is_of_a_batch(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::MessageSizeTooLarge
    )
}

/// What lies at one offset.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Probe {
    /// A record, or nothing: the end, or what retention has taken.
    Readable,
    /// Part of a batch that begins at `base`.
    Unreadable {
        base: i64,
        why: String,
    },
    /// A batch that cannot even be received.
    TooLarge(String),
    Unknown,
}

/// Looks at offsets.
pub(crate) struct Search<'a> {
    config: &'a StageConfig,
    deadline: Instant,
    /// Called now and then: the lane lives.
    progress: &'a dyn Fn(),
}

impl<'a> Search<'a> {
    pub fn new(config: &'a StageConfig, progress: &'a dyn Fn()) -> Self {
        Search {
            config,
            deadline: Instant::now() + SEARCH_WITHIN,
            progress,
        }
    }

    /// The batch at this offset of a partition, or at its beginning, if it cannot be read.
    ///
    /// # Errors
    /// No client could be made, or it was not found out in time.
    pub fn at(&self, partition: i32, first: Option<i64>) -> Result<Option<Unreadable>, KafkaError> {
        if Instant::now() > self.deadline {
            return Err(timed_out());
        }
        // Not by the lane's client, whose connection may break over and over.
        let reader = self.reader(None)?;
        let topic = &self.config.input;
        let first = match first {
            Some(first) => first,
            None => reader.fetch_watermarks(topic, partition, PROBE_WITHIN)?.0,
        };
        let found = |last, why| {
            Some(Unreadable {
                partition,
                first,
                last,
                why,
            })
        };
        match self.probe(&reader, partition, first)? {
            Probe::Readable => Ok(None),
            Probe::Unknown => Err(timed_out()),
            Probe::TooLarge(why) => {
                let last = self.last_of_too_large(partition, first)?;
                Ok(found(last, why))
            }
            Probe::Unreadable { base, why } => {
                let (_, end) = reader.fetch_watermarks(topic, partition, PROBE_WITHIN)?;
                let last = last_of(first, end, |offset| {
                    match self.probe(&reader, partition, offset)? {
                        Probe::Unreadable { base: other, .. } => Ok(other == base),
                        Probe::Readable => Ok(false),
                        // The next one, then.
                        Probe::TooLarge(_) => Ok(false),
                        Probe::Unknown => Err(timed_out()),
                    }
                })?;
                Ok(found(last, why))
            }
        }
    }

    /// A consumer as the lane's is, which reads one batch at a time.
    fn reader(
        &self,
        receive_bytes_max: Option<&str>,
    ) -> Result<BaseConsumer<LoggingContext>, KafkaError> {
        let mut settings = self.config.cluster.consumer_config();
        settings
            .set("client.id", format!("{}-looking", self.config.group))
            .set("group.id", &self.config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("fetch.message.max.bytes", "1")
            // Nothing more is fetched while one waits.
            .set("queued.min.messages", "1")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "10")
            .set("fetch.wait.max.ms", "10");
        if let Some(bytes) = receive_bytes_max {
            settings.set("receive.message.max.bytes", bytes);
        }
        settings.create_with_context(LoggingContext)
    }

    fn assign(
        &self,
        reader: &BaseConsumer<LoggingContext>,
        partition: i32,
        offset: i64,
    ) -> Result<Instant, KafkaError> {
        (self.progress)();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.config.input, partition, Offset::Offset(offset))?;
        reader.assign(&list)?;
        Ok((Instant::now() + PROBE_WITHIN).min(self.deadline))
    }

    fn probe(
        &self,
        reader: &BaseConsumer<LoggingContext>,
        partition: i32,
        offset: i64,
    ) -> Result<Probe, KafkaError> {
        let deadline = self.assign(reader, partition, offset)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match native::next_event(reader.client(), left) {
                Some(Event::Record(_)) => return Ok(Probe::Readable),
                Some(Event::Failed { code, place, why }) => match place {
                    Some((_, base)) if is_of_a_batch(code) => {
                        return Ok(Probe::Unreadable { base, why });
                    }
                    // No partition's: the client could not take the answer.
                    None if code == RDKafkaErrorCode::BadMessage => {
                        return Ok(Probe::TooLarge(why));
                    }
                    Some(_)
                        if matches!(
                            code,
                            RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset
                        ) =>
                    {
                        return Ok(Probe::Readable);
                    }
                    _ => tracing::debug!(
                        partition,
                        offset,
                        ?code,
                        why,
                        "a probe of an offset failed"
                    ),
                },
                Some(Event::Other) => {}
                None if left.is_zero() => return Ok(Probe::Unknown),
                None => {}
            }
        }
    }

    /// The last offset of the one batch that a reader without a limit gets.
    fn last_of_too_large(&self, partition: i32, first: i64) -> Result<i64, KafkaError> {
        let reader = self.reader(Some(RECEIVE_BYTES_MAX))?;
        // A queue for the partition alone: in the consumer's there are also log lines, which the client counts as records
        // when it looks whether that is full.
        let topic = CString::new(&*self.config.input)?;
        let queue = Queue::new(reader.client());
        queue.forward_from(reader.client(), &topic, partition);
        let deadline = self.assign(&reader, partition, first)?;
        loop {
            // What waits came with one answer: nothing is fetched while anything waits. At first that is a mark of the
            // client's own, without a record.
            let waiting = queue.len();
            if waiting == 0 {
                if Instant::now() > deadline {
                    return Err(timed_out());
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
            let mut last = None;
            for _ in 0..waiting {
                if let Some(Event::Record(offset)) = queue.next_event() {
                    last = Some(offset);
                }
            }
            if let Some(last) = last {
                return Ok(last.max(first));
            }
        }
    }
}

fn timed_out() -> KafkaError {
    KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)
}

/// The last offset, before `end`, of what `first` is part of.
fn last_of<E>(
    first: i64,
    end: i64,
    mut is_part: impl FnMut(i64) -> Result<bool, E>,
) -> Result<i64, E> {
    // `low` is part of it, `high` is not.
    let (mut low, mut high, mut step) = (first, end.max(first + 1), 1);
    while low + step < high {
        match is_part(low + step)? {
            true => {
                low += step;
                step = step.saturating_mul(2).min(i64::MAX / 4);
            }
            false => high = low + step,
        }
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match is_part(middle)? {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;
    use rdkafka::{
        ClientConfig,
        producer::{BaseProducer, BaseRecord, Producer as _},
    };

    use super::*;
    use crate::{Cluster, CommitMode, EmbeddedBroker, Limits, Retention, TopicSpec};

    proptest! {
        #[test]
        fn the_end_of_a_batch_is_found_in_twice_the_logarithm_of_its_length(
            first in 0..1_000_i64, more in 0..1_000_000_i64, behind in 1..1_000_i64
        ) {
            let last = first + more;
            let mut probes = 0;
            let found = last_of(first, last + behind, |offset| {
                probes += 1;
                Ok::<_, Infallible>(offset <= last)
            });
            prop_assert_eq!(found, Ok(last));
            prop_assert!(probes <= 2 * (64 - (more as u64).leading_zeros()) + 2, "{} probes", probes);
        }
    }

    /// A client's log lines wait in the queue of its records, and count there: nothing may depend on their number.
    #[test]
    fn a_batch_larger_than_may_be_received_is_found_with_its_end() {
        let broker = EmbeddedBroker::start().unwrap();
        let spec = TopicSpec {
            name: "in".to_owned(),
            partitions: 1,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        broker.create(&[spec]).unwrap();
        let cluster = broker.cluster().unwrap();
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("message.max.bytes", "10000000")
            .set("batch.size", "10000000")
            .set("linger.ms", "1000")
            .create()
            .unwrap();
        let send = |bytes: usize| {
            for _ in 0..3 {
                let part = vec![b'x'; bytes];
                let record = BaseRecord::<'_, [u8], [u8]>::to("in").payload(&part);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(Duration::from_secs(60)).unwrap();
        };
        // The broker keeps 5 MiB of a partition.
        for bytes in [700_000, 10, 700_000] {
            send(bytes);
        }
        let limit = "receive.message.max.bytes=2000000";
        let config = StageConfig {
            cluster: Cluster::new(cluster.bootstrap_servers(), limit).unwrap(),
            service: "feature",
            pipeline: "p".to_owned(),
            group: "g".to_owned(),
            input: "in".to_owned(),
            outputs: Vec::new(),
            instance: "i".to_owned(),
            lanes: 1,
            commit: CommitMode::Kafka,
            limits: Limits::default(),
            latency_objective: None,
        };
        let nothing = || {};
        let last = |first| {
            let found = Search::new(&config, &nothing).at(0, Some(first)).unwrap();
            found.map(|found| found.last)
        };
        assert_eq!((last(0), last(1)), (Some(2), Some(2)));
        assert_eq!((last(3), last(5)), (None, None));
        assert_eq!((last(6), last(8)), (Some(8), Some(8)));
        assert_eq!(last(9), None);
    }

    #[test]
    fn a_batch_that_is_the_last_ends_at_the_end() {
        let all = |_| Ok::<_, Infallible>(true);
        assert_eq!(last_of(7, 10, all), Ok(9));
        assert_eq!(last_of(7, 7, all), Ok(7));
    }
}
