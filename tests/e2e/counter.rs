//! A stage of one's own with state (`crates/choreography/examples/counter.rs`), whose processes are killed again and again.

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use quadrille_choreography::{Admin, Retention, TopicSpec};
use quadrille_proto::dlq_of;
use rdkafka::Message;

use crate::harness::{
    PATIENCE,
    client::{Client, Raw},
    eventually_or_show,
    process::binaries,
    world::World,
};

const PARTITIONS: i32 = 4;
const KEYS: usize = 12;
const WORDS: usize = 1_500;
/// Words a second.
const RATE: u32 = 150;
const INSTANCES: [&str; 3] = ["a", "b", "c"];

fn binary() -> PathBuf {
    binaries().join("examples").join("counter")
}

/// A process of the stage. It ends when its standard input is closed.
struct Counter(Child);

impl Counter {
    fn start(world: &World, instance: &str) -> Self {
        let path = world.folder.path().join(format!("counter-{instance}.log"));
        let mut log = File::options();
        let log = log.create(true).append(true).open(path).expect("a log");
        let mut command = Command::new(binary());
        command
            .args([&*world.pipeline, instance])
            .env("KAFKA_BOOTSTRAP_SERVERS", &world.bootstrap)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        Counter(command.spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("ended").success());
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    let mut letters = spec(dlq_of(&topic("words")), Retention::Unlimited);
    letters.message_bytes_max = Some(2 << 20);
    let specs = [
        spec(topic("words"), Retention::Broker),
        letters,
        spec(topic("counts"), Retention::Broker),
        spec(topic("counts-state"), Retention::Compacted),
    ];
    let admin = Admin::connect(&world.cluster()).expect("a client");
    admin.create(&specs).expect("topics");
}

/// The words to send: keys in turn, some of which are forgotten now and then, and some that the handler cannot stand.
fn words() -> impl Iterator<Item = (String, String)> {
    (0..WORDS).map(|n| {
        let key = format!("k{}", n % KEYS);
        let word = match n {
            n if n % 97 == 5 => format!("panic:{key}"),
            n if n % 89 == 7 => format!("reset:{key}"),
            _ => key.clone(),
        };
        (key, word)
    })
}

/// Of each key the counts, in order.
fn expected() -> BTreeMap<String, Vec<u64>> {
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (key, word) in words() {
        if word == key {
            let next = last.entry(key.clone()).or_default();
            *next += 1;
            counts.entry(key).or_default().push(*next);
        } else if word.starts_with("reset:") {
            last.remove(&key);
        }
    }
    counts
}

fn counted(client: &Client, topic: &str) -> BTreeMap<String, Vec<u64>> {
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in client.read(topic) {
        let text = String::from_utf8_lossy(message.payload().expect("a count")).into_owned();
        let (key, count) = text.split_once('=').expect("key=count");
        let count = count.parse().expect("a number");
        counts.entry(key.to_owned()).or_default().push(count);
    }
    counts
}

/// State, outputs and offsets are one transaction, and who takes a partition over begins with all of its state: no count is
/// missing, none comes twice, none is out of order, whatever is killed.
#[test]
fn a_counter_by_key_counts_each_record_once_although_its_processes_are_killed() {
    let world = World::new(PARTITIONS);
    create(&world);
    let topic = |suffix: &str| format!("{}.{suffix}", world.pipeline);
    let client = Client::new(&world);
    let mut counters = INSTANCES.map(|instance| Counter::start(&world, instance));
    let started = Instant::now();
    for (n, (key, word)) in (0_u32..).zip(words()) {
        let due = started + Duration::from_secs(1) * n / RATE;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            // The load's pace, not a wait for a condition.
            std::thread::park_timeout(early);
        }
        // All three in turn; for a moment two of them are gone.
        if n % 150 == 75 {
            let turn = (n / 150) as usize;
            let (one, other) = (turn % 3, (turn + 1) % 3);
            counters[one].kill();
            if turn % 4 == 3 {
                counters[other].kill();
                counters[other] = Counter::start(&world, INSTANCES[other]);
            }
            counters[one] = Counter::start(&world, INSTANCES[one]);
        }
        client.send(&topic("words"), &Raw::json(&key, word));
    }
    client.flush();
    let expected = expected();
    let all: usize = expected.values().map(Vec::len).sum();
    eventually_or_show("everything is counted", PATIENCE * 2, || {
        let found = counted(&client, &topic("counts"));
        let count: usize = found.values().map(Vec::len).sum();
        match count >= all {
            true => Ok(()),
            false => Err(format!("{count} of {all}")),
        }
    });
    counters.into_iter().for_each(Counter::end);
    assert_eq!(counted(&client, &topic("counts")), expected);
    let panics = words()
        .filter(|(_, word)| word.starts_with("panic:"))
        .count();
    let letters = client.read(&dlq_of(&topic("words")));
    assert_eq!(letters.len(), panics, "a dead letter leaves no count");
}
