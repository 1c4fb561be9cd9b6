//! Schemas by id, kept on the compacted topic `quadrille.schemas`: published before first use, so an id
//! that is not there once the topic has been read to its end is unknown.

mod shared_reader;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use quadrille_proto::{Kind, Schema, SchemaId, Topics};
use rdkafka::{
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
};

use self::shared_reader::SharedReader;
use crate::{
    Cluster,
    table::{self, TableEvent, TableReader, TableState},
};

/// How long the topic may stay unreadable or a schema unconfirmed; the caller tries again.
const WITHIN: Duration = Duration::from_secs(30);
/// How much longer a read may take once the service ends: what is not decided by then is handled by whoever is next.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// Between looks at a topic that cannot be read yet, as one made just now; news end the wait.
const NEWS_WAIT: Duration = Duration::from_millis(100);

/// The schemas' topic cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("schemas: {0}")]
    Unreadable(#[from] table::Error),
    #[error("schemas: {topic} cannot be written: {0}", topic = Topics::SCHEMAS)]
    Unwritten(#[from] KafkaError),
    #[error("schemas: Kafka did not confirm {0}")]
    Unconfirmed(SchemaId),
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

struct Inner {
    cluster: Cluster,
    known: RwLock<HashMap<SchemaId, Arc<Schema>>>,
    table: SharedReader<TableReader, table::Error>,
    ended_at: OnceLock<Instant>,
}

/// The schemas of a cluster. Cheap to clone; every call may block.
#[derive(Clone)]
pub struct Schemas(Arc<Inner>);

impl Schemas {
    pub fn new(cluster: &Cluster) -> Self {
        Schemas(Arc::new(Inner {
            cluster: cluster.clone(),
            known: RwLock::default(),
            table: SharedReader::new(TableReader::new(cluster, Topics::SCHEMAS)),
            ended_at: OnceLock::new(),
        }))
    }

    /// The service ends: nobody waits for a topic any more that cannot be read, or not for long.
    pub fn end(&self) {
        self.0.ended_at.get_or_init(Instant::now);
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
    /// before the answer, so a storm of unknown ids costs one read per batch, and a topic that cannot be read one wait.
    pub fn lookup(&self, id: SchemaId, polled_at: Instant) -> Lookup {
        if let Some(schema) = self.get(id) {
            return Lookup::Known(schema);
        }
        if let Err(error) = self.read_to_end(Some(polled_at)) {
            return Lookup::Unreadable(error.to_string());
        }
        self.get(id).map_or(Lookup::Unknown, Lookup::Known)
    }

    /// What was published before `since` of a pipeline, of one kind.
    ///
    /// # Errors
    /// The topic cannot be read.
    pub fn published(
        &self,
        pipeline: &str,
        kind: Kind,
        since: Instant,
    ) -> Result<Vec<Arc<Schema>>, Error> {
        self.read_to_end(Some(since))?;
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let of = |schema: &&Arc<Schema>| schema.pipeline == pipeline && schema.kind == kind;
        Ok(known.values().filter(of).cloned().collect())
    }

    /// Publishes a schema unless it is there already.
    ///
    /// # Errors
    /// The topic cannot be read or written.
    pub fn publish(&self, schema: &Schema) -> Result<(), Error> {
        let id = schema.id();
        self.read_to_end(None)?;
        if self.get(id).is_some() {
            return Ok(());
        }
        let mut settings = self.0.cluster.client_config();
        settings
            .set("acks", "all")
            .set("message.timeout.ms", WITHIN.as_millis().to_string());
        let producer: BaseProducer = settings.create()?;
        let (key, value) = (id.to_string(), schema.canonical());
        let record = BaseRecord::to(Topics::SCHEMAS)
            .partition(0)
            .key(&key)
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(WITHIN)?;
        // The flush ends with a failure's report as well: read it back.
        self.read_to_end(None)?;
        match self.get(id) {
            Some(_) => Ok(()),
            None => Err(Error::Unconfirmed(id)),
        }
    }

    /// Reads all that was published before `polled_at`, or before this call.
    fn read_to_end(&self, polled_at: Option<Instant>) -> Result<(), Error> {
        let since = polled_at.unwrap_or_else(Instant::now);
        let covered = self.0.table.read_since(since, |table| {
            let result = self.read(table, Instant::now());
            // New schemas are rare: fetching on would cost every service some of its idle CPU.
            table.suspend();
            result
        });
        Ok(covered?)
    }

    /// Reads on until the table was complete after `since`.
    fn read(&self, table: &mut TableReader, since: Instant) -> Result<(), table::Error> {
        let (topic, deadline) = (Topics::SCHEMAS.to_owned(), since + WITHIN);
        loop {
            table.read(NEWS_WAIT, |event| {
                // Schemas are known by their content: those of a topic that was recreated stay right.
                if let TableEvent::Record(record) = event {
                    self.insert(record.key, record.value);
                }
            });
            let why = match table.state() {
                TableState::Complete { as_of } if *as_of >= since => return Ok(()),
                TableState::Missing { .. } => return Err(table::Error::Missing(topic)),
                TableState::Unreadable { why, .. } => why.clone(),
                _ => format!(
                    "only offsets before {} were read, not up to its end",
                    table.next_offset()
                ),
            };
            let ended = self.0.ended_at.get();
            if Instant::now() > ended.map_or(deadline, |at| deadline.min(*at + ENDS_WITHIN)) {
                let within = WITHIN;
                return Err(table::Error::Unreadable { topic, within, why });
            }
        }
    }

    /// Takes a schema in if its id is its content's.
    fn insert(&self, key: &[u8], value: Option<&[u8]>) {
        let Some(payload) = value else { return };
        let schema: Schema = match serde_json::from_slice(payload) {
            Ok(schema) => schema,
            Err(error) => {
                tracing::warn!(%error, "ignored a record of {} that is not a schema", Topics::SCHEMAS);
                return;
            }
        };
        let id = schema.id();
        if key != id.to_string().as_bytes() {
            tracing::warn!(%id, "ignored a schema of {} whose key is another schema's id", Topics::SCHEMAS);
            return;
        }
        self.0
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(schema));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_is_given_up_when_the_service_ends() {
        // Nobody listens there.
        let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
        let schemas = Schemas::new(&cluster);
        schemas.end();
        let begun = Instant::now();
        assert!(matches!(schemas.lookup(id(), begun), Lookup::Unreadable(_)));
        assert!(begun.elapsed() < WITHIN / 2, "{:?}", begun.elapsed());
    }

    fn id() -> SchemaId {
        let schema = Schema {
            kind: Kind::Record,
            pipeline: "p".to_owned(),
            fields: Vec::new(),
        };
        schema.id()
    }

    #[test]
    fn records_that_were_polled_together_wait_once_for_a_topic_that_cannot_be_read() {
        let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
        let schemas = Schemas::new(&cluster);
        // Each read takes a moment all the same.
        schemas.end();
        let polled_at = Instant::now();
        for record in 0..WITHIN.as_millis() / NEWS_WAIT.as_millis() {
            let found = schemas.lookup(id(), polled_at);
            assert!(matches!(found, Lookup::Unreadable(_)), "{found:?}");
            let took = polled_at.elapsed();
            assert!(took < WITHIN / 2, "{record} records took {took:?}");
        }
    }
}
