//! A user's own Kafka client: produces JSON to the inbox, reads topics back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use prost_types::{ListValue, Struct, Value, value::Kind};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{Header, Headers, OwnedHeaders, OwnedMessage},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{PATIENCE, world::World};

/// A good record's JSON.
pub fn record(id: &str, patient: &str, glucose: u32) -> String {
    format!(
        r#"{{"id":"{id}","patient_id":"{patient}","pregnant":6,"glucose":{glucose},"pressure":72,"triceps":35,"insulin":0,"mass":33.6,"pedigree":0.627,"age":50}}"#
    )
}

/// A record's JSON as gRPC takes it.
pub fn structure(json: &str) -> Struct {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).expect("JSON");
    Struct {
        fields: object.into_iter().map(|(k, v)| (k, value(v))).collect(),
    }
}

fn value(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().expect("a number")),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        other => panic!("{other}"),
    };
    Value { kind: Some(kind) }
}

/// A record for a topic.
#[derive(Default, Clone)]
pub struct Raw {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub timestamp_ms: Option<i64>,
}

impl Raw {
    pub fn json(key: &str, value: String) -> Self {
        Raw {
            key: Some(key.into()),
            value: Some(value.into_bytes()),
            ..Raw::default()
        }
    }
}

pub struct Client {
    producer: BaseProducer,
    bootstrap: String,
}

impl Client {
    pub fn new(world: &World) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &world.bootstrap)
            .set("message.max.bytes", "5000000")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer");
        Client {
            producer,
            bootstrap: world.bootstrap.clone(),
        }
    }

    /// Sends without waiting for the confirmation.
    pub fn send(&self, topic: &str, raw: &Raw) {
        loop {
            let mut record = BaseRecord::<'_, [u8], [u8]>::to(topic);
            record.key = raw.key.as_deref();
            record.payload = raw.value.as_deref();
            record.partition = raw.partition;
            record.timestamp = raw.timestamp_ms;
            if !raw.headers.is_empty() {
                let mut headers = OwnedHeaders::new();
                for (key, value) in &raw.headers {
                    headers = headers.insert(Header {
                        key,
                        value: Some(value),
                    });
                }
                record.headers = Some(headers);
            }
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, _)) => {
                    let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
                    assert_eq!(error.rdkafka_error_code(), Some(full), "{error}");
                    self.producer.poll(Duration::from_millis(10));
                }
            }
        }
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until all that was sent is confirmed.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).expect("Kafka confirms");
        assert_eq!(self.producer.in_flight_count(), 0);
    }

    /// All committed records of a topic, partition by partition in order.
    pub fn read(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "test-reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a consumer");
        let metadata = consumer
            .fetch_metadata(Some(topic), PATIENCE)
            .expect("metadata");
        let mut list = TopicPartitionList::new();
        let mut open: Vec<i32> = metadata.topics()[0]
            .partitions()
            .iter()
            .map(|p| p.id())
            .collect();
        for partition in &open {
            list.add_partition_offset(topic, *partition, Offset::Beginning)
                .expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        let deadline = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => found.push(message.detach()),
                Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|p| *p != partition),
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => {}
            }
            assert!(Instant::now() < deadline, "{topic} is read to its end");
        }
        found
    }
}

/// A header's last value, as text.
pub fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().filter(|header| header.key == name).last()?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// Watches a topic as a consumer would: when records arrive on each partition.
pub struct Watch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<HashMap<i32, Vec<Instant>>>,
}

impl Watch {
    pub fn start(world: &World, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &world.bootstrap)
            .set("group.id", "test-watch")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..world.partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut arrivals: HashMap<i32, Vec<Instant>> = HashMap::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                        arrivals
                            .entry(message.partition())
                            .or_default()
                            .push(Instant::now());
                    }
                }
                arrivals
            }
        });
        Watch { stop, thread }
    }

    /// The longest silence of any partition between its first and last arrival, after a moment.
    pub fn longest_pause(self, after: Instant) -> Duration {
        let longest = self.pauses(after).into_iter().map(|(_, pause)| pause);
        longest.max().unwrap_or_default()
    }

    /// The silences of all partitions: how long after the moment each ended, and how long it was.
    pub fn pauses(self, after: Instant) -> Vec<(Duration, Duration)> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let arrivals = self.thread.join().expect("the watcher");
        let pauses = arrivals
            .values()
            .flat_map(|times| times.windows(2).collect::<Vec<_>>());
        pauses
            .filter(|pair| pair[1] > after)
            .map(|pair| (pair[1] - after, pair[1] - pair[0].max(after)))
            .collect()
    }
}
