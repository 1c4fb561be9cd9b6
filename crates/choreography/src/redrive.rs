//! Dead letters read back: listed, or sent once more to the topic they came from.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use quadrille_proto::DLQ_SUFFIX;
use quadrille_telemetry::traces::FORCE_HEADER;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::{Cluster, Headers, client::Plain, dlq};

/// Records in one transaction of a redrive.
const BATCH_RECORDS_MAX: usize = 500;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Why dead letters could not be read or sent.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("there is no topic {0}; a dead-letter topic is named <topic>{DLQ_SUFFIX}")]
    NoTopic(String),
    #[error("{0} is not a dead-letter topic: its name does not end in {DLQ_SUFFIX}")]
    NotDeadLetters(String),
    #[error("no more dead letters came from {topic} within {} s, at {at:?} of {end:?}", ANSWER_WITHIN.as_secs())]
    Stalled {
        topic: String,
        at: HashMap<i32, i64>,
        end: HashMap<i32, i64>,
    },
}

/// One dead letter, for people.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// Name and value, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl DeadLetter {
    /// The last value under a header's name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    pub fn class(&self) -> Option<&str> {
        self.header(dlq::CLASS)
    }

    pub fn message(&self) -> Option<&str> {
        self.header(dlq::MESSAGE)
    }

    pub fn attempts(&self) -> Option<&str> {
        self.header(dlq::ATTEMPTS_HEADER)
    }

    /// `topic-partition-offset` where it failed.
    pub fn failed_at(&self) -> Option<String> {
        let place = [dlq::TOPIC, dlq::PARTITION, dlq::OFFSET].map(|name| self.header(name));
        let [Some(topic), Some(partition), Some(offset)] = place else {
            return None;
        };
        Some(format!("{topic}-{partition}-{offset}"))
    }
}

/// Reads all dead letters of a topic, partition by partition as they come, until its present end.
///
/// # Errors
/// The topic is not one of dead letters, or cannot be read.
pub fn list_dead_letters(
    cluster: &Cluster,
    topic: &str,
    mut each: impl FnMut(DeadLetter) -> ControlFlow<()>,
) -> Result<(), RedriveError> {
    let mut scan = Scan::open(cluster, topic, "quadrille.dlq.reader", Start::Beginning)?;
    while let Some(message) = scan.next()? {
        let letter = DeadLetter {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: Headers(message.headers())
                .iter()
                .map(|(name, value)| (name.into_owned(), value.unwrap_or_default().to_vec()))
                .collect(),
        };
        if each(letter).is_break() {
            break;
        }
    }
    Ok(())
}

/// Sends dead letters back where they came from, each once: the sends and the place reached in the
/// dead-letter topic are one transaction. A second redrive goes on where the first ended.
pub struct Redrive<'a> {
    pub cluster: &'a Cluster,
    pub topic: &'a str,
}

impl Redrive<'_> {
    /// Runs to the present end; calls `progress` with the count so far.
    ///
    /// # Errors
    /// Nothing of the transaction at fault is visible; what was reported to `progress` is done.
    pub fn run(&self, mut progress: impl FnMut(u64)) -> Result<u64, RedriveError> {
        let source = self
            .topic
            .strip_suffix(DLQ_SUFFIX)
            .ok_or_else(|| RedriveError::NotDeadLetters(self.topic.to_owned()))?;
        let name = format!("quadrille.redrive.{source}");
        let mut settings = self.cluster.client_config();
        settings
            .set("transactional.id", &name)
            .set("client.id", &name);
        let producer: BaseProducer = settings.create()?;
        // A redrive that was cut short is ended here, before its place is read.
        producer.init_transactions(ANSWER_WITHIN)?;
        let mut scan = Scan::open(self.cluster, self.topic, &name, Start::Committed)?;
        let mut total = 0;
        loop {
            let mut sent = 0;
            while sent < BATCH_RECORDS_MAX {
                let Some(message) = scan.next()? else { break };
                if sent == 0 {
                    producer.begin_transaction()?;
                }
                send_back(&producer, source, &message)?;
                sent += 1;
            }
            if sent == 0 {
                return Ok(total);
            }
            let group = scan
                .consumer
                .group_metadata()
                .ok_or_else(|| RedriveError::NoTopic(name.clone()))?;
            producer.send_offsets_to_transaction(&scan.reached()?, &group, ANSWER_WITHIN)?;
            producer.commit_transaction(ANSWER_WITHIN)?;
            total += sent as u64;
            progress(total);
        }
    }
}

/// The original bytes, key and headers; the errors' headers go, the attempts stay. It is traced from here on.
fn send_back(
    producer: &BaseProducer,
    source: &str,
    message: &BorrowedMessage<'_>,
) -> Result<(), KafkaError> {
    let headers = Headers(message.headers());
    let origin = headers
        .last_text(dlq::ORIGIN_HEADER)
        .map(str::to_owned)
        .or_else(|| {
            let place =
                [dlq::TOPIC, dlq::PARTITION, dlq::OFFSET].map(|name| headers.last_text(name));
            let [topic, partition, offset] = place;
            Some(format!("{}-{}-{}", topic?, partition?, offset?))
        });
    let attempts = dlq::attempts_before(headers).to_string();
    let mut back = OwnedHeaders::new();
    for (name, value) in headers.iter() {
        let ours = name.starts_with(dlq::CONNECT_PREFIX)
            || name.starts_with(dlq::SERVICE_PREFIX)
            || name == dlq::ORIGIN_HEADER
            || name == FORCE_HEADER;
        if !ours {
            back = back.insert(Header { key: &name, value });
        }
    }
    back = back.insert(Header {
        key: dlq::ATTEMPTS_HEADER,
        value: Some(&attempts),
    });
    // Whoever sends a record back wants to see what becomes of it.
    back = back.insert(Header {
        key: FORCE_HEADER,
        value: Some("1"),
    });
    if let Some(origin) = &origin {
        back = back.insert(Header {
            key: dlq::ORIGIN_HEADER,
            value: Some(origin),
        });
    }
    let topic = headers.last_text(dlq::TOPIC).unwrap_or(source);
    let partition = headers
        .last_text(dlq::PARTITION)
        .and_then(|text| text.parse().ok());
    let mut record = BaseRecord::<'_, [u8], [u8]>::to(topic)
        .partition(partition.unwrap_or_else(|| message.partition()))
        .headers(back);
    record.payload = message.payload();
    record.key = message.key();
    record.timestamp = message.timestamp().to_millis();
    producer.send(record).map_err(|(error, _)| error)
}

enum Start {
    Beginning,
    Committed,
}

/// Reads a topic from a start to the end it had when the scan began.
struct Scan {
    consumer: BaseConsumer<Plain>,
    topic: String,
    next: HashMap<i32, i64>,
    end: HashMap<i32, i64>,
}

impl Scan {
    fn open(
        cluster: &Cluster,
        topic: &str,
        group: &str,
        start: Start,
    ) -> Result<Self, RedriveError> {
        let mut settings = cluster.client_config();
        settings
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "8192")
            .set(
                "fetch.wait.max.ms",
                if cluster.embedded { "10" } else { "500" },
            );
        let consumer: BaseConsumer<Plain> = settings.create_with_context(Plain)?;
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN)?;
        let found = metadata
            .topics()
            .iter()
            .find(|t| t.name() == topic && t.error().is_none());
        let found = found.ok_or_else(|| RedriveError::NoTopic(topic.to_owned()))?;
        let partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition(topic, *partition);
        }
        let committed = match start {
            Start::Beginning => None,
            Start::Committed => Some(consumer.committed_offsets(list, ANSWER_WITHIN)?),
        };
        let (mut next, mut end) = (HashMap::new(), HashMap::new());
        let mut from = TopicPartitionList::new();
        for partition in partitions {
            let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN)?;
            let stored = committed
                .as_ref()
                .and_then(|list| list.find_partition(topic, partition));
            let start = match stored.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => offset.max(low),
                _ => low,
            };
            if start < high {
                from.add_partition_offset(topic, partition, Offset::Offset(start))?;
                next.insert(partition, start);
                end.insert(partition, high);
            }
        }
        consumer.assign(&from)?;
        Ok(Scan {
            consumer,
            topic: topic.to_owned(),
            next,
            end,
        })
    }

    fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>, RedriveError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while self
            .next
            .iter()
            .any(|(partition, next)| *next < self.end[partition])
        {
            match self.consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    if offset < self.end[&partition] {
                        self.next.insert(partition, offset + 1);
                        return Ok(Some(message));
                    }
                    self.next.insert(partition, self.end[&partition]);
                }
                // Past the last record only markers are left.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.next.insert(partition, self.end[&partition]);
                }
                Some(Err(error)) => return Err(error.into()),
                None if Instant::now() > deadline => {
                    return Err(RedriveError::Stalled {
                        topic: self.topic.clone(),
                        at: self.next.clone(),
                        end: self.end.clone(),
                    });
                }
                None => {}
            }
        }
        Ok(None)
    }

    fn reached(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.next {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))?;
        }
        Ok(list)
    }
}
