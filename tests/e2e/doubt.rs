//! Transactions whose end is in doubt: what is late, lost or slow on the way between a service and the broker.

use std::time::{Duration, Instant};

use quadrille_local::{
    Kafka,
    proxy::{self, Held, Proxy, Verdict},
};
use quadrille_proto::Service;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::harness::{
    PATIENCE, broker,
    client::{Client, Raw, record},
    eventually,
    process::Process,
    world::World,
};

const PRODUCE: i16 = 0;
const ADD_PARTITIONS: i16 = 24;
const ADD_OFFSETS: i16 = 25;
const END: i16 = 26;

/// Ingest on one partition with one lane, behind a proxy; the test's own clients go past it.
struct Setting {
    proxy: Proxy,
    world: World,
    client: Client,
    ingest: Process,
    _kafka: Kafka,
}

impl Setting {
    fn new() -> Self {
        let (proxy, kafka) = proxy::before(broker::options()).expect("Apache Kafka starts");
        let world = World::on(kafka.bootstrap_servers(), 1);
        let launch = world
            .launch(Service::Ingest, "a")
            .env("KAFKA_BOOTSTRAP_SERVERS", &proxy.bootstrap_servers());
        let mut ingest = launch.start();
        ingest.ready();
        let client = Client::new(&world);
        let setting = Setting {
            proxy,
            world,
            client,
            ingest,
            _kafka: kafka,
        };
        setting.send("first");
        setting.passed_on(1);
        setting
    }

    fn send(&self, id: &str) {
        let raw = Raw::json("p", record(id, "p", 80));
        self.client.send(&self.world.topics().inbox, &raw);
        self.client.flush();
    }

    /// Waits until ingest's group is past so many records of the inbox; they are on the next topic once each.
    #[track_caller]
    fn passed_on(&self, count: usize) {
        let topics = self.world.topics();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.world.bootstrap)
            .set("group.id", Service::Ingest.group(&self.world.pipeline))
            .create()
            .expect("a consumer");
        eventually("the group is past the records", PATIENCE, || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topics.inbox, 0);
            let committed = consumer.committed_offsets(list, PATIENCE).ok()?;
            let past = committed.elements().first()?.offset() == Offset::Offset(count as i64);
            past.then_some(())
        });
        let found = self.client.read(&topics.records).len();
        assert_eq!(found, count, "records passed on");
    }

    fn restarts(&self) -> f64 {
        let line = "quadrille_lane_restarts_total{";
        self.ingest.metric(line).expect("the metric")
    }
}

#[test]
fn a_commit_that_is_late_does_not_end_a_later_transaction() {
    let mut setting = Setting::new();
    let (late, open) = (Held::new(), Held::new());
    let mut step = 0;
    setting.proxy.rule({
        let (late, open) = (late.clone(), open.clone());
        move |request| match (step, request.api_key) {
            (0, END) => {
                step = 1;
                Verdict::Late(late.clone())
            }
            // The next transaction has outputs, and all are delivered.
            (1, ADD_PARTITIONS) => {
                step = 2;
                Verdict::Pass
            }
            (2, ADD_OFFSETS) => {
                step = 3;
                Verdict::Hold(open.clone())
            }
            _ => Verdict::Pass,
        }
    });
    setting.send("second");
    assert!(late.came(PATIENCE), "a commit is sent");
    setting.send("third");
    assert!(open.came(PATIENCE), "a later transaction is open");
    late.release();
    assert!(late.is_answered(PATIENCE), "the late commit is there");
    // The open transaction comes to nothing, but for what the late commit made of it.
    setting.ingest.kill();
    setting.proxy.no_rule();
    setting.ingest = setting.ingest.launch.start();
    setting.passed_on(3);
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let setting = Setting::new();
    // Whatever the client sends after it is lost as well, until the commit has timed out.
    let mut lost_at: Option<Instant> = None;
    setting.proxy.rule(move |request| match request.api_key {
        END => match lost_at {
            None => {
                lost_at = Some(Instant::now());
                Verdict::LoseAnswer
            }
            Some(at) if at.elapsed() < Duration::from_secs(11) => Verdict::Lose,
            Some(_) => Verdict::Pass,
        },
        _ => Verdict::Pass,
    });
    setting.send("second");
    setting.passed_on(2);
    setting.send("third");
    setting.passed_on(3);
    assert_eq!(setting.restarts(), 0.0, "the lane kept its partitions");
    assert!(setting.ingest.log().contains("producer replaced"));
}

#[test]
fn a_transaction_that_timed_out_is_blamed_on_nobody_and_done_again() {
    let setting = Setting::new();
    // Its timeout is 10 s and the broker looks every second: it is ended before its offsets come. None of the client's
    // calls takes 10 s.
    let mut slow = vec![(ADD_OFFSETS, 5), (PRODUCE, 8)];
    setting.proxy.rule(move |request| {
        match slow.pop_if(|(api_key, _)| *api_key == request.api_key) {
            Some((_, seconds)) => Verdict::Slow(Duration::from_secs(seconds)),
            None => Verdict::Pass,
        }
    });
    setting.send("second");
    setting.passed_on(2);
    setting.send("third");
    setting.passed_on(3);
    let log = setting.ingest.log();
    assert!(log.contains("producer replaced"), "{log}");
    assert!(log.contains("took longer than 10 s"), "{log}");
    assert!(!log.contains("QUADRILLE_INSTANCE"), "{log}");
    assert_eq!(setting.restarts(), 0.0, "the lane kept its partitions");
}
