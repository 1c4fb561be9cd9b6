//! A lane's producer: one thread serves its events, deliveries are counted, the lane waits for zero.
//!
//! A producer's `flush` polls in slices of 100 ms and waits out the last one, and the client's `commit_transaction` calls
//! it: with anything still in flight every commit takes 100 ms or more. So deliveries are counted, and a transaction is
//! committed only when none is outstanding.

mod deliveries;
mod ends;
mod tag;

use std::{
    cell::{Cell, OnceCell},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rdkafka::{
    config::ClientConfig,
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, BaseRecord, Producer},
};

pub(crate) use self::deliveries::DeliveryFailure;
use self::deliveries::{Deliveries, ProducerEvents};
pub(crate) use self::{ends::Ends, tag::Tag};
use crate::{
    StageConfig, client, dlq,
    native::{OutputTopic, TopicSettings},
    offsets::{OffsetSender, Offsets},
    transaction::{self, IN_DOUBT_AFTER, NotCommitted},
};

/// Ends a zombie's transaction on the broker; also the bound of one commit.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Offsets that are sent while their group's coordinator goes for good wait for a connection to come or go:
/// librdkafka (2.12.1) looks for the new coordinator only then. So connections that are not used go, and the wait ends;
/// where it does not, see `offsets.rs`.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);
/// How long the event thread sleeps when nothing happens; an event wakes it at once. Not shorter: waiting by `poll(1 ms)`
/// in a loop took more than a core at 100 records a second.
const EVENT_WAIT: Duration = Duration::from_millis(500);
/// What the transactions' coordinator has, however late a broker was found.
const ANSWER_MIN: Duration = Duration::from_millis(100);

/// Why a send was not taken.
pub(crate) enum Error {
    /// This record's own fault.
    TooLarge,
    Failed(Undelivered),
}

/// Why a batch is not delivered.
pub(crate) struct Undelivered {
    pub reason: String,
    /// Of the handler: trying again helps nobody.
    pub is_bug: bool,
}

impl From<String> for Undelivered {
    fn from(reason: String) -> Self {
        Undelivered {
            reason,
            is_bug: false,
        }
    }
}

/// A producer and the thread that serves its events.
pub(crate) struct LaneProducer {
    /// Of the topics it compresses; before the client, which they belong to.
    topics: Vec<TopicSettings>,
    /// Those that are sent to for every record; before the client, too.
    outputs: Vec<OutputTopic>,
    producer: Arc<BaseProducer<ProducerEvents>>,
    /// There once offsets were sent.
    offsets: OnceCell<OffsetSender>,
    deliveries: Arc<Deliveries>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// When the last transaction began.
    begun: Cell<Option<Instant>>,
    /// Not to be used again.
    unusable: Cell<bool>,
    /// A transaction that has been open for this long may have been ended by who took the lane's partitions over.
    succeeded_after: Duration,
    /// The most bytes of payload that wait for Kafka, but for one larger record.
    queue_bytes_max: usize,
    /// Sent since nothing was outstanding.
    queued_bytes: Cell<usize>,
}

impl LaneProducer {
    /// `message_bytes_max`: the largest record any topic it writes takes; `batch_bytes_max`: the smallest such limit.
    /// Dead letters are compressed, as the record may have been; of those the limit is [`dlq::LETTER_BYTES_MAX`].
    pub fn connect(
        config: &StageConfig,
        lane: usize,
        message_bytes_max: usize,
        batch_bytes_max: usize,
        ends: Ends,
    ) -> KafkaResult<Self> {
        let mut settings = config.cluster.client_config();
        let name = config.lane_name(lane);
        let queue_bytes_max = config.lane_buffer_bytes() * 2;
        let message_bytes_max = message_bytes_max.max(dlq::LETTER_WIRE_BYTES_MAX);
        // A record larger than the client's whole queue is refused as "queue full" forever; what waits in it is bounded by
        // `send`.
        let queue_kib = queue_bytes_max.max(message_bytes_max).div_ceil(1024);
        settings
            .set("client.id", &name)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            // The broker's limit is on the batch, compressed; the client's (`message.max.bytes`) on the record, uncompressed.
            // So a batch of small records must fit the smallest limit of the topics, and the largest record the client's.
            .set(
                "batch.size",
                batch_bytes_max.clamp(1, 1_000_000).to_string(),
            )
            .set(
                "message.max.bytes",
                message_bytes_max.clamp(1_000, 1_000_000_000).to_string(),
            )
            .set("queue.buffering.max.kbytes", queue_kib.to_string())
            .set("queue.buffering.max.messages", "200000");
        match config.commit.is_transactional() {
            true => {
                // By the same id after a restart: with a fresh one the open transaction of a killed predecessor stood in the
                // way for 14 to 19 s, with this one a partition went on after 5.9 s.
                transaction::settings(&mut settings, &name, TRANSACTION_TIMEOUT);
                let idle = "connections.max.idle.ms";
                if !config.cluster.properties.contains_key(idle) {
                    settings.set(idle, IDLE_CONNECTION_MAX.as_millis().to_string());
                }
            }
            false => {
                let timeout_ms = TRANSACTION_TIMEOUT.as_millis().to_string();
                settings
                    .set("message.timeout.ms", timeout_ms)
                    .set("retry.backoff.ms", "20");
            }
        }
        let mut producer = Self::start_noting(&settings, &format!("events-{lane}"), ends)?;
        producer.queue_bytes_max = queue_bytes_max;
        producer.succeeded_after = config.cluster.session_timeout();
        let dlq_topic = quadrille_proto::dlq_of(&config.input);
        let topic = TopicSettings::compressed(producer.producer.client(), &dlq_topic);
        producer
            .topics
            .push(topic.map_err(KafkaError::ClientCreation)?);
        for output in &config.outputs {
            let topic = OutputTopic::new(producer.producer.client(), &output.topic);
            producer
                .outputs
                .push(topic.map_err(KafkaError::ClientCreation)?);
        }
        Ok(producer)
    }

    /// A producer of these settings, its events served by a thread of this name.
    pub fn start(settings: &ClientConfig, thread_name: &str) -> KafkaResult<Self> {
        Self::start_noting(settings, thread_name, Ends::default())
    }

    /// As [`LaneProducer::start`]; where what is delivered ends is noted.
    fn start_noting(settings: &ClientConfig, thread_name: &str, ends: Ends) -> KafkaResult<Self> {
        let deliveries = Arc::new(Deliveries {
            ends,
            ..Deliveries::default()
        });
        let producer: Arc<BaseProducer<ProducerEvents>> =
            Arc::new(settings.create_with_context(ProducerEvents(Arc::clone(&deliveries)))?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn({
                let (producer, stop) = (Arc::clone(&producer), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Acquire) {
                        producer.poll(EVENT_WAIT);
                    }
                }
            });
        let thread = thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(LaneProducer {
            topics: Vec::new(),
            outputs: Vec::new(),
            producer,
            offsets: OnceCell::new(),
            deliveries,
            stop,
            thread: Some(thread),
            begun: Cell::new(None),
            unusable: Cell::new(false),
            succeeded_after: Duration::MAX,
            queue_bytes_max: usize::MAX,
            queued_bytes: Cell::new(0),
        })
    }

    pub fn init_transactions(&self, timeout: Duration) -> KafkaResult<()> {
        // With no broker connected yet the client would look for the coordinator in vain, and again after 500 ms.
        let begun = Instant::now();
        let _ = self.producer.client().fetch_cluster_id(timeout);
        let left = timeout.saturating_sub(begun.elapsed());
        self.producer.init_transactions(left.max(ANSWER_MIN))
    }

    pub fn begin(&self) -> KafkaResult<()> {
        self.producer.begin_transaction()?;
        self.begun.set(Some(Instant::now()));
        Ok(())
    }

    /// Whether it must not be used again: see [`transaction`]; or it failed for good.
    pub fn is_unusable(&self) -> bool {
        self.unusable.get()
    }

    pub fn mark_unusable(&self) {
        self.unusable.set(true);
    }

    /// Notes where the client has failed for good, and says why: nothing is sent by it any more.
    pub fn failed(&self) -> Option<String> {
        let (_, reason) = self.producer.client().fatal_error()?;
        self.mark_unusable();
        Some(reason)
    }

    /// What it says from now on is of no use to anyone.
    pub fn mark_replaced(&self) {
        self.deliveries.replaced.store(true, Ordering::Relaxed);
    }

    /// Whether an error says that another client uses this producer's id.
    pub fn is_fenced_by_other(&self, error: &KafkaError) -> bool {
        let open_for = self.begun.get().map(|begun| begun.elapsed());
        transaction::is_fenced_by_other(error, open_for, TRANSACTION_TIMEOUT)
    }

    /// Whether an error says that two clients contend for this producer's id: neither did Kafka end a transaction that took too long, nor
    /// a lane that of one which is no member of the group any more.
    pub fn is_fenced_by_rival(&self, error: &KafkaError) -> bool {
        let open_for = self.begun.get().map(|begun| begun.elapsed());
        let within = TRANSACTION_TIMEOUT.min(self.succeeded_after);
        transaction::is_fenced_by_other(error, open_for, within)
    }

    /// What an error means here: Kafka says "fenced" also of a transaction that it ended by its timeout.
    pub fn explain(&self, error: &KafkaError) -> String {
        if transaction::is_fenced(error) && !self.is_fenced_by_other(error) {
            let timeout_s = TRANSACTION_TIMEOUT.as_secs();
            return format!(
                "Kafka ended the transaction because it took longer than {timeout_s} s; the broker is slow, or this process stood still ({error})"
            );
        }
        error.to_string()
    }

    /// A call whose request may have been sent twice without a word leaves the producer unusable.
    fn timed(&self, call: impl FnOnce() -> KafkaResult<()>) -> KafkaResult<()> {
        let started = Instant::now();
        let result = call();
        if started.elapsed() >= IN_DOUBT_AFTER {
            self.mark_unusable();
        }
        result
    }

    /// There are few.
    fn output(&self, topic: &str) -> Option<&OutputTopic> {
        self.outputs.iter().find(|output| output.name == topic)
    }

    /// Queues a record; waits for room where the queue is full.
    pub fn send(&self, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), Error> {
        record.timestamp = client::timestamp(record.timestamp);
        let bytes = record.payload.map_or(0, <[u8]>::len);
        let queued_bytes = self.queued_bytes.get().saturating_add(bytes);
        if queued_bytes > self.queue_bytes_max {
            self.make_room(0);
            self.queued_bytes.set(bytes);
        } else {
            self.queued_bytes.set(queued_bytes);
        }
        self.deliveries.outstanding.fetch_add(1, Ordering::SeqCst);
        loop {
            let error = match self.output(record.topic) {
                Some(topic) => match topic.send(self.producer.client(), &mut record) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                None => match self.producer.send(record) {
                    Ok(()) => return Ok(()),
                    Err((error, rejected)) => {
                        record = rejected;
                        error
                    }
                },
            };
            if client::is_queue_full(&error) {
                let half = self.deliveries.outstanding.load(Ordering::SeqCst) / 2;
                // In slices: only the last delivery wakes the waiter.
                match self.deliveries.wait(half, Duration::from_millis(5)) {
                    Ok(()) | Err(None) => continue,
                    Err(Some(failure)) => {
                        self.deliveries.outstanding.fetch_sub(1, Ordering::SeqCst);
                        return Err(Error::Failed(failure.error.to_string().into()));
                    }
                }
            }
            self.deliveries.outstanding.fetch_sub(1, Ordering::SeqCst);
            return Err(if client::is_too_large(&error) {
                Error::TooLarge
            } else {
                Error::Failed(error.to_string().into())
            });
        }
    }

    /// Waits until at most `most` records are outstanding, or one failed, which the last wait reports.
    pub fn make_room(&self, most: i64) {
        let deliveries = &self.deliveries;
        while deliveries.outstanding.load(Ordering::SeqCst) > most {
            // In slices: only the last delivery wakes the waiter.
            if let Err(Some(failure)) = deliveries.wait(most / 2, Duration::from_millis(5)) {
                deliveries.failure().get_or_insert(failure);
                return;
            }
        }
    }

    /// Waits until all that was sent is confirmed.
    ///
    /// # Errors
    /// The first failure, or None where the time was up.
    pub fn wait_delivered(&self) -> Result<(), Option<DeliveryFailure>> {
        self.wait_delivered_within(TRANSACTION_TIMEOUT)
    }

    /// As [`LaneProducer::wait_delivered`], with patience of the caller's.
    pub fn wait_delivered_within(&self, timeout: Duration) -> Result<(), Option<DeliveryFailure>> {
        self.deliveries.wait(0, timeout)?;
        self.queued_bytes.set(0);
        Ok(())
    }

    /// After a failure, without a transaction that could be aborted: waits until Kafka has answered for the others, so
    /// that what is sent next is not taken for them.
    pub fn wait_reported(&self) {
        while let Err(Some(_)) = self.wait_delivered() {}
    }

    /// To be called before a batch is sent, when nothing is outstanding: what is delivered from now on is that batch's.
    pub fn forget_ends(&self) {
        self.deliveries.ends.clear();
    }

    /// Where what was delivered since then ended; to be called when all of it is confirmed.
    pub fn copy_ends(&self, next: &mut [i64]) {
        self.deliveries.ends.copy_to(next);
    }

    /// Takes the failures that were the records' own, of all that was sent: what the first failure kept from being sent
    /// is not among them.
    pub fn refused(&self) -> Vec<DeliveryFailure> {
        std::mem::take(&mut *self.deliveries.refused())
    }

    /// Sends offsets into the open transaction. Where that took long the producer is unusable.
    ///
    /// # Errors
    /// The client's, or the time was up; then the producer must not be used again.
    pub fn send_offsets(&self, offsets: &Arc<Offsets>) -> KafkaResult<()> {
        self.timed(|| self.sender()?.send(offsets))
    }

    fn sender(&self) -> KafkaResult<&OffsetSender> {
        if let Some(sender) = self.offsets.get() {
            return Ok(sender);
        }
        let producer = Arc::clone(&self.producer);
        let sender = OffsetSender::start("offsets", TRANSACTION_TIMEOUT, move |offsets| {
            producer.send_offsets_to_transaction(&offsets.list, &offsets.group, TRANSACTION_TIMEOUT)
        })?;
        Ok(self.offsets.get_or_init(|| sender))
    }

    /// Ends the open transaction, by an abort where it cannot be committed. To be called when nothing is outstanding:
    /// then it does not wait out the client's poll slice. Where it took long, or failed, the producer is unusable
    /// ([`LaneProducer::is_unusable`]).
    ///
    /// # Errors
    /// As [`NotCommitted`].
    pub fn commit(&self) -> Result<(), NotCommitted> {
        let committed = self.timed(|| self.producer.commit_transaction(TRANSACTION_TIMEOUT));
        let Err(error) = committed else {
            return Ok(());
        };
        let aborted = match &error {
            // The coordinator refused, or was not asked.
            KafkaError::Transaction(detail) if detail.txn_requires_abort() => self.abort().is_ok(),
            _ => false,
        };
        if aborted {
            return Err(NotCommitted::Aborted(error));
        }
        self.mark_unusable();
        Err(NotCommitted::InDoubt(error))
    }

    /// Aborts and forgets failures of what was aborted. The client waits here for delivery reports, which the event thread
    /// must poll meanwhile. Where it took long, or failed, the producer is unusable.
    pub fn abort(&self) -> KafkaResult<()> {
        let result = self.timed(|| self.producer.abort_transaction(TRANSACTION_TIMEOUT));
        if result.is_ok() {
            // Purged records are reported before the abort returns, or shortly after.
            while self
                .deliveries
                .wait(0, Duration::from_secs(1))
                .is_err_and(|e| e.is_some())
            {}
        } else {
            self.mark_unusable();
        }
        result
    }
}

impl Drop for LaneProducer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread's last poll lasts up to EVENT_WAIT; it ends by itself and drops the client.
            drop(thread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddedBroker, Retention, TopicSpec, list_dead_letters};

    /// Outputs, dead letters and what is sent back: all of them are sent here.
    #[test]
    fn a_record_of_the_first_moment_of_1970_keeps_its_time_whoever_sends_it() {
        let broker = EmbeddedBroker::start().unwrap();
        let spec = TopicSpec {
            name: "t".to_owned(),
            partitions: 1,
            retention: Retention::Broker,
            message_bytes_max: None,
        };
        broker.create(&[spec]).unwrap();
        let cluster = broker.cluster().unwrap();
        let producer = LaneProducer::start(&cluster.client_config(), "test").unwrap();
        for timestamp in [0, 1_700_000_000_000] {
            let record = BaseRecord::<'_, [u8], [u8], usize>::with_opaque_to("t", 0);
            let sent = producer.send(record.payload(b"old").timestamp(timestamp));
            assert!(sent.is_ok(), "it is taken");
        }
        assert!(producer.wait_delivered().is_ok(), "it is confirmed");
        let mut times = Vec::new();
        list_dead_letters(&cluster, "t", |record| {
            times.push(record.timestamp_ms);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(times, [Some(1), Some(1_700_000_000_000)]);
    }
}
