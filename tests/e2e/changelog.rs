//! A stage's changelog on a real broker: where each commit says that it ended, and how it is read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Admin, ChangelogReader, Cluster, CommitMode, Delivered, Destination, Handler, Incoming, Item,
    Limits, Output, OutputKey, OutputTopic, Restore, Retention, Stage, StageConfig, TopicSpec,
    changelog::Progress, handler,
};
use quadrille_local::proxy::{self, Verdict};
use quadrille_proto::dlq_of;
use quadrille_telemetry::{Registry, Tracing, metrics::LoopMetrics};
use rdkafka::{
    ClientConfig, Message,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::harness::{
    PATIENCE, broker,
    client::{Client, Raw},
    eventually_or_show,
    world::{MESSAGE_BYTES_MAX, World},
};

const PARTITIONS: i32 = 3;
const PRODUCE: i16 = 0;
const END: i16 = 26;

/// Of one commit: a partition, the batch, and where it was told to end there.
type Told = (i32, u64, Option<i64>);

/// Writes as many changes as a record's payload says, each with the number of its batch.
struct Changes {
    batch: u64,
    changed: Vec<i32>,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Handler for Changes {
    type Record = u64;

    fn begin(&mut self) {
        self.batch += 1;
        self.changed.clear();
    }

    fn decode(&mut self, incoming: &Incoming<'_>, count: &mut u64) -> Result<(), handler::Error> {
        let text = String::from_utf8_lossy(incoming.payload.unwrap_or_default());
        *count = text.parse().expect("a number");
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, u64>], output: &mut Output) {
        for item in items {
            output.absorb("changed");
            for n in 0..*item.record {
                let to = Destination {
                    output: Some("state"),
                    key: OutputKey::OnInputPartition(&n.to_be_bytes()),
                    headers: &[],
                };
                let batch = self.batch.to_string();
                output.with(to, |payload| payload.extend_from_slice(batch.as_bytes()));
            }
            self.changed.push(item.incoming.partition);
        }
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn committed(&mut self, delivered: &Delivered) {
        assert_eq!(delivered.next("other", 0), None, "nothing is written there");
        self.changed.sort_unstable();
        self.changed.dedup();
        let told = |partition: &i32| (*partition, self.batch, delivered.next("state", *partition));
        let mut all = self.told.lock().expect("no panic");
        all.extend(self.changed.iter().map(told));
    }
}

fn create(world: &World) {
    let topic = |suffix: &str| format!("{}.{suffix}", world.pipeline);
    let spec = |name: String, retention| TopicSpec {
        name,
        partitions: PARTITIONS,
        retention,
        message_bytes_max: None,
    };
    let mut letters = spec(dlq_of(&topic("changes")), Retention::Unlimited);
    letters.message_bytes_max = Some(2 * MESSAGE_BYTES_MAX);
    let specs = [
        spec(topic("changes"), Retention::Broker),
        letters,
        spec(topic("other"), Retention::Broker),
        spec(topic("changes-state"), Retention::Compacted),
    ];
    let admin = Admin::connect(&world.cluster()).expect("a client");
    admin.create(&specs).expect("topics");
}

fn stage(world: &World, bootstrap: &str) -> Stage {
    let topic = |suffix: &str| format!("{}.{suffix}", world.pipeline);
    let output = |name, suffix: &str| OutputTopic {
        name,
        topic: topic(suffix),
    };
    let config = StageConfig {
        cluster: Cluster::new(bootstrap, "").expect("a cluster"),
        service: "changes",
        group: format!("quadrille.changes.{}", world.pipeline),
        input: topic("changes"),
        outputs: vec![output("other", "other"), output("state", "changes-state")],
        pipeline: world.pipeline.clone(),
        instance: "a".to_owned(),
        lanes: 1,
        commit: CommitMode::Kafka,
        limits: Limits::default(),
        latency_objective: None,
    };
    let admin = Admin::connect(&config.cluster).expect("a client");
    let topics = admin.prepare(&config).expect("the topics fit");
    let metrics = LoopMetrics::register(&Registry::default());
    Stage::new(config, topics, &metrics, Tracing::off())
}

/// Its first partition cannot be restored; the others take some steps.
struct Unrestored {
    steps: BTreeMap<i32, u32>,
    handled: mpsc::Sender<i32>,
}

impl Handler for Unrestored {
    type Record = ();

    fn decode(&mut self, _: &Incoming<'_>, (): &mut ()) -> Result<(), handler::Error> {
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, ()>], output: &mut Output) {
        for item in items {
            output.absorb("handled");
            self.handled.send(item.incoming.partition).expect("a test");
        }
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn restore(&mut self, partition: i32, _: Option<i64>) -> Result<Restore, handler::Error> {
        const STEPS: u32 = 500;
        if partition == 0 {
            return Err(handler::Error::retry("state", "never"));
        }
        let done = self.steps.entry(partition).or_default();
        *done += 1;
        Ok(match *done {
            STEPS.. => Restore::Done,
            done => Restore::Pending {
                done: done.into(),
                total: STEPS.into(),
            },
        })
    }
}

#[test]
fn a_partition_that_cannot_be_restored_holds_up_no_other_one() {
    let world = World::new(PARTITIONS);
    create(&world);
    let (sender, handled) = mpsc::channel();
    let running = stage(&world, &world.bootstrap).run(|_| Unrestored {
        steps: BTreeMap::new(),
        handled: sender.clone(),
    });
    let running = running.expect("it starts");
    let client = Client::new(&world);
    for partition in 0..PARTITIONS {
        let raw = Raw {
            partition: Some(partition),
            ..Raw::json("k", "1".to_owned())
        };
        client.send(&format!("{}.changes", world.pipeline), &raw);
    }
    client.flush();
    let mut found: Vec<i32> = (1..PARTITIONS)
        .map(|_| handled.recv_timeout(PATIENCE).expect("a record"))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
    running.stop();
    running.join().expect("it drains");
}

/// Responses to sends are lost, so that they are sent again; once nobody says whether a transaction was committed, and another
/// producer is in the place of that which knew the offsets.
#[test]
fn each_commit_says_where_its_changes_ended_whatever_is_lost_on_the_way() {
    let (proxy, kafka) = proxy::before(broker::options()).expect("Apache Kafka starts");
    let world = World::on(kafka.bootstrap_servers(), PARTITIONS);
    create(&world);
    let told = Arc::new(Mutex::new(Vec::new()));
    let stage = stage(&world, &proxy.bootstrap_servers());
    let (mut sends, mut ends, mut lost_at) = (0, 0, None::<Instant>);
    proxy.rule(move |request| match request.api_key {
        PRODUCE => {
            sends += 1;
            match sends % 9 {
                4 => Verdict::LoseAnswer,
                _ => Verdict::Pass,
            }
        }
        END => {
            ends += 1;
            match lost_at {
                None if ends < 6 => Verdict::Pass,
                None => {
                    lost_at = Some(Instant::now());
                    Verdict::LoseAnswer
                }
                Some(at) if at.elapsed() < Duration::from_secs(11) => Verdict::Lose,
                Some(_) => Verdict::Pass,
            }
        }
        _ => Verdict::Pass,
    });
    let running = stage.run(|_| Changes {
        batch: 0,
        changed: Vec::new(),
        told: Arc::clone(&told),
    });
    let running = running.expect("it starts");
    let client = Client::new(&world);
    let (input, state) = (
        format!("{}.changes", world.pipeline),
        format!("{}.changes-state", world.pipeline),
    );
    let mut changes = 0;
    for round in 0..40 {
        for partition in 0..PARTITIONS {
            // Some batches have nothing for some partitions.
            if (round + partition) % 3 == 0 {
                continue;
            }
            let count = 1 + (round * 7 + partition) % 50;
            let raw = Raw {
                partition: Some(partition),
                ..Raw::json("k", count.to_string())
            };
            client.send(&input, &raw);
            changes += count as usize;
        }
        client.flush();
        // In batches of their own, as far as commits go on.
        std::thread::park_timeout(Duration::from_millis(30));
    }
    eventually_or_show("all is written", PATIENCE, || {
        let found = client.read(&state).len();
        match found >= changes {
            true => Ok(()),
            false => Err(format!("{found} of {changes}")),
        }
    });
    running.stop();
    running.join().expect("it drains");
    proxy.no_rule();
    let mut ended: BTreeMap<(i32, u64), i64> = BTreeMap::new();
    let found = client.read(&state);
    assert_eq!(found.len(), changes, "each change once");
    for message in found {
        let text = String::from_utf8_lossy(message.payload().expect("a batch")).into_owned();
        let batch = text.parse().expect("a number");
        let end = ended.entry((message.partition(), batch)).or_default();
        *end = (*end).max(message.offset() + 1);
    }
    let told = told.lock().expect("no panic");
    let said: BTreeMap<(i32, u64), i64> = told
        .iter()
        .map(|(partition, batch, next)| ((*partition, *batch), next.expect("an offset")))
        .collect();
    assert_eq!(said.len(), told.len(), "each commit once");
    assert!(said.len() > 3, "{} commits", said.len());
    // Of the batch whose commit was in doubt nothing is said: it is read again.
    let unsaid = ended.keys().filter(|at| !said.contains_key(at));
    let unsaid: BTreeSet<u64> = unsaid.map(|(_, batch)| *batch).collect();
    assert!(unsaid.len() <= 1, "{unsaid:?}");
    ended.retain(|(_, batch), _| !unsaid.contains(batch));
    assert_eq!(said, ended);
}

fn producer(world: &World, id: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("transactional.id", format!("{}-{id}", world.pipeline))
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("a coordinator");
    producer
}

/// Within a transaction that is left open.
fn write(producer: &BaseProducer, topic: &str, partition: i32, keys: std::ops::Range<usize>) {
    producer.begin_transaction().expect("a transaction");
    for n in keys {
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        let record = BaseRecord::to(topic).partition(partition);
        let record = record.key(&key).payload(&value);
        producer.send(record).expect("room");
    }
    producer.flush(PATIENCE).expect("delivered");
}

/// One pass over partitions; those that are done leave.
fn pass(
    reader: &mut ChangelogReader,
    open: &mut Vec<i32>,
    found: &mut BTreeMap<(i32, String), String>,
    longest: &mut Duration,
) {
    open.retain(|partition| {
        let began = Instant::now();
        let read = reader.read(*partition, None, |change| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let value = change.payload.map(text).expect("no tombstone");
            found.insert((*partition, text(change.key)), value);
        });
        *longest = (*longest).max(began.elapsed());
        !matches!(read.expect("it is read"), Progress::Done { .. })
    });
}

#[test]
fn a_changelog_is_read_without_what_was_aborted_and_an_open_transaction_holds_up_its_partition_alone()
 {
    let world = World::new(PARTITIONS);
    create(&world);
    let topic = format!("{}.changes-state", world.pipeline);
    let (writer, dead) = (producer(&world, "writer"), producer(&world, "dead"));
    for partition in 0..PARTITIONS {
        write(&writer, &topic, partition, 0..500);
        writer.commit_transaction(PATIENCE).expect("committed");
        write(&writer, &topic, partition, 400..900);
        writer.abort_transaction(PATIENCE).expect("aborted");
    }
    // As a lane leaves it that was killed.
    write(&dead, &topic, 0, 900..1_000);
    let mut reader = ChangelogReader::new(&world.cluster(), &topic);
    let (mut open, mut found) = ((0..PARTITIONS).collect(), BTreeMap::new());
    let mut longest = Duration::ZERO;
    eventually_or_show("the others are read", PATIENCE, || {
        pass(&mut reader, &mut open, &mut found, &mut longest);
        match open.len() <= 1 {
            true => Ok(()),
            false => Err(format!("{open:?}")),
        }
    });
    assert_eq!(open, [0], "its transaction is not decided");
    dead.abort_transaction(PATIENCE).expect("aborted");
    eventually_or_show("the last one is read", PATIENCE, || {
        pass(&mut reader, &mut open, &mut found, &mut longest);
        match open.is_empty() {
            true => Ok(()),
            false => Err("it is not".to_owned()),
        }
    });
    let row = |partition: i32, n: usize| ((partition, format!("k{n}")), format!("v{n}"));
    let rows = (0..PARTITIONS).flat_map(|partition| (0..500).map(move |n| row(partition, n)));
    assert_eq!(found, rows.collect());
    assert!(
        longest < Duration::from_secs(1),
        "no call waits: {longest:?}"
    );

    // On from where a commit ended: its marker and what was aborted are no changes.
    for from in [500, 501, 1_001] {
        let mut brought = 0;
        eventually_or_show("it is read on", PATIENCE, || {
            match reader.read(1, Some(from), |_| brought += 1) {
                Ok(Progress::Done { next }) if next >= 1_001 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        assert_eq!(brought, 0, "from {from}");
    }
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(reader);
        ended.send(()).expect("it is waited for");
    });
    has_ended.recv_timeout(PATIENCE).expect("its client ends");
}

#[test]
fn partitions_are_read_back_one_after_the_other_without_waiting_between_them() {
    const MANY: i32 = 12;
    let world = World::new(MANY);
    let topic = world.topics().records;
    let writer = producer(&world, "writer");
    for partition in 0..MANY {
        write(&writer, &topic, partition, 0..10);
        writer.commit_transaction(PATIENCE).expect("committed");
    }
    let mut reader = ChangelogReader::new(&world.cluster(), &topic);
    let (mut open, mut found) = ((0..MANY).collect(), BTreeMap::new());
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    eventually_or_show("all are read", PATIENCE, || {
        pass(&mut reader, &mut open, &mut found, &mut longest);
        match open.is_empty() {
            true => Ok(()),
            false => Err(format!("{open:?}")),
        }
    });
    let took = began.elapsed();
    println!("{MANY} partitions were read in {took:?}");
    assert_eq!(found.len(), 10 * MANY as usize);
    // A fetch that waits in vain takes half a second by default, and would for each partition.
    assert!(took < Duration::from_secs(3), "{took:?}");
}
