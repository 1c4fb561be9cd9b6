//! What a stage with state is fed: payments of many cards, in the order of their times.

use std::{ops::Range, sync::Arc};

use quadrille_pipeline::Pipeline;
use quadrille_proto::{seal, v1::Record};
use rdkafka::producer::BaseRecord;

use crate::{
    broker::PARTITIONS,
    workload::{flush, keys, producer, seal_padded, send},
};

const PIPELINE: &str = include_str!("pipeline.toml");
const BEGIN_MS: i64 = 1_767_225_600_000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// A card's payments come in threes, so that the windows of an hour, a day and a week see different numbers of them; the week's begins
/// to forget after ten.
const WITHIN_THREE_MS: [i64; 3] = [0, 20 * MINUTE_MS, 5 * HOUR_MS];
const THREES_MS: i64 = 48 * HOUR_MS;
/// Prime, and so more or less random: cards take turns in an order that is nobody's.
const STRIDE: usize = 10_000_019;

pub fn pipeline_text(name: &str) -> String {
    PIPELINE.replacen(r#"name = "bench""#, &format!("name = {name:?}"), 1)
}

pub fn pipeline(name: &str) -> anyhow::Result<Arc<Pipeline>> {
    let text = pipeline_text(name);
    Ok(Arc::new(Pipeline::parse("pipeline.toml", &text)?))
}

/// Makes payloads.
pub struct Payments {
    pipeline: Arc<Pipeline>,
    /// For each partition.
    keys: Vec<Vec<String>>,
    bytes: usize,
    record: Record,
    payload: Vec<u8>,
}

impl Payments {
    /// Of so many cards in all; `bytes`: of a payload, about.
    pub fn new(pipeline: Arc<Pipeline>, cards: u64, bytes: u64) -> Self {
        let per_partition = cards.div_ceil(PARTITIONS as u64).max(1);
        Payments {
            pipeline,
            keys: keys(per_partition as usize),
            bytes: bytes as usize,
            record: Record::default(),
            payload: Vec::new(),
        }
    }

    /// Partition, key and payload of the `n`th record; partitions take turns.
    fn make(&mut self, n: u64) -> (i32, &str, &[u8]) {
        let partition = (n % PARTITIONS as u64) as usize;
        let turn = (n / PARTITIONS as u64) as usize;
        let keys = &self.keys[partition];
        let card = turn.wrapping_mul(STRIDE) % keys.len();
        let key = keys[card].as_str();
        let payment = turn / keys.len();
        let jitter_ms = (card as i64 % 30) * MINUTE_MS;
        let threes = (payment / 3) as i64 * THREES_MS;
        let record = &mut self.record;
        record.id = format!("01940a5e-0000-7000-8000-{n:012x}");
        record.key.clear();
        record.key.push_str(key);
        record.event_time_ms = BEGIN_MS + jitter_ms + threes + WITHIN_THREE_MS[payment % 3];
        // Quarters: their sums are exact however they are added, so that others' vectors can be compared.
        record.values = vec![(turn % 1_000) as f64 / 4.0];
        record.extra.clear();
        self.payload.clear();
        seal_padded(self.bytes, &mut self.payload, |payload, pad| {
            if pad > 0 {
                let note = "-".repeat(pad.saturating_sub(r#"{"note":""}"#.len() + 2));
                record.extra = format!(r#"{{"note":"{note}"}}"#).into_bytes();
            }
            seal(self.pipeline.record_schema_id(), record, payload);
        });
        (partition as i32, key, &self.payload)
    }

    /// Sends the records of these numbers; returns the mean payload's bytes.
    pub fn preload(
        &mut self,
        servers: &str,
        topic: &str,
        numbers: Range<u64>,
    ) -> anyhow::Result<f64> {
        let producer = producer(servers)?;
        let mut bytes = 0;
        let records = numbers.end - numbers.start;
        for n in numbers {
            let (partition, key, payload) = self.make(n);
            bytes += payload.len();
            let record = BaseRecord::to(topic).partition(partition);
            send(&producer, record.key(key).payload(payload))?;
        }
        flush(&producer, topic)?;
        Ok(bytes as f64 / records.max(1) as f64)
    }
}
