//! The reference: a bare librdkafka exactly-once copy pump, as fast as we know how to write one.
//!
//! Lanes as the stages have them: a thread with one group member and one transactional producer,
//! whose events a thread of its own serves in long polls; deliveries are counted in the producer's
//! context, and the lane waits for the last one before it commits (any other way of waiting costs
//! 100 ms a commit, or a core). It copies key and payload to the same partition, or as many bytes as
//! a stage with state writes there and to its changelog, and does nothing else: no decoding, no headers,
//! no timestamps, no limits, no recovery. Any error ends it.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::{
    broker::{Broker, PARTITIONS, client, wait_until},
    report::{Measured, Meter},
};

const TRANSACTION_RECORDS: usize = 5_000;
/// How long an event thread sleeps when nothing happens; an event wakes it at once.
const EVENT_WAIT: Duration = Duration::from_millis(500);
const IDLE_WAIT: Duration = Duration::from_millis(100);
const KAFKA_WITHIN: Duration = Duration::from_secs(30);
const ROUND_WITHIN: Duration = Duration::from_secs(600);

/// What is pumped where.
pub struct Pump<'a> {
    pub broker: &'a Broker,
    pub input: &'a str,
    pub output: &'a str,
    pub group: &'a str,
    pub lanes: usize,
    pub records: u64,
    pub writes: Writes,
}

/// What is written for a record.
#[derive(Debug, Clone)]
pub enum Writes {
    /// The record.
    Copies,
    Sized(Sizes),
}

/// As many records and bytes as another contender wrote; their content is the input's, cut or filled.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub payload_bytes: usize,
    pub changelog: String,
    /// Of each record, on average.
    pub changes: f64,
    pub change_key_bytes: usize,
    pub change_payload_bytes: usize,
}

/// What is too short is replaced by this.
static FILLER: [u8; 64 << 10] = [b'-'; 64 << 10];

fn sized(bytes: Option<&[u8]>, size: usize) -> &[u8] {
    let own = bytes.and_then(|bytes| bytes.get(..size));
    own.unwrap_or_else(|| &FILLER[..size.min(FILLER.len())])
}

/// Shared by the lanes.
struct Progress {
    meter: Meter,
    committed: AtomicU64,
    stop: AtomicBool,
}

impl Pump<'_> {
    /// Copies all records.
    pub fn run(&self) -> anyhow::Result<Measured> {
        let progress = Arc::new(Progress {
            meter: Meter::start(self.broker)?,
            committed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        // All are there before one joins the group: a member that comes later costs the others their
        // generation, and with it the transaction they are in.
        let lanes = (0..self.lanes)
            .map(|index| self.lane(index))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let lanes: Vec<JoinHandle<anyhow::Result<()>>> = lanes
            .into_iter()
            .enumerate()
            .map(|(index, lane)| {
                let progress = Arc::clone(&progress);
                let thread = std::thread::Builder::new().name(format!("reference-{index}"));
                thread.spawn(move || {
                    let result = lane.run(&progress);
                    // One lane's failure ends all.
                    progress.stop.fetch_or(result.is_err(), Ordering::SeqCst);
                    result
                })
            })
            .collect::<Result<_, _>>()?;
        let every = Duration::from_millis(1);
        let done = wait_until("the reference", ROUND_WITHIN, every, || {
            let stopped = progress.stop.load(Ordering::SeqCst);
            Ok(stopped || progress.committed.load(Ordering::SeqCst) >= self.records)
        });
        let measured = progress.meter.finish(self.broker, self.records);
        progress.stop.store(true, Ordering::SeqCst);
        for lane in lanes {
            match lane.join() {
                Ok(result) => result?,
                Err(_) => bail!("a lane of the reference panicked"),
            }
        }
        done.and(measured)
    }

    fn lane(&self, index: usize) -> anyhow::Result<Lane> {
        let servers = self.broker.servers();
        let consumer: BaseConsumer = client(servers)
            .set("group.id", self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.queue.backoff.ms", "2")
            .create()?;
        Ok(Lane {
            producer: Events::connect(servers, &format!("{}-{index}", self.group))?,
            consumer,
            input: self.input.to_owned(),
            output: self.output.to_owned(),
            writes: self.writes.clone(),
        })
    }
}

struct Lane {
    producer: Events,
    consumer: BaseConsumer,
    input: String,
    output: String,
    writes: Writes,
}

impl Lane {
    fn run(&self, progress: &Progress) -> anyhow::Result<()> {
        let (producer, consumer) = (&self.producer, &self.consumer);
        consumer.subscribe(&[&self.input])?;
        let mut next = [None; PARTITIONS as usize];
        while !progress.stop.load(Ordering::Relaxed) {
            let sent = self.copy(consumer, producer, &mut next, progress)?;
            if sent > 0 {
                self.commit(consumer, producer, &mut next)?;
                progress.committed.fetch_add(sent as u64, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Polls up to a transaction's worth and sends it; returns how many.
    ///
    /// Polling first and sending in one go fills the client's batches: one fifth faster, at less CPU, than
    /// sending each record as it is polled (`linger.ms` above 0 mends that too, but delays the commit).
    fn copy(
        &self,
        consumer: &BaseConsumer,
        producer: &Events,
        next: &mut [Option<i64>],
        progress: &Progress,
    ) -> anyhow::Result<usize> {
        let mut batch = Vec::with_capacity(TRANSACTION_RECORDS);
        while batch.len() < TRANSACTION_RECORDS {
            let wait = if batch.is_empty() {
                IDLE_WAIT
            } else {
                Duration::ZERO
            };
            match consumer.poll(wait) {
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => return Err(error).context("the reference polls"),
                None => break,
            }
        }
        if batch.is_empty() {
            return Ok(0);
        }
        progress.meter.first_record();
        producer.client.begin_transaction()?;
        let mut due = 0.0;
        for message in &batch {
            let (key, payload) = (message.key(), message.payload());
            let partition = message.partition();
            match &self.writes {
                Writes::Copies => producer.send(&self.output, partition, key, payload)?,
                Writes::Sized(sizes) => {
                    let vector = Some(sized(payload, sizes.payload_bytes));
                    producer.send(&self.output, partition, key, vector)?;
                    due += sizes.changes;
                    while due >= 1.0 {
                        let key = Some(sized(payload, sizes.change_key_bytes));
                        let row = Some(sized(payload, sizes.change_payload_bytes));
                        producer.send(&sizes.changelog, partition, key, row)?;
                        due -= 1.0;
                    }
                }
            }
            let next = next.get_mut(message.partition() as usize);
            *next.context("a partition too many")? = Some(message.offset() + 1);
        }
        Ok(batch.len())
    }

    fn commit(
        &self,
        consumer: &BaseConsumer,
        producer: &Events,
        next: &mut [Option<i64>],
    ) -> anyhow::Result<()> {
        producer.outstanding.wait()?;
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in next.iter_mut().enumerate() {
            if let Some(next) = next.take() {
                let next = Offset::Offset(next);
                offsets.add_partition_offset(&self.input, partition as i32, next)?;
            }
        }
        let group = consumer.group_metadata().context("no group")?;
        let client = &producer.client;
        client.send_offsets_to_transaction(&offsets, &group, KAFKA_WITHIN)?;
        client.commit_transaction(KAFKA_WITHIN)?;
        Ok(())
    }
}

/// Deliveries that are not confirmed yet.
#[derive(Default)]
struct Outstanding {
    count: AtomicUsize,
    failed: Mutex<Option<String>>,
    changed: Condvar,
}

impl Outstanding {
    fn add(&self, records: usize) {
        self.count.fetch_add(records, Ordering::SeqCst);
    }

    fn wait(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + KAFKA_WITHIN;
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(reason) = failed.take() {
                bail!("not delivered: {reason}");
            }
            if self.count.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "not delivered within {KAFKA_WITHIN:?}");
            failed = match self.changed.wait_timeout(failed, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// The producer's callbacks.
struct Counted(Arc<Outstanding>);

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error.to_string());
            self.0.changed.notify_all();
        }
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            drop(self.0.failed.lock());
            self.0.changed.notify_all();
        }
    }
}

/// A producer and the thread that serves its events.
struct Events {
    client: Arc<BaseProducer<Counted>>,
    outstanding: Arc<Outstanding>,
    stop: Arc<AtomicBool>,
}

impl Events {
    fn connect(servers: &str, transactional_id: &str) -> anyhow::Result<Self> {
        let outstanding = Arc::new(Outstanding::default());
        let client: Arc<BaseProducer<Counted>> = Arc::new(
            client(servers)
                .set("transactional.id", transactional_id)
                .set("linger.ms", "0")
                .create_with_context(Counted(Arc::clone(&outstanding)))?,
        );
        client.init_transactions(KAFKA_WITHIN)?;
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn({
                let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        client.poll(EVENT_WAIT);
                    }
                }
            })?;
        Ok(Events {
            client,
            outstanding,
            stop,
        })
    }
}

impl Events {
    fn send(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::to(topic).partition(partition);
        record.key = key;
        record.payload = payload;
        self.outstanding.add(1);
        match self.client.send(record) {
            Ok(()) => Ok(()),
            Err((error, _)) => Err(error).context("the reference sends"),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // The thread ends after its last poll and drops the client.
        self.stop.store(true, Ordering::Relaxed);
    }
}
