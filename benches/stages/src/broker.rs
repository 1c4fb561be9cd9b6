//! The Kafka that is measured on: started here, or given. Topics made here are removed again.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_executor::block_on;
use quadrille_choreography::{Cluster, Retention, TopicSpec};
use quadrille_local::Kafka;
use quadrille_proto::{KeyedState, Topics, dlq_of};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use crate::process;

pub const PARTITIONS: i32 = 8;
/// As Kafka's own start script has it. With a small heap the collector halts all four a second.
const HEAP: [&str; 5] = [
    "-Xms1g",
    "-Xmx1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
];
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A topic read to its end moves on at least this often.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Of flow topics; dead letters get 64 KiB more.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// A topic to be made.
pub struct NewFlow {
    spec: TopicSpec,
    /// Bytes a partition keeps, where more passes through than the disk should hold.
    retention_bytes: Option<u64>,
}

impl NewFlow {
    /// A topic and its dead letters' topic.
    pub fn with_dead_letters(name: &str) -> [NewFlow; 2] {
        let flow = |name: String, bytes| NewFlow {
            spec: TopicSpec {
                name,
                partitions: PARTITIONS,
                retention: Retention::Broker,
                message_bytes_max: Some(bytes),
            },
            retention_bytes: None,
        };
        [
            flow(name.to_owned(), MESSAGE_BYTES_MAX),
            flow(dlq_of(name), MESSAGE_BYTES_MAX + (64 << 10)),
        ]
    }

    /// All topics of a pipeline that does not look back.
    pub fn of_pipeline(pipeline: &str, retention_bytes: Option<u64>) -> Vec<NewFlow> {
        Self::all_of(pipeline, KeyedState::None, retention_bytes)
    }

    /// All topics of one that does.
    pub fn of_stateful_pipeline(pipeline: &str) -> Vec<NewFlow> {
        Self::all_of(pipeline, KeyedState::Kept, None)
    }

    fn all_of(pipeline: &str, state: KeyedState, retention_bytes: Option<u64>) -> Vec<NewFlow> {
        let specs = TopicSpec::of_pipeline(pipeline, state, PARTITIONS, MESSAGE_BYTES_MAX);
        let flow = |spec| NewFlow {
            spec,
            retention_bytes,
        };
        specs.into_iter().map(flow).collect()
    }

    /// Schemas of all pipelines.
    pub fn schemas() -> NewFlow {
        NewFlow::compacted(Topics::SCHEMAS, 1)
    }

    /// A changelog of state. Short runs fill no segment, so that nothing is compacted while they last.
    pub fn changelog(name: &str) -> NewFlow {
        NewFlow::compacted(name, PARTITIONS)
    }

    fn compacted(name: &str, partitions: i32) -> NewFlow {
        let spec = TopicSpec {
            name: name.to_owned(),
            partitions,
            retention: Retention::Compacted,
            message_bytes_max: None,
        };
        NewFlow {
            spec,
            retention_bytes: None,
        }
    }
}

/// Kafka, and what was made on it.
pub struct Broker {
    servers: String,
    local: Option<Kafka>,
    admin: AdminClient<DefaultClientContext>,
    topics: Vec<String>,
    groups: Vec<String>,
}

impl Broker {
    /// `extra`: server properties of a broker that is started here.
    pub fn start(extra: &[(&str, &str)]) -> anyhow::Result<Self> {
        let given = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok();
        let (servers, local) = match given.filter(|servers| !servers.trim().is_empty()) {
            Some(servers) => (servers, None),
            None => {
                let mut options = Kafka::options();
                // Deleted topics leave the disk at once: rounds write some GB.
                let own = [("log.segment.delete.delay.ms", "1000")];
                let pair = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
                options.extra = own.iter().chain(extra).map(pair).collect();
                options.heap = Some(HEAP.map(str::to_owned).to_vec());
                let kafka = options.start()?;
                (kafka.bootstrap_servers(), Some(kafka))
            }
        };
        let place = if local.is_some() {
            "local Apache Kafka"
        } else {
            "Kafka"
        };
        println!("{place} at {servers}");
        Ok(Broker {
            admin: client(&servers).create()?,
            servers,
            local,
            topics: Vec::new(),
            groups: Vec::new(),
        })
    }

    pub fn servers(&self) -> &str {
        &self.servers
    }

    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        Ok(Cluster::new(&self.servers, "")?)
    }

    /// The broker's CPU time so far, where it runs here.
    pub fn cpu(&self) -> Option<Duration> {
        process::cpu_of(self.local.as_ref()?.pid()?).ok()
    }

    pub fn create(&mut self, flows: &[NewFlow]) -> anyhow::Result<()> {
        let settings: Vec<Vec<(&str, String)>> = flows
            .iter()
            .map(|flow| {
                let mut settings = flow.spec.settings();
                if let Some(bytes) = flow.retention_bytes {
                    let segment = (bytes / 4).max(1 << 20);
                    settings.push(("retention.bytes", bytes.to_string()));
                    settings.push(("segment.bytes", segment.to_string()));
                }
                settings
            })
            .collect();
        let topics: Vec<NewTopic<'_>> = flows
            .iter()
            .zip(&settings)
            .map(|(NewFlow { spec, .. }, settings)| {
                let fixed = TopicReplication::Fixed(-1);
                let topic = NewTopic::new(&spec.name, spec.partitions, fixed);
                settings
                    .iter()
                    .fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        for result in block_on(self.admin.create_topics(&topics, &options()))? {
            match result {
                Ok(name) => self.topics.push(name),
                Err((name, RDKafkaErrorCode::TopicAlreadyExists))
                    if Topics::SHARED.contains(&name.as_str()) => {}
                Err((name, code)) => bail!("topic {name} was not created: {code}"),
            }
        }
        Ok(())
    }

    /// Deletes topics made here.
    pub fn delete(&mut self, names: &[&str]) -> anyhow::Result<()> {
        for result in block_on(self.admin.delete_topics(names, &options()))? {
            if let Err((name, code)) = result {
                bail!("topic {name} was not deleted: {code}");
            }
        }
        self.topics.retain(|topic| !names.contains(&topic.as_str()));
        Ok(())
    }

    /// Deletes the topics of a pipeline made here; the schemas' topic stays.
    pub fn delete_pipeline(&mut self, pipeline: &str) -> anyhow::Result<()> {
        let flow = Topics::of(pipeline);
        let topics: Vec<String> = (flow.flow().into_iter())
            .flat_map(|topic| [topic.to_owned(), dlq_of(topic)])
            .collect();
        self.delete(&topics.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A group to be deleted at the end.
    pub fn will_leave_group(&mut self, group: &str) {
        self.groups.push(group.to_owned());
    }

    /// Hands over each record of a topic that a `read_committed` reader sees, in its partition's order.
    pub fn read(
        &self,
        topic: &str,
        mut each: impl FnMut(&BorrowedMessage<'_>),
    ) -> anyhow::Result<()> {
        let consumer = self.reader(topic)?;
        let mut open = PARTITIONS;
        while open > 0 {
            match consumer.poll(READ_WITHIN) {
                Some(Ok(message)) if message.topic() == topic => each(&message),
                Some(Ok(message)) => bail!("a record of {} was read", message.topic()),
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
                None => bail!("{topic} was not read to its end"),
            }
        }
        Ok(())
    }

    /// A consumer of all of a topic, from its beginning; it says where a partition ends.
    pub fn reader(&self, topic: &str) -> anyhow::Result<BaseConsumer> {
        let consumer: BaseConsumer = client(&self.servers)
            // Never joined; the client wants a name.
            .set("group.id", format!("{topic}.count"))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.queue.backoff.ms", "2")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        Ok(consumer)
    }

    /// What a `read_committed` reader sees of a topic.
    pub fn contents(&self, topic: &str) -> anyhow::Result<Contents> {
        let mut contents = Contents::default();
        self.read(topic, |message| contents.add(message))?;
        Ok(contents)
    }

    /// Fails unless the topic holds `expected` records and its source no dead letters.
    pub fn verify(&self, topic: &str, source: &str, expected: u64) -> anyhow::Result<Contents> {
        let contents = self.contents(topic)?;
        let found = contents.records;
        if found != expected {
            bail!("{topic} holds {found} records, {expected} went in");
        }
        match self.contents(&dlq_of(source))?.records {
            0 => Ok(contents),
            dead => bail!("{dead} records of {source} were dead-lettered"),
        }
    }

    fn clean(&mut self) -> anyhow::Result<()> {
        let topics = std::mem::take(&mut self.topics);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if !names.is_empty() {
            self.delete(&names)?;
        }
        let groups = std::mem::take(&mut self.groups);
        let names: Vec<&str> = groups.iter().map(String::as_str).collect();
        if !names.is_empty() {
            // Groups that never committed do not exist.
            let _ = block_on(self.admin.delete_groups(&names, &options()))?;
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // A broker of ours takes everything with it.
        if self.local.is_none()
            && let Err(error) = self.clean()
        {
            eprintln!("left behind on {}: {error:#}", self.servers);
        }
    }
}

/// What a topic holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents {
    pub records: u64,
    pub key_bytes: u64,
    pub payload_bytes: u64,
}

impl Contents {
    fn add(&mut self, message: &BorrowedMessage<'_>) {
        self.records += 1;
        self.key_bytes += message.key_len() as u64;
        self.payload_bytes += message.payload_len() as u64;
    }

    /// Of one record's key, on average.
    pub fn key_mean(&self) -> f64 {
        self.key_bytes as f64 / self.records.max(1) as f64
    }

    /// Of one record, on average.
    pub fn payload_mean(&self) -> f64 {
        self.payload_bytes as f64 / self.records.max(1) as f64
    }
}

/// The settings every bare client here has; those of the loop's own clients.
pub fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("socket.nagle.disable", "true");
    config
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_WITHIN))
        .operation_timeout(Some(ANSWER_WITHIN))
}

/// Short, and different from run to run: names on a shared broker do not meet.
pub fn tag() -> String {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("{:x}{:x}", std::process::id(), nanos as u32)
}

/// Waits until `done`; fails after `within`.
pub fn wait_until(
    what: &str,
    within: Duration,
    every: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    while !done()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {within:?}");
        }
        std::thread::sleep(every);
    }
    Ok(())
}
