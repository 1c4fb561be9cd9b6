//! Records that are hard to dead-letter: compressed by their sender to a fraction of their size, refused by the
//! dead-letter topic, or not to be read at all. None of them stops its partition.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use futures_executor::block_on;
use quadrille_local::Kafka;
use quadrille_proto::{Service, dlq_of};
use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    message::OwnedMessage,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::harness::{
    PATIENCE, broker,
    client::{Client, Raw, header, record},
    eventually, eventually_or_show, http,
    process::Process,
    world::World,
};

/// Kafka's default of `max.message.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;
const CLASS: &str = "__connect.errors.exception.class.name";
const OFFSET: &str = "__connect.errors.offset";
const LAST: &str = "quadrille.errors.offset.last";
const TRUNCATED: &str = "quadrille.errors.truncated";
const TRUNCATED_COUNT: &str = "quadrille_dead_letters_truncated_total";

/// A sender that compresses: one batch of all that it is given, sent by the flush.
struct Sender(BaseProducer);

impl Sender {
    fn new(world: &World, codec: &str) -> Self {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", &world.bootstrap)
            .set("compression.type", codec)
            .set("message.max.bytes", "1000000000")
            .set("queue.buffering.max.kbytes", "2000000")
            .set("batch.size", "1000000000")
            .set("linger.ms", "60000");
        Sender(settings.create().expect("a producer"))
    }

    /// To partition 0 of the inbox; confirmed when this returns.
    fn send(&self, world: &World, values: &[&[u8]]) {
        let topic = world.topics().inbox;
        for value in values {
            let record = BaseRecord::<'_, [u8], [u8]>::to(&topic).partition(0);
            let sent = self.0.send(record.key(b"p-1").payload(value));
            sent.map_err(|(error, _)| error).expect("it is taken");
        }
        self.0.flush(PATIENCE).expect("Kafka confirms");
        assert_eq!(self.0.in_flight_count(), 0);
    }
}

/// A record that ingest takes for too large, which compresses to a thousandth.
fn large(id: &str, bytes: usize) -> Vec<u8> {
    let mut value = record(id, "p-1", 148).into_bytes();
    value.pop();
    value.extend_from_slice(br#","note":""#);
    value.resize(bytes - 2, b'x');
    value.extend_from_slice(br#""}"#);
    value
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// A good record of partition 0.
fn good(client: &Client, world: &World, id: &str) {
    let raw = Raw {
        partition: Some(0),
        ..Raw::json("p-1", record(id, "p-1", 100))
    };
    client.send(&world.topics().inbox, &raw);
    client.flush();
}

fn start(world: &World) -> Process {
    let mut ingest = world.start(Service::Ingest, "a");
    ingest.ready();
    ingest
}

/// Waits until ingest has passed on this many good records and written this many letters; the letters in order.
#[track_caller]
fn outcomes(world: &World, client: &Client, good: usize, letters: usize) -> Vec<OwnedMessage> {
    let topics = world.topics();
    let what = format!("{good} records and {letters} letters");
    eventually_or_show(&what, PATIENCE, || {
        let passed = client.read(&topics.records);
        let mut found = client.read(&dlq_of(&topics.inbox));
        // What a test sent there itself is none.
        found.retain(|letter| header(letter, CLASS).is_some());
        let classes: Vec<_> = found.iter().map(|it| header(it, CLASS)).collect();
        assert!(
            passed.len() <= good && found.len() <= letters,
            "too many: {} and {classes:?}",
            passed.len()
        );
        match (passed.len(), found.len()) == (good, letters) {
            true => Ok(found),
            false => Err(format!("{} records, letters {classes:?}", passed.len())),
        }
    })
}

fn metric(world: &World, ingest: &Process, name: &str) -> Option<f64> {
    ingest.metric(&format!("{name}{{pipeline=\"{}\"}}", world.pipeline))
}

#[test]
fn what_was_compressed_below_the_topics_limit_is_dead_lettered_with_its_bytes() {
    let world = World::limited(2, MESSAGE_BYTES_MAX);
    let ingest = start(&world);
    let client = Client::new(&world);
    let cases = [
        ("zstd", 2 << 20),
        ("gzip", 2 << 20),
        ("lz4", 2 << 20),
        ("snappy", 2 << 20),
        ("zstd", 40 << 20),
    ];
    let mut sent = Vec::new();
    for (number, (codec, bytes)) in cases.into_iter().enumerate() {
        good(&client, &world, &format!("g{number}"));
        let value = large(&format!("c{number}"), bytes);
        Sender::new(&world, codec).send(&world, &[&value]);
        sent.push(value);
    }
    good(&client, &world, "last");
    let letters = outcomes(&world, &client, cases.len() + 1, cases.len());
    for (letter, value) in letters.iter().zip(&sent) {
        let class = header(letter, CLASS).unwrap_or_default();
        assert!(class.ends_with("too_large"), "{class}");
        assert!(letter.payload() == Some(value.as_slice()), "its bytes");
        assert_eq!(header(letter, TRUNCATED), None);
    }
    for quiet in [
        "quadrille_transaction_aborts_total",
        "quadrille_lane_restarts_total",
        TRUNCATED_COUNT,
    ] {
        assert_eq!(metric(&world, &ingest, quiet), Some(0.0), "{quiet}");
    }
}

/// What the dead-letter topic refuses is altered while the service runs: at its start it looks.
#[test]
fn what_the_dead_letter_topic_refuses_leaves_a_letter_that_names_it() {
    let world = World::limited(2, MESSAGE_BYTES_MAX);
    let ingest = start(&world);
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    narrow(&world, &dlq_of(&inbox));
    let garbage = |value: Vec<u8>, timestamp_ms| Raw {
        partition: Some(0),
        key: Some(b"p-1".to_vec()),
        value: Some(value),
        timestamp_ms,
        ..Raw::default()
    };
    let old = Some(1_700_000_000_000);
    good(&client, &world, "g0");
    let raws = [
        garbage(noise(200_000), None),
        garbage(b"small".to_vec(), None),
        garbage(noise(300_000), None),
        garbage(b"old".to_vec(), old),
        garbage(noise(100_000), None),
    ];
    for raw in &raws {
        client.send(&inbox, raw);
    }
    good(&client, &world, "g1");
    let letters = outcomes(&world, &client, 2, raws.len());
    let whys = letters.iter().map(|letter| header(letter, TRUNCATED));
    let large = || Some("too_large".to_owned());
    let expected = [large(), None, large(), Some("refused".to_owned()), large()];
    assert_eq!(whys.collect::<Vec<_>>(), expected);
    for (number, letter) in letters.iter().enumerate() {
        // The good one lies before them.
        let offset = (number + 1).to_string();
        assert_eq!(header(letter, OFFSET), Some(offset));
        assert_eq!(
            header(letter, "__connect.errors.topic").as_ref(),
            Some(&inbox)
        );
        assert_eq!(
            header(letter, "__connect.errors.partition").as_deref(),
            Some("0")
        );
        assert_eq!(letter.key(), Some(&b"p-1"[..]));
        match header(letter, TRUNCATED) {
            Some(_) => assert_eq!(letter.payload(), None),
            None => assert_eq!(letter.payload(), Some(&b"small"[..])),
        }
    }
    assert_eq!(metric(&world, &ingest, TRUNCATED_COUNT), Some(4.0));
    assert_eq!(
        metric(&world, &ingest, "quadrille_lane_restarts_total"),
        Some(0.0)
    );
}

/// Lets a dead-letter topic take little, and nothing old, and waits until the broker holds to it.
fn narrow(world: &World, dlq: &str) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &world.bootstrap);
    let admin: AdminClient<DefaultClientContext> = settings.create().expect("a client");
    let config = AlterConfig::new(ResourceSpecifier::Topic(dlq))
        .set("max.message.bytes", "20000")
        .set("message.timestamp.before.max.ms", "3600000");
    let altered = block_on(admin.alter_configs(&[config], &AdminOptions::new()));
    altered.expect("an answer")[0].as_ref().expect("altered");
    let probe: BaseProducer<Reports> = settings
        .set("message.timeout.ms", "5000")
        .create_with_context(Reports::default())
        .expect("a producer");
    let value = noise(30_000);
    eventually("the broker refuses what is too large", PATIENCE, || {
        let record = BaseRecord::<'_, [u8], [u8]>::to(dlq).partition(1);
        probe
            .send(record.payload(&value))
            .map_err(|(error, _)| error)
            .expect("taken");
        probe.flush(PATIENCE).expect("an answer");
        let context = probe.context();
        context
            .0
            .load(std::sync::atomic::Ordering::SeqCst)
            .then_some(())
    });
}

/// Whether a record was refused.
#[derive(Default)]
struct Reports(std::sync::atomic::AtomicBool);

impl rdkafka::ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0
            .store(result.is_err(), std::sync::atomic::Ordering::SeqCst);
    }
}

/// With zstd the client takes no more than it may receive (100 MB); with gzip it takes anything, and no letter can.
#[test]
fn a_batch_that_does_not_decompress_is_stepped_past() {
    let world = World::limited(2, MESSAGE_BYTES_MAX);
    let ingest = start(&world);
    let client = Client::new(&world);
    good(&client, &world, "g0");
    let part = large("a", 40 << 20);
    Sender::new(&world, "zstd").send(&world, &[&part, &part, &part]);
    good(&client, &world, "g1");
    let whole = large("b", 110 << 20);
    let zstd = Sender::new(&world, "zstd");
    zstd.send(&world, &[&whole]);
    // Nothing lies between two of them.
    zstd.send(&world, &[&part, &part, &part]);
    Sender::new(&world, "gzip").send(&world, &[&whole]);
    good(&client, &world, "g2");
    let letters = outcomes(&world, &client, 3, 4);
    let places = letters.iter().map(|letter| {
        let number = |name| header(letter, name).and_then(|text| text.parse::<i64>().ok());
        (number(OFFSET), number(LAST))
    });
    let expected = [(1, Some(3)), (5, Some(5)), (6, Some(8)), (9, None)];
    let expected = expected.map(|(first, last)| (Some(first), last));
    assert_eq!(places.collect::<Vec<_>>(), expected);
    for letter in &letters {
        let class = header(letter, CLASS).unwrap_or_default();
        let gzip = header(letter, LAST).is_none();
        let why = if gzip { "too_large" } else { "unreadable" };
        assert!(class.ends_with(why), "{class}");
        assert_eq!(header(letter, TRUNCATED).as_deref(), Some(why));
        assert_eq!(letter.payload(), None);
    }
    assert_eq!(metric(&world, &ingest, TRUNCATED_COUNT), Some(4.0));
}

#[test]
fn a_batch_larger_than_the_client_may_receive_is_stepped_past() {
    let world = World::limited(2, 4 << 20);
    let launch = world
        .launch(Service::Ingest, "a")
        .env("KAFKA_PROPERTIES", "receive.message.max.bytes=2000000");
    let mut ingest = launch.start();
    ingest.ready();
    let client = Client::new(&world);
    good(&client, &world, "g0");
    let third = noise(1_000_000);
    Sender::new(&world, "none").send(&world, &[&third, &third, &third]);
    good(&client, &world, "g1");
    Sender::new(&world, "none").send(&world, &[&noise(3_000_000)]);
    let letters = outcomes(&world, &client, 2, 2);
    let last = letters.iter().map(|letter| header(letter, LAST));
    let expected = ["3", "5"].map(|last| Some(last.to_owned()));
    assert_eq!(last.collect::<Vec<_>>(), expected);
    // It goes on behind the last of them, too, and its lag ends.
    good(&client, &world, "g2");
    outcomes(&world, &client, 3, 2);
    let group = format!("quadrille.ingest.{}", world.pipeline);
    let lag = format!(
        "kafka_consumergroup_lag{{consumergroup=\"{group}\",topic=\"{}\",partition=\"0\"}}",
        world.topics().inbox
    );
    eventually("nothing is left", PATIENCE, || {
        (ingest.metric(&lag) == Some(0.0)).then_some(())
    });
}

/// On a broker of its own, whose log is damaged on disk.
#[test]
fn a_batch_whose_checksum_fails_is_stepped_past() {
    let kafka = broker::options().start().expect("Apache Kafka starts");
    let world = World::on(kafka.bootstrap_servers(), 2);
    let client = Client::new(&world);
    for id in ["g0", "damaged", "g1"] {
        good(&client, &world, id);
    }
    damage(&kafka, &world);
    let ingest = start(&world);
    let letters = outcomes(&world, &client, 2, 1);
    assert_eq!(header(&letters[0], OFFSET).as_deref(), Some("1"));
    assert_eq!(header(&letters[0], LAST).as_deref(), Some("1"));
    assert_eq!(metric(&world, &ingest, TRUNCATED_COUNT), Some(1.0));
}

/// Changes one letter of the record in the log's file. Kafka's brokers send files as they lie there.
fn damage(kafka: &Kafka, world: &World) {
    let folder = kafka.log().parent().expect("a folder").join("data");
    let inbox = world.topics().inbox;
    let path: PathBuf = folder.join(format!("{inbox}-0/00000000000000000000.log"));
    let bytes = fs::read(&path).expect("the log");
    let at = bytes
        .windows(7)
        .position(|it| it == b"damaged")
        .expect("it is there");
    let file = File::options().write(true).open(&path).expect("the log");
    file.write_all_at(b"D", at as u64).expect("written");
}

/// What stops a partition is alerted: without its dead-letter topic nothing of the batch is lost, and the aborts count.
#[test]
fn a_missing_dead_letter_topic_stops_its_partition_and_shows() {
    let world = World::limited(2, MESSAGE_BYTES_MAX);
    let ingest = start(&world);
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    let dlq = dlq_of(&inbox);
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &world.bootstrap);
    let admin: AdminClient<DefaultClientContext> = settings.create().expect("a client");
    let options = AdminOptions::new();
    let deleted = block_on(admin.delete_topics(&[&dlq], &options)).expect("an answer");
    deleted[0].as_ref().expect("deleted");
    let raw = Raw {
        partition: Some(0),
        value: Some(b"garbage".to_vec()),
        ..Raw::default()
    };
    client.send(&inbox, &raw);
    client.flush();
    good(&client, &world, "behind");
    eventually("its batch is aborted again and again", PATIENCE, || {
        let aborts = metric(&world, &ingest, "quadrille_transaction_aborts_total")?;
        (aborts >= 2.0).then_some(())
    });
    assert!(client.read(&world.topics().records).is_empty());
    let (status, body) = http::get(ingest.address(), "/livez");
    assert_eq!(status, 200, "{body}");
    quadrille_choreography::Admin::connect(&world.cluster())
        .and_then(|admin| admin.create(&world.specs(MESSAGE_BYTES_MAX)))
        .expect("created again");
    outcomes(&world, &client, 1, 1);
}
