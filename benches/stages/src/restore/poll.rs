//! A changelog read by bare consumers that keep nothing of it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::{
    broker::{Broker, PARTITIONS, client},
    process,
    report::Measured,
};

const READ_WITHIN: Duration = Duration::from_secs(30);

/// Reads all partitions to their ends, each of the threads its share of them.
pub fn run(broker: &Broker, topic: &str, threads: u32, expected: u64) -> anyhow::Result<Measured> {
    let cpu = process::cpu_of(std::process::id())?;
    let since = Instant::now();
    let counts: anyhow::Result<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads as i32)
            .map(|first| scope.spawn(move || read(broker, topic, first, threads as usize)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(count) => count,
            Err(_) => bail!("a reader panicked"),
        });
        joined.collect()
    });
    let seconds = since.elapsed().as_secs_f64();
    let cpu = process::cpu_of(std::process::id())?.saturating_sub(cpu);
    let count: u64 = counts?.iter().sum();
    ensure!(
        count == expected,
        "{count} of {expected} changes were polled"
    );
    Ok(Measured {
        per_second: count as f64 / seconds,
        cpu_per_million: cpu.as_secs_f64() / count as f64 * 1e6,
        broker_per_million: None,
    })
}

fn read(broker: &Broker, topic: &str, first: i32, step: usize) -> anyhow::Result<u64> {
    let consumer: BaseConsumer = client(broker.servers())
        // Never joined; the client wants a name.
        .set("group.id", format!("{topic}.poll"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "2")
        .create()?;
    let mut own = TopicPartitionList::new();
    for partition in (first..PARTITIONS).step_by(step) {
        own.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&own)?;
    let (mut count, mut bytes, mut open) = (0, 0, own.count());
    while open > 0 {
        match consumer.poll(READ_WITHIN) {
            Some(Ok(message)) => {
                count += 1;
                bytes += message.key_len() + message.payload_len();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error).with_context(|| format!("polling {topic}")),
            None => bail!("{topic} was not polled to its end"),
        }
    }
    std::hint::black_box(bytes);
    Ok(count)
}
