//! Records from outside the stream: published one by one, each answered when Kafka has confirmed it.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};
use quadrille_telemetry::{
    Tracing,
    traces::{NewSpan, Span},
};
use rdkafka::{
    ClientContext, Message,
    config::{ClientConfig, RDKafkaLogLevel},
    error::{KafkaError, KafkaResult},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig},
};
use tokio::sync::oneshot;

use crate::{Backoff, Cluster, client, spans};

/// A record that Kafka has not confirmed within this time is given up, and its sender gets an error.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// How long the event thread sleeps when nothing happens; an event wakes it at once.
const EVENT_WAIT: Duration = Duration::from_millis(500);
/// Between two producers that fail for good, at first and at most: nothing is sent meanwhile, and readiness says so.
const REPLACED_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a record waits before it is offered again to a full queue, at first and at most: each of many streams may have one.
const OFFERED_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
/// Bounds what waits for Kafka; beyond it senders are refused and may retry.
const QUEUE_KIB_MAX: usize = 16 << 10;

/// The position of a confirmed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    pub partition: i32,
    pub offset: i64,
}

/// Why a record is not in Kafka, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the record is too large for its topic")]
    TooLarge,
    #[error("too many records are waiting for Kafka; send again later")]
    Busy,
    #[error(
        "Kafka did not confirm the record: {0}; send it again, with the same id or Idempotency-Key"
    )]
    Unconfirmed(String),
}

impl Error {
    /// A short stable name, for metrics and answers.
    fn class(&self) -> &'static str {
        match self {
            Error::TooLarge => "too_large",
            Error::Busy => "busy",
            Error::Unconfirmed(_) => "unconfirmed",
        }
    }
}

type AckSender = oneshot::Sender<Result<Acknowledged, Error>>;
type AckReceiver = oneshot::Receiver<Result<Acknowledged, Error>>;
type Outgoing<'r> = BaseRecord<'r, [u8], [u8], Box<AckSender>>;

struct PublisherEvents;

impl ClientContext for PublisherEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::log_error(&error, reason);
    }
}

impl ProducerContext for PublisherEvents {
    type DeliveryOpaque = Box<AckSender>;

    fn delivery(&self, result: &DeliveryResult<'_>, ack: Box<AckSender>) {
        let answer = match result {
            Ok(message) => Ok(Acknowledged {
                partition: message.partition(),
                offset: message.offset(),
            }),
            Err((error, _)) if client::is_too_large(error) => Err(Error::TooLarge),
            Err((error, _)) => Err(Error::Unconfirmed(error.to_string())),
        };
        // The sender may have gone: the record is in Kafka all the same.
        let _ = ack.send(answer);
    }
}

/// A record to publish.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a [u8],
    /// None is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; None: now.
    pub timestamp_ms: Option<i64>,
    /// In this order.
    pub headers: &'a [(String, Vec<u8>)],
}

/// An idempotent producer with an acknowledgement per record. Cheap to clone.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    tracing: Tracing,
    /// Of every `send` span.
    attributes: Vec<KeyValue>,
    slot: Arc<ProducerSlot>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.slot.stop.store(true, Ordering::Release);
    }
}

/// The current producer. One that has failed fatally sends nothing any more and is replaced.
struct ProducerSlot {
    settings: ClientConfig,
    producer: ArcSwap<BaseProducer<PublisherEvents>>,
    /// Why nothing can be sent.
    failure: RwLock<Option<String>>,
    stop: AtomicBool,
}

impl ProducerSlot {
    fn open(settings: ClientConfig) -> KafkaResult<Self> {
        let producer = settings.create_with_context(PublisherEvents)?;
        Ok(ProducerSlot {
            settings,
            producer: ArcSwap::from_pointee(producer),
            failure: RwLock::default(),
            stop: AtomicBool::new(false),
        })
    }

    fn failure(&self) -> Option<String> {
        let failure = self.failure.read();
        failure
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    fn set_failure(&self, failure: Option<String>) {
        *self
            .failure
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = failure;
    }

    /// Serves the producer's events, and replaces it when it has failed for good.
    fn serve(&self) {
        let mut backoff = Backoff::new(REPLACED_AFTER.0, REPLACED_AFTER.1);
        let mut failed = false;
        while !self.stop.load(Ordering::Acquire) {
            let producer = self.producer.load_full();
            producer.poll(EVENT_WAIT);
            let Some((_, reason)) = producer.client().fatal_error() else {
                // The replacement has worked for one poll.
                if std::mem::take(&mut failed) {
                    self.set_failure(None);
                    backoff.reset();
                }
                continue;
            };
            failed = true;
            self.set_failure(Some(reason.clone()));
            let wait = backoff.next_wait();
            let wait_ms = wait.as_millis() as u64;
            tracing::warn!(
                reason,
                wait_ms,
                "producer for pushed records failed; replacing it"
            );
            // What is in flight is answered: nobody knows whether it is in Kafka.
            producer.purge(PurgeConfig::default().queue().inflight());
            producer.poll(wait);
            match self.settings.create_with_context(PublisherEvents) {
                Ok(next) => self.producer.store(Arc::new(next)),
                Err(error) => {
                    tracing::error!(%error, "could not create a producer for pushed records")
                }
            }
        }
    }
}

impl Publisher {
    /// `name` is its `client.id`; `message_bytes_max` the largest record in bytes, the limit of the topics it writes.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn connect(cluster: &Cluster, name: &str, message_bytes_max: usize) -> KafkaResult<Self> {
        Self::connect_traced(cluster, name, message_bytes_max, Tracing::off())
    }

    /// As [`Publisher::connect`]; what is sent inside a request that is traced gets a `send` span.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn connect_traced(
        cluster: &Cluster,
        name: &str,
        message_bytes_max: usize,
        tracing: Tracing,
    ) -> KafkaResult<Self> {
        let mut settings = cluster.client_config();
        settings
            .set("client.id", name)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set(
                "batch.size",
                message_bytes_max.clamp(1, 1_000_000).to_string(),
            )
            .set(
                "message.max.bytes",
                message_bytes_max.clamp(1_000, 1_000_000_000).to_string(),
            )
            .set("message.timeout.ms", CONFIRM_WITHIN.as_millis().to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string())
            .set("retry.backoff.ms", "20");
        let slot = Arc::new(ProducerSlot::open(settings)?);
        let thread = std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn({
                let slot = Arc::clone(&slot);
                move || slot.serve()
            });
        thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        let attributes = spans::sender(name, cluster.bootstrap_servers());
        Ok(Publisher(Arc::new(Inner {
            tracing,
            attributes,
            slot,
        })))
    }

    /// Whether records can be sent, as far as this client knows: Kafka may still be unreachable.
    ///
    /// # Errors
    /// Why not; the producer is being replaced.
    pub fn ready(&self) -> Result<(), String> {
        match self.0.slot.failure() {
            None => Ok(()),
            Some(reason) => Err(format!(
                "pushes: the producer failed and is being replaced: {reason}"
            )),
        }
    }

    /// Enqueues the record before it returns; the future resolves when all in-sync replicas have confirmed it, or it was given
    /// up. Dropping the future does not take the record back. Records of one partition keep their order.
    ///
    /// # Errors
    /// As [`Error`]; an unconfirmed record may be in Kafka all the same.
    pub fn publish(
        &self,
        publication: &Publication<'_>,
    ) -> impl Future<Output = Result<Acknowledged, Error>> + Send + use<> {
        let (record, answer, span) = self.outgoing(publication);
        let sent = self.send(record).map_err(|(error, _)| error);
        confirmed(sent, answer, span)
    }

    /// As [`Publisher::publish`], but a full queue is waited for: the record is made once, and offered again ever more rarely.
    ///
    /// # Errors
    /// As [`Publisher::publish`], but never [`Error::Busy`].
    pub async fn publish_waiting(
        &self,
        publication: &Publication<'_>,
    ) -> impl Future<Output = Result<Acknowledged, Error>> + Send + use<> {
        let (mut record, answer, span) = self.outgoing(publication);
        let mut backoff = Backoff::new(OFFERED_AFTER.0, OFFERED_AFTER.1);
        let sent = loop {
            match self.send(record) {
                Ok(()) => break Ok(()),
                Err((Error::Busy, back)) => record = back,
                Err((error, _)) => break Err(error),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        };
        confirmed(sent, answer, span)
    }

    fn send<'r>(&self, record: Outgoing<'r>) -> Result<(), (Error, Outgoing<'r>)> {
        let sent = self.0.slot.producer.load().send(record);
        sent.map_err(|(error, record)| {
            let error = if client::is_queue_full(&error) {
                Error::Busy
            } else if client::is_too_large(&error) {
                Error::TooLarge
            } else {
                Error::Unconfirmed(error.to_string())
            };
            (error, record)
        })
    }

    fn outgoing<'r>(
        &self,
        publication: &Publication<'r>,
    ) -> (Outgoing<'r>, AckReceiver, Option<Span>) {
        let (ack, answer) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(publication.topic, Box::new(ack))
            .partition(publication.partition)
            .key(publication.key);
        record.payload = publication.payload;
        record.timestamp = client::timestamp(publication.timestamp_ms);
        if !publication.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(publication.headers.len());
            for (key, value) in publication.headers {
                headers = headers.insert(Header {
                    key,
                    value: Some(value),
                });
            }
            record.headers = Some(headers);
        }
        let span = self.0.send_span(publication);
        if let Some(span) = &span {
            record.headers = Some(spans::inject(record.headers.take(), span.span_context()));
        }
        (record, answer, span)
    }
}

/// What became of a record that was sent or not.
async fn confirmed(
    sent: Result<(), Error>,
    answer: AckReceiver,
    mut span: Option<Span>,
) -> Result<Acknowledged, Error> {
    let answer = match sent {
        Err(error) => Err(error),
        Ok(()) => answer
            .await
            .unwrap_or_else(|_| Err(Error::Unconfirmed("the service is stopping".to_owned()))),
    };
    if let (Some(span), Err(error)) = (&mut span, &answer) {
        span.fail(error.class(), &error.to_string());
    }
    answer
}

impl Inner {
    /// Of a record sent inside a request that is traced.
    fn send_span(&self, publication: &Publication<'_>) -> Option<Span> {
        if !self.tracing.is_on() {
            return None;
        }
        let request = Context::current();
        let request = request.span();
        let parent = request.span_context();
        if !parent.is_sampled() {
            return None;
        }
        let mut attributes = self.attributes.clone();
        attributes.push(KeyValue::new(
            "messaging.destination.name",
            publication.topic.to_owned(),
        ));
        attributes.push(KeyValue::new(
            "messaging.destination.partition.id",
            publication.partition.to_string(),
        ));
        if let Ok(key) = std::str::from_utf8(publication.key) {
            let key = KeyValue::new("messaging.kafka.message.key", key.to_owned());
            attributes.push(key);
        }
        let name = format!("send {}", publication.topic);
        let span = NewSpan::new(name, SpanKind::Producer).with(attributes);
        self.tracing.begin(Some(parent), span)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::AtomicUsize,
        task::{Poll, Wake, Waker},
        time::Instant,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_record_is_offered_ever_more_rarely_to_a_full_queue() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_time().build().unwrap();
        let _entered = runtime.enter();
        // Nobody is there: what is sent stays in the queue.
        let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
        let publisher = Publisher::connect(&cluster, "test", 1 << 20).unwrap();
        let payload = vec![0; 1_000_000];
        let publication = Publication {
            topic: "t",
            partition: 0,
            key: b"k",
            payload: Some(&payload),
            timestamp_ms: None,
            headers: &[],
        };
        let mut queued = Vec::new();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut task = std::task::Context::from_waker(&waker);
        loop {
            let mut sent = Box::pin(publisher.publish(&publication));
            match sent.as_mut().poll(&mut task) {
                Poll::Ready(refused) => break assert_eq!(refused, Err(Error::Busy)),
                Poll::Pending => queued.push(sent),
            }
            assert!(queued.len() < 100, "the queue has a bound");
        }
        let mut waiting = pin!(publisher.publish_waiting(&publication));
        let (began, mut offered) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(1) {
            assert!(waiting.as_mut().poll(&mut task).is_pending());
            offered += 1;
            let before = woken.0.load(Ordering::Relaxed);
            while woken.0.load(Ordering::Relaxed) == before && began.elapsed().as_secs() < 1 {
                std::thread::yield_now();
            }
        }
        // 5 + 10 + 20 … + 250 ms, or half of that each: every 5 ms would be 200 times.
        assert!((3..=20).contains(&offered), "{offered}");
    }
}
