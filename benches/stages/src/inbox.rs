//! Records on the inbox at a fixed rate, on a schedule that waits for nobody.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::{
    broker::client,
    workload::{self, PIMA},
};

/// Entities the records are about.
const KEYS: u64 = 1_000;
const SENT_WITHIN: Duration = Duration::from_secs(30);

/// When each record is due, whatever became of those before it.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub start: Instant,
    pub per_second: u32,
}

impl Schedule {
    pub fn due(&self, n: u64) -> Instant {
        self.start + Duration::from_nanos(n * 1_000_000_000 / u64::from(self.per_second))
    }
}

/// Sends `total` records on schedule; returns how late the latest of them left.
///
/// A record's id is its number: see [`number_of`].
pub fn send(
    servers: &str,
    topic: &str,
    schedule: Schedule,
    total: u64,
) -> anyhow::Result<Duration> {
    let producer: ThreadedProducer<DefaultProducerContext> = client(servers)
        .set("linger.ms", "0")
        .set("enable.idempotence", "true")
        .create()?;
    let rows: Vec<&str> = PIMA.lines().skip(1).collect();
    let mut latest = Duration::ZERO;
    for n in 0..total {
        let due = schedule.due(n);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (key, json) = record(n, rows[n as usize % rows.len()]);
        let mut record = BaseRecord::to(topic).key(&key).payload(&json);
        // Faster than Kafka takes them: that is lateness, too.
        while let Err((error, rejected)) = producer.send(record) {
            ensure!(workload::is_queue_full(&error), "sending: {error}");
            record = rejected;
            std::thread::sleep(Duration::from_millis(1));
        }
        latest = latest.max(due.elapsed());
    }
    producer.flush(SENT_WITHIN)?;
    ensure!(producer.in_flight_count() == 0, "records were not sent");
    Ok(latest)
}

/// Key and JSON of a record, from a line of the bundled data.
fn record(n: u64, row: &str) -> (String, String) {
    let names = PIMA.lines().next().unwrap_or_default().split(',');
    let key = format!("p-{}", n % KEYS);
    let mut json = format!(r#"{{"id":"{n}","patient_id":"{key}""#);
    // The last column is the truth.
    for (name, value) in names.zip(row.split(',')).take(8) {
        json.push_str(&format!(r#","{name}":{value}"#));
    }
    json.push('}');
    (key, json)
}

/// The number of the record that has this id.
pub fn number_of(id: &str) -> Option<u64> {
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_the_pipeline_reads() {
        let pipeline = crate::workload::pipeline("bench").unwrap();
        let (key, json) = record(7, PIMA.lines().nth(1).unwrap());
        let reading = pipeline.read_json(json.as_bytes(), 0).unwrap();
        assert_eq!(reading.key, key);
        assert_eq!(reading.id.as_deref().and_then(number_of), Some(7));
    }
}
