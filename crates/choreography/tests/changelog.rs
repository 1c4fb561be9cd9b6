//! A changelog read back, on the embedded broker. What transactions do to it is tested end to end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use quadrille_choreography::{
    ChangelogFollower, ChangelogReader, EmbeddedBroker, Retention, TopicSpec,
    changelog::{Error, Progress},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;
const ROWS: usize = 400;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

struct Changelog {
    broker: EmbeddedBroker,
    reader: ChangelogReader,
}

impl Changelog {
    /// Each partition has rows of its own.
    fn new() -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        let spec = TopicSpec {
            name: "state".to_owned(),
            partitions: PARTITIONS,
            retention: Retention::Compacted,
            message_bytes_max: None,
        };
        broker.create(&[spec]).unwrap();
        let changelog = Changelog {
            reader: ChangelogReader::new(&broker.cluster().unwrap(), "state"),
            broker,
        };
        let row = |n| Some(format!("value {n}"));
        for partition in 0..PARTITIONS {
            changelog.write(partition, (0..ROWS).map(|n| (n, row(n))));
        }
        changelog
    }

    fn write(&self, partition: i32, rows: impl Iterator<Item = (usize, Option<String>)>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.bootstrap_servers())
            .create()
            .unwrap();
        for (n, value) in rows {
            let key = format!("{partition}/{n}");
            let mut record = BaseRecord::to("state").partition(partition).key(&key);
            record.payload = value.as_ref();
            producer.send(record).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// One call; what it brings goes to the rows.
    fn read(
        &mut self,
        partition: i32,
        from: Option<i64>,
        rows: &mut Rows,
    ) -> Result<Progress, Error> {
        self.reader.read(partition, from, |change| {
            match change.payload {
                Some(value) => rows.insert(change.key.to_vec(), value.to_vec()),
                None => rows.remove(change.key),
            };
        })
    }

    /// Reads a partition to its end; how often that took a call, and what the store stands for then.
    fn read_all(
        &mut self,
        partition: i32,
        from: Option<i64>,
        rows: &mut Rows,
    ) -> Result<(usize, i64), Error> {
        let deadline = Instant::now() + PATIENCE;
        for calls in 1.. {
            if let Progress::Done { next } = self.read(partition, from, rows)? {
                return Ok((calls, next));
            }
            assert!(Instant::now() < deadline, "it is read");
            std::thread::yield_now();
        }
        unreachable!("it returns")
    }
}

fn rows(partition: i32) -> Rows {
    let row = |n| {
        let key = format!("{partition}/{n}");
        (key.into_bytes(), format!("value {n}").into_bytes())
    };
    (0..ROWS).map(row).collect()
}

#[test]
fn partitions_are_read_to_their_ends_in_turn_whoever_asks_first() {
    let mut changelog = Changelog::new();
    let mut found: BTreeMap<i32, Rows> = BTreeMap::new();
    let mut open: Vec<i32> = (0..PARTITIONS).rev().collect();
    let deadline = Instant::now() + PATIENCE;
    let mut totals = Vec::new();
    while !open.is_empty() {
        open.retain(|partition| {
            let rows = found.entry(*partition).or_default();
            match changelog.read(*partition, None, rows).unwrap() {
                Progress::Done { next } => {
                    assert_eq!(next, ROWS as i64);
                    false
                }
                Progress::Pending { done, total } => {
                    assert!(done <= total);
                    totals.push(total);
                    true
                }
            }
        });
        assert!(Instant::now() < deadline, "all are read");
    }
    for partition in 0..PARTITIONS {
        assert_eq!(found[&partition], rows(partition));
    }
    assert!(totals.contains(&(ROWS as u64)), "how much there is is told");
}

#[test]
fn a_store_reads_on_from_where_it_stands_and_not_at_all_at_the_end() {
    let mut changelog = Changelog::new();
    let mut found = Rows::new();
    let end = ROWS as i64;
    assert_eq!(changelog.read_all(1, Some(end), &mut found).unwrap().1, end);
    assert!(found.is_empty(), "there is nothing behind it");
    let gone = (0..2).map(|n| (n, None));
    changelog.write(1, gone.chain([(7, Some("newer".to_owned()))]));
    found = rows(1);
    let read = changelog.read_all(1, Some(end), &mut found).unwrap();
    assert_eq!(read.1, end + 3);
    let mut expected = rows(1);
    expected.remove(b"1/0".as_slice());
    expected.remove(b"1/1".as_slice());
    expected.insert(b"1/7".to_vec(), b"newer".to_vec());
    assert_eq!(found, expected);
}

#[test]
fn a_store_beyond_the_end_of_the_log_is_told_so_and_then_read_anew() {
    let mut changelog = Changelog::new();
    let mut found = Rows::new();
    let error = changelog.read_all(0, Some(5_000), &mut found).unwrap_err();
    assert!(error.begins_anew(), "{error}");
    assert!(
        matches!(error, Error::Ahead { partition: 0, from: 5_000, end, .. } if end == ROWS as i64)
    );
    changelog.read_all(0, None, &mut found).unwrap();
    assert_eq!(found, rows(0));
}

#[test]
fn a_partition_that_is_given_up_and_comes_back_is_read_from_its_start() {
    let mut changelog = Changelog::new();
    let deadline = Instant::now() + PATIENCE;
    let mut before = Rows::new();
    while before.is_empty() {
        let _ = changelog.read(2, None, &mut before).unwrap();
        assert!(Instant::now() < deadline, "something is read");
    }
    changelog.reader.forget(2);
    // Its end is not the one that was asked for first.
    changelog.write(2, [(ROWS, Some("late".to_owned()))].into_iter());
    let mut found = Rows::new();
    changelog.read_all(2, None, &mut found).unwrap();
    let mut expected = rows(2);
    expected.insert(format!("2/{ROWS}").into_bytes(), b"late".to_vec());
    assert_eq!(found, expected);
}

#[test]
fn a_partition_that_nobody_asks_about_any_more_makes_way() {
    let mut changelog = Changelog::new();
    let mut found = Rows::new();
    // Its turn begins.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match changelog.read(0, None, &mut found).unwrap() {
            Progress::Pending { total, .. } if total > 0 => break,
            Progress::Pending { .. } => assert!(Instant::now() < deadline, "it is known"),
            Progress::Done { .. } => panic!("nothing was read yet"),
        }
    }
    let mut other = Rows::new();
    changelog.read_all(1, None, &mut other).unwrap();
    assert_eq!(other, rows(1));
    changelog.read_all(0, None, &mut found).unwrap();
    assert_eq!(found, rows(0));
}

#[test]
fn a_topic_that_is_not_there_is_an_error_that_names_it_and_may_be_tried_again() {
    let broker = EmbeddedBroker::start().unwrap();
    let mut reader = ChangelogReader::new(&broker.cluster().unwrap(), "nowhere");
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match reader.read(0, None, |_| {}) {
            Ok(Progress::Pending { .. }) => assert!(Instant::now() < deadline, "it fails"),
            Ok(Progress::Done { next }) => panic!("read to {next}"),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(!error.begins_anew());
    assert!(error.to_string().contains("nowhere [0]"), "{error}");
}

/// Reads on until it is as far in these partitions as `ends` says, and knows that this is all.
fn follow(
    follower: &mut ChangelogFollower,
    found: &mut BTreeMap<i32, Rows>,
    ends: &[(i32, i64)],
) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let is_there = |follower: &ChangelogFollower, (partition, end): &(i32, i64)| {
        let place = follower.place(*partition);
        place.is_some_and(|it| it.next == *end && it.end == Some(*end))
    };
    while !ends.iter().all(|end| is_there(follower, end)) {
        assert!(Instant::now() < deadline, "all is read");
        follower.read(Duration::from_millis(10), |partition, change| {
            let rows = found.entry(partition).or_default();
            match change.payload {
                Some(value) => rows.insert(change.key.to_vec(), value.to_vec()),
                None => rows.remove(change.key),
            };
        })?;
    }
    Ok(())
}

#[test]
fn partitions_are_followed_beyond_their_ends_while_others_come_and_go() {
    let changelog = Changelog::new();
    let cluster = changelog.broker.cluster().unwrap();
    let mut follower = ChangelogFollower::new(&cluster, "state");
    let (mut found, end) = (BTreeMap::new(), ROWS as i64);
    assert!(follower.is_idle() && follower.place(0).is_none());
    follower.follow(0, None);
    follow(&mut follower, &mut found, &[(0, end)]).unwrap();
    follower.follow(1, None);
    follower.follow(2, Some(end - 1));
    follow(&mut follower, &mut found, &[(0, end), (1, end), (2, end)]).unwrap();
    assert_eq!((&found[&0], &found[&1]), (&rows(0), &rows(1)));
    assert_eq!(found[&2].len(), 1, "what is behind the store");
    assert_eq!(follower.place(1).unwrap().end_at_start, end);

    follower.forget(1);
    for partition in 0..PARTITIONS {
        changelog.write(partition, [(ROWS, Some("more".to_owned()))].into_iter());
    }
    follow(&mut follower, &mut found, &[(0, end + 1), (2, end + 1)]).unwrap();
    assert_eq!(found[&0].len(), ROWS + 1);
    assert_eq!((&found[&1], found[&2].len()), (&rows(1), 2));
    assert_eq!(follower.place(1), None);

    // Back again, as a lane left it.
    follower.follow(1, Some(end));
    follow(&mut follower, &mut found, &[(1, end + 1)]).unwrap();
    assert_eq!(found[&1].len(), ROWS + 1);
}

#[test]
fn a_followed_store_that_the_log_does_not_continue_is_told_of_and_the_others_go_on() {
    let changelog = Changelog::new();
    let cluster = changelog.broker.cluster().unwrap();
    let mut follower = ChangelogFollower::new(&cluster, "state");
    let (mut found, end) = (BTreeMap::new(), ROWS as i64);
    follower.follow(0, None);
    follower.follow(1, Some(5_000));
    let ends = [(0, end), (1, end)];
    let error = follow(&mut follower, &mut found, &ends).unwrap_err();
    assert!(error.begins_anew() && error.partition() == 1, "{error}");
    assert_eq!(follower.place(1), None, "it is not read any more");
    follower.follow(1, None);
    follow(&mut follower, &mut found, &ends).unwrap();
    assert_eq!((&found[&0], &found[&1]), (&rows(0), &rows(1)));
}
