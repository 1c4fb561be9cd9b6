//! What the stages are fed: the bundled data's rows as sealed payloads of a chosen size.

use std::sync::Arc;

use anyhow::Context;
use quadrille_choreography::partition_of;
use quadrille_pipeline::Pipeline;
use quadrille_proto::{
    Service, seal,
    v1::{FeatureVector, Record},
};
use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};

use crate::broker::{PARTITIONS, client};

pub const PIMA: &str = include_str!("../../../data/pima.csv");
const DIABETES: &str = include_str!("../../../pipelines/diabetes.toml");
/// Entities of each partition.
const KEYS_PER_PARTITION: usize = 500;
const EVENT_TIME_MS: i64 = 1_767_225_600_000;

/// The text of the diabetes pipeline under another name: its topics are ours alone.
pub fn pipeline_text(name: &str) -> anyhow::Result<String> {
    let own = "name = \"diabetes\"\n";
    anyhow::ensure!(
        DIABETES.contains(own),
        "the diabetes pipeline changed its name"
    );
    Ok(DIABETES.replacen(own, &format!("name = \"{name}\"\n"), 1))
}

pub fn pipeline(name: &str) -> anyhow::Result<Arc<Pipeline>> {
    let text = pipeline_text(name)?;
    Ok(Arc::new(Pipeline::parse("diabetes.toml", &text)?))
}

/// Makes payloads.
pub struct Workload {
    pipeline: Arc<Pipeline>,
    /// Values in the record schema's order.
    rows: Vec<Vec<f64>>,
    /// For each partition, keys that belong there.
    keys: Vec<Vec<String>>,
    bytes: usize,
    record: Record,
    vector: FeatureVector,
    payload: Vec<u8>,
    /// Where preloaded records come with a trace context: of how many one is sampled, or none for 0.
    pub traced: Option<u64>,
}

impl Workload {
    /// `bytes`: of a payload, about; shorter ones are padded.
    pub fn new(pipeline: Arc<Pipeline>, bytes: usize) -> anyhow::Result<Self> {
        let mut csv = csv::Reader::from_reader(PIMA.as_bytes());
        let mut header = csv.headers()?.clone();
        header.push_field(pipeline.key_field());
        let columns = pipeline
            .csv_reader(&header)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        let mut rows = Vec::new();
        for row in csv.records() {
            let mut row = row?;
            row.push_field("p");
            let reading = pipeline.read_csv_row(&columns, &row, EVENT_TIME_MS);
            rows.push(reading.map_err(|e| anyhow::anyhow!("{e}"))?.values);
        }
        Ok(Workload {
            pipeline,
            rows,
            keys: keys(KEYS_PER_PARTITION),
            bytes,
            record: Record::default(),
            vector: FeatureVector::default(),
            payload: Vec::new(),
            traced: None,
        })
    }

    /// Key and payload of the `n`th record; partitions take turns.
    pub fn make(&mut self, service: Service, n: u64) -> (i32, &str, &[u8]) {
        let partition = (n % PARTITIONS as u64) as usize;
        let turn = (n / PARTITIONS as u64) as usize;
        let key = self.keys[partition][turn % KEYS_PER_PARTITION].as_str();
        let values = &self.rows[turn % self.rows.len()];
        let id = format!("01940a5e-0000-7000-8000-{n:012x}");
        self.payload.clear();
        match service {
            Service::Inference => {
                self.vector.id = id;
                self.vector.key = key.to_owned();
                self.vector.event_time_ms = EVENT_TIME_MS;
                self.pipeline
                    .features_of(values, &[], &mut self.vector.values);
                seal_padded(self.bytes, &mut self.payload, |payload, pad| {
                    // A feature vector has no room but in its id.
                    self.vector.id.push_str(&"-".repeat(pad));
                    seal(self.pipeline.feature_schema_id(), &self.vector, payload);
                });
            }
            _ => {
                self.record.id = id;
                self.record.key = key.to_owned();
                self.record.event_time_ms = EVENT_TIME_MS;
                self.record.values.clone_from(values);
                self.record.extra.clear();
                seal_padded(self.bytes, &mut self.payload, |payload, pad| {
                    let note = "-".repeat(pad.saturating_sub(r#"{"note":""}"#.len() + 2));
                    if pad > 0 {
                        self.record.extra = format!(r#"{{"note":"{note}"}}"#).into_bytes();
                    }
                    seal(self.pipeline.record_schema_id(), &self.record, payload);
                });
            }
        }
        (partition as i32, key, &self.payload)
    }

    /// Fills a topic; returns the mean payload's bytes.
    pub fn preload(
        &mut self,
        servers: &str,
        topic: &str,
        service: Service,
        range: std::ops::Range<u64>,
    ) -> anyhow::Result<f64> {
        self.feed(&producer(servers)?, topic, service, range)
    }

    /// As [`Workload::preload`], by a producer that is there already.
    pub fn feed(
        &mut self,
        producer: &Producer,
        topic: &str,
        service: Service,
        range: std::ops::Range<u64>,
    ) -> anyhow::Result<f64> {
        let (from, to) = (range.start, range.end);
        let mut bytes = 0;
        for n in range {
            let traced = self.traced;
            let (partition, key, payload) = self.make(service, n);
            bytes += payload.len();
            let mut record = BaseRecord::to(topic)
                .partition(partition)
                .key(key)
                .payload(payload);
            if let Some(every) = traced {
                let sampled = n.checked_rem(every) == Some(0);
                record = record.headers(traceparent(n, sampled));
            }
            send(producer, record).with_context(|| format!("preloading {topic}"))?;
        }
        flush(producer, topic)?;
        Ok(bytes as f64 / (to - from).max(1) as f64)
    }
}

type Producer = ThreadedProducer<DefaultProducerContext>;

/// Sends when there is room.
pub fn send(producer: &Producer, record: BaseRecord<'_, str, [u8]>) -> Result<(), KafkaError> {
    let mut record = record;
    while let Err((error, rejected)) = producer.send(record) {
        if !is_queue_full(&error) {
            return Err(error);
        }
        record = rejected;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(())
}

/// Waits until all is delivered.
pub fn flush(producer: &Producer, topic: &str) -> anyhow::Result<()> {
    producer
        .flush(std::time::Duration::from_secs(60))
        .with_context(|| format!("preloading {topic}"))
}

/// A context of its own for each record.
fn traceparent(n: u64, sampled: bool) -> OwnedHeaders {
    let value = format!("00-{:032x}-{:016x}-0{}", n + 1, n + 1, u8::from(sampled));
    OwnedHeaders::new_with_capacity(1).insert(Header {
        key: "traceparent",
        value: Some(&value),
    })
}

/// Seals once to learn the size, and again with padding where it is too small.
pub fn seal_padded(bytes: usize, payload: &mut Vec<u8>, mut seal: impl FnMut(&mut Vec<u8>, usize)) {
    seal(payload, 0);
    let pad = bytes.saturating_sub(payload.len());
    if pad > 0 {
        payload.clear();
        seal(payload, pad);
    }
}

pub fn is_queue_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull)
}

/// For each partition, so many keys that belong there.
pub fn keys(per_partition: usize) -> Vec<Vec<String>> {
    let mut keys = vec![Vec::new(); PARTITIONS as usize];
    let mut open = keys.len();
    for n in 0_u64.. {
        if open == 0 {
            break;
        }
        let key = format!("patient-{n:06}");
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let own: &mut Vec<String> = &mut keys[partition as usize];
        if own.len() < per_partition {
            own.push(key);
            open -= usize::from(own.len() == per_partition);
        }
    }
    keys
}

/// A producer for large portions.
pub fn producer(servers: &str) -> anyhow::Result<Producer> {
    Ok(client(servers)
        .set("linger.ms", "20")
        .set("batch.num.messages", "10000")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.kbytes", "65536")
        .create()?)
}

#[cfg(test)]
mod tests {
    use quadrille_proto::open;

    use super::*;

    #[test]
    fn payloads_have_the_size_asked_for_and_the_schemas_id() {
        let pipeline = pipeline("bench").unwrap();
        let mut workload = Workload::new(Arc::clone(&pipeline), 256).unwrap();
        for n in 0..2_000 {
            let (partition, key, payload) = workload.make(Service::Feature, n);
            assert!((254..=258).contains(&payload.len()), "{}", payload.len());
            assert_eq!(partition, partition_of(key.as_bytes(), PARTITIONS));
            assert_eq!(open(payload).unwrap().0, pipeline.record_schema_id());
            let (_, _, payload) = workload.make(Service::Inference, n);
            assert!((254..=258).contains(&payload.len()), "{}", payload.len());
            assert_eq!(open(payload).unwrap().0, pipeline.feature_schema_id());
        }
    }
}
