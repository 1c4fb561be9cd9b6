//! Schemas by id, kept on the compacted topic `quadrille.schemas`: published before first use, so an id
//! that is not there once the topic has been read to its end is nobody's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use quadrille_proto::{Schema, SchemaId, Topics};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::{Cluster, client::Plain};

/// How long the topic may stay unreadable before a lookup gives up.
const LOOKUP_WITHIN: Duration = Duration::from_secs(30);

/// Bounds how long a look-up waits behind it; ten idle fetches a second cost nothing to speak of.
const FETCH_WAIT_MS: &str = "100";

/// The schemas' topic cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the schemas' topic, {topic}: {source}", topic = Topics::SCHEMAS)]
    Kafka {
        #[from]
        source: KafkaError,
    },
    #[error("{}: not read to its end within {} s", Topics::SCHEMAS, LOOKUP_WITHIN.as_secs())]
    TimedOut,
}

/// What a lookup found.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<Schema>),
    /// Nobody has published this id.
    Unknown,
    /// The topic could not be read: nobody knows.
    Unreadable(String),
}

struct Reader {
    consumer: BaseConsumer<Plain>,
    /// The offset after the last schema read.
    next: i64,
    /// A moment by which everything published was read.
    complete_at: Option<Instant>,
}

struct Inner {
    cluster: Cluster,
    known: RwLock<HashMap<SchemaId, Arc<Schema>>>,
    reader: Mutex<Option<Reader>>,
}

/// The schemas of a cluster. Cheap to clone; every call may block.
#[derive(Clone)]
pub struct Schemas(Arc<Inner>);

impl Schemas {
    pub fn new(cluster: &Cluster) -> Self {
        Schemas(Arc::new(Inner {
            cluster: cluster.clone(),
            known: RwLock::default(),
            reader: Mutex::new(None),
        }))
    }

    /// What is known already, without asking Kafka.
    pub fn get(&self, id: SchemaId) -> Option<Arc<Schema>> {
        self.0
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// The schema of a record that was polled at `polled_at`. Asks Kafka at most once for all records polled
    /// before the answer, so a storm of unknown ids costs one read a batch.
    pub fn lookup(&self, id: SchemaId, polled_at: Instant) -> Lookup {
        if let Some(schema) = self.get(id) {
            return Lookup::Known(schema);
        }
        if let Err(error) = self.read_to_end(Some(polled_at)) {
            return Lookup::Unreadable(error.to_string());
        }
        self.get(id).map_or(Lookup::Unknown, Lookup::Known)
    }

    /// Publishes a schema unless it is there already.
    ///
    /// # Errors
    /// The topic cannot be read or written.
    pub fn publish(&self, schema: &Schema) -> Result<(), SchemaError> {
        let id = schema.id();
        self.read_to_end(None)?;
        if self.get(id).is_some() {
            return Ok(());
        }
        let mut settings = self.0.cluster.client_config();
        settings
            .set("acks", "all")
            .set("message.timeout.ms", LOOKUP_WITHIN.as_millis().to_string());
        let producer: BaseProducer = settings.create()?;
        let (key, value) = (id.to_string(), schema.canonical());
        let record = BaseRecord::to(Topics::SCHEMAS)
            .partition(0)
            .key(&key)
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(LOOKUP_WITHIN)?;
        // The flush ends with a failure's report as well: read it back.
        self.read_to_end(None)?;
        match self.get(id) {
            Some(_) => Ok(()),
            None => Err(SchemaError::TimedOut),
        }
    }

    fn read_to_end(&self, polled_at: Option<Instant>) -> Result<(), SchemaError> {
        let mut reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let covers = |reader: &Reader| polled_at.is_some() && reader.complete_at >= polled_at;
        if reader.as_ref().is_some_and(covers) {
            return Ok(());
        }
        let result = match reader.as_mut() {
            Some(reader) => self.read(reader),
            None => self.read(reader.insert(self.open()?)),
        };
        if result.is_err() {
            // A client that was made while Kafka was away may never read again; the next look makes another.
            *reader = None;
        }
        result
    }

    fn read(&self, reader: &mut Reader) -> Result<(), SchemaError> {
        let asked_at = Instant::now();
        let deadline = asked_at + LOOKUP_WITHIN;
        let (_, end) = reader
            .consumer
            .fetch_watermarks(Topics::SCHEMAS, 0, LOOKUP_WITHIN)?;
        while reader.next < end {
            match reader.consumer.poll(Duration::from_millis(500)) {
                Some(Ok(message)) => {
                    reader.next = message.offset() + 1;
                    self.learn(message.key(), message.payload());
                }
                Some(Err(error)) => tracing::debug!(%error, "reading schemas"),
                None => {}
            }
            if Instant::now() > deadline {
                return Err(SchemaError::TimedOut);
            }
        }
        reader.complete_at = Some(asked_at);
        Ok(())
    }

    fn open(&self) -> Result<Reader, SchemaError> {
        let mut settings = self.0.cluster.client_config();
        settings
            // Needed by the client; the group is never joined and nothing is committed.
            .set("group.id", "quadrille.schemas.reader")
            .set("enable.auto.commit", "false")
            .set("queued.max.messages.kbytes", "1024")
            // A fetch that waits for news holds up the next question on its connection.
            .set("fetch.wait.max.ms", FETCH_WAIT_MS);
        let consumer: BaseConsumer<Plain> = settings.create_with_context(Plain)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(Topics::SCHEMAS, 0, Offset::Beginning)?;
        consumer.assign(&list)?;
        Ok(Reader {
            consumer,
            next: 0,
            complete_at: None,
        })
    }

    /// Takes a schema in if its id is its content's.
    fn learn(&self, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let Some(payload) = payload else { return };
        let schema: Schema = match serde_json::from_slice(payload) {
            Ok(schema) => schema,
            Err(error) => {
                tracing::warn!(%error, "a schema on {} is not one; ignored", Topics::SCHEMAS);
                return;
            }
        };
        let id = schema.id();
        if key != Some(id.to_string().as_bytes()) {
            tracing::warn!(%id, "a schema on {} has another's key; ignored", Topics::SCHEMAS);
            return;
        }
        self.0
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(schema));
    }
}
