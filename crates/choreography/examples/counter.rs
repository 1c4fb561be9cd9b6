//! A stage of one's own with state, a second output and a background task: it counts records by key, exactly once, whatever
//! is killed.
//!
//! It reads `<name>.words`, whose payloads are keys, and writes `<name>.counts` (`key=count`). What it remembers is on the
//! compacted topic `<name>.counts-state`, written in the transaction of the counts, and read back by whoever holds the
//! partition next. `reset:<key>` forgets a key; `panic:<key>` panics half-way, and shows what becomes of such a record.
//!
//! ```text
//! KAFKA_BOOTSTRAP_SERVERS=localhost:9092 cargo run -p quadrille-choreography --example counter -- demo one
//! ```
//! It ends when its standard input does.

use std::{
    collections::HashMap,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use quadrille_choreography::{
    Admin, ChangelogReader, Cluster, CommitMode, Delivered, Destination, Handler, Incoming, Item,
    Limits, Output, OutputKey, OutputTopic, Restore, Stage, StageConfig, changelog, handler,
};
use quadrille_telemetry::{Registry, Tracing, metrics::LoopMetrics};

type Counts = HashMap<Vec<u8>, u64>;

struct Counter {
    changelog: ChangelogReader,
    /// Of each partition held, as committed.
    counts: HashMap<i32, Counts>,
    /// Of the batch in hand: None where a key is forgotten.
    pending: HashMap<(i32, Vec<u8>), Option<u64>>,
    /// As it was before the last call of `handle`.
    savepoint: HashMap<(i32, Vec<u8>), Option<u64>>,
    restored: Arc<AtomicU64>,
}

impl Counter {
    fn count(&self, partition: i32, key: &[u8]) -> u64 {
        let committed = || self.counts.get(&partition)?.get(key).copied();
        match self.pending.get(&(partition, key.to_vec())) {
            Some(pending) => pending.unwrap_or_default(),
            None => committed().unwrap_or_default(),
        }
    }
}

impl Handler for Counter {
    type Record = Vec<u8>;

    fn decode(&mut self, incoming: &Incoming<'_>, key: &mut Vec<u8>) -> Result<(), handler::Error> {
        let payload = incoming.payload.unwrap_or_default();
        if payload.is_empty() {
            return Err(handler::Error::dead_letter(
                "empty",
                "the record has no key",
            ));
        }
        key.clear();
        key.extend_from_slice(payload);
        Ok(())
    }

    fn begin(&mut self) {
        self.pending.clear();
    }

    fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
        self.savepoint.clone_from(&self.pending);
        for item in items {
            let partition = item.incoming.partition;
            let change = |key| Destination {
                output: Some("state"),
                key: OutputKey::OnInputPartition(key),
                headers: &[],
            };
            if let Some(key) = item.record.strip_prefix(b"reset:") {
                self.pending.insert((partition, key.to_vec()), None);
                output.absorb("reset");
                output.with_tombstone(change(key));
                continue;
            }
            let panics = item.record.strip_prefix(b"panic:");
            let key = panics.unwrap_or(item.record);
            let count = self.count(partition, key) + 1;
            self.pending.insert((partition, key.to_vec()), Some(count));
            assert!(panics.is_none(), "as it was told");
            output.emit(|payload| {
                payload.extend_from_slice(key);
                payload.extend_from_slice(format!("={count}").as_bytes());
            });
            output.with(change(key), |payload| {
                payload.extend_from_slice(count.to_string().as_bytes());
            });
        }
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn restore(&mut self, partition: i32, _: Option<i64>) -> Result<Restore, handler::Error> {
        let counts = self.counts.entry(partition).or_default();
        let read = self.changelog.read(partition, None, |change| {
            let text = change.payload.map(String::from_utf8_lossy);
            match text.and_then(|text| text.parse().ok()) {
                Some(count) => counts.insert(change.key.to_vec(), count),
                None => counts.remove(change.key),
            };
        });
        if read.as_ref().is_err_and(changelog::Error::begins_anew) {
            counts.clear();
        }
        let progress = Restore::from(read?);
        if progress == Restore::Done {
            self.restored.fetch_add(1, Ordering::Relaxed);
        }
        Ok(progress)
    }

    fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.counts.remove(partition);
            self.changelog.forget(*partition);
        }
    }

    fn committed(&mut self, _: &Delivered) {
        for ((partition, key), count) in self.pending.drain() {
            let counts = self.counts.entry(partition).or_default();
            match count {
                Some(count) => counts.insert(key, count),
                None => counts.remove(&key),
            };
        }
    }

    fn aborted(&mut self) {
        self.pending.clear();
    }

    fn panicked(&mut self) {
        self.pending.clone_from(&self.savepoint);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(instance)) = (args.next(), args.next()) else {
        return Err("usage: counter NAME INSTANCE".into());
    };
    let servers = std::env::var("KAFKA_BOOTSTRAP_SERVERS")?;
    let cluster = Cluster::new(&servers, "")?;
    let topic = |suffix: &str| format!("{name}.{suffix}");
    let config = StageConfig {
        service: "counter",
        group: format!("quadrille.counter.{name}"),
        input: topic("words"),
        outputs: vec![
            OutputTopic {
                name: "counts",
                topic: topic("counts"),
            },
            OutputTopic {
                name: "state",
                topic: topic("counts-state"),
            },
        ],
        pipeline: name.clone(),
        instance,
        lanes: 2,
        commit: CommitMode::Kafka,
        limits: Limits::default(),
        latency_objective: None,
        cluster: cluster.clone(),
    };
    let metrics = LoopMetrics::register(&Registry::default());
    let stage = Stage {
        topics: Admin::connect(&config.cluster)?.prepare(&config)?,
        metrics: metrics.stage(&config.pipeline, &config.group, &config.input),
        tracing: Tracing::off(),
        config,
    };
    let restored = Arc::new(AtomicU64::new(0));
    let running = stage.run(|_| Counter {
        changelog: ChangelogReader::new(&cluster, &topic("counts-state")),
        counts: HashMap::new(),
        pending: HashMap::new(),
        savepoint: HashMap::new(),
        restored: Arc::clone(&restored),
    })?;
    let health = running.health();
    thread::spawn(move || {
        let mut before = String::new();
        loop {
            let waits = health.ready().err().unwrap_or_else(|| "ready".to_owned());
            let now = format!("{waits}, {} restored", restored.load(Ordering::Relaxed));
            if now != before {
                println!("{now}");
                before = now;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    // Until whoever started it closes the pipe.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    running.stop();
    Ok(running.join()?)
}
