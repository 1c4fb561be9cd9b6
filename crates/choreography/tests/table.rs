//! Tables on the embedded broker: read to the end and on, written in one transaction, fetched by offset.
//! The broker is a mock: it shows records of aborted transactions and compacts nothing.

use std::time::{Duration, Instant};

use quadrille_choreography::{
    Cluster, EmbeddedBroker, TableEvent, TableReader, TableState, TableWrite, TopicSpec,
    fetch_record, fetch_records, read_table,
    table::{self, fetch, write},
    write_table,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "quadrille.models";

fn broker() -> (EmbeddedBroker, Cluster) {
    let broker = EmbeddedBroker::start().expect("the embedded broker");
    let specs = TopicSpec::shared();
    broker.create(&specs).expect("topics");
    let cluster = broker.cluster().expect("a cluster");
    (broker, cluster)
}

fn write(cluster: &Cluster, records: &[(&str, Option<&[u8]>)]) {
    let records: Vec<TableWrite<'_>> = records
        .iter()
        .map(|(key, value)| TableWrite {
            key: (*key).to_owned(),
            value: *value,
        })
        .collect();
    write_table(cluster, TOPIC, &records).expect("written");
}

/// Key and length of the value, None of a tombstone.
type Seen = (i64, String, Option<usize>);

fn note(seen: &mut Vec<Seen>, event: TableEvent<'_>) {
    match event {
        TableEvent::Restarted => seen.clear(),
        TableEvent::Record(record) => seen.push((
            record.offset,
            String::from_utf8_lossy(record.key).into_owned(),
            record.value.map(<[u8]>::len),
        )),
    }
}

fn read_until(
    table: &mut TableReader,
    seen: &mut Vec<Seen>,
    done: impl Fn(&TableReader, &[Seen]) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !done(table, seen) {
        table.read(Duration::from_millis(100), |event| note(seen, event));
        assert!(Instant::now() < deadline, "{:?}: {seen:?}", table.state());
    }
}

fn complete(table: &TableReader) -> bool {
    matches!(table.state(), TableState::Complete { .. })
}

#[test]
fn a_table_is_read_to_its_end_and_on_in_the_logs_order() {
    let (_broker, cluster) = broker();
    let mut table = TableReader::new(&cluster, TOPIC);
    let mut seen = Vec::new();
    read_until(&mut table, &mut seen, |table, _| complete(table));
    assert_eq!(seen, []);

    write(&cluster, &[("a", Some(b"1")), ("b", Some(b"22"))]);
    write(&cluster, &[("a", None)]);
    read_until(&mut table, &mut seen, |_, seen| seen.len() == 3);
    let keys: Vec<_> = seen
        .iter()
        .map(|(_, key, value)| (key.as_str(), *value))
        .collect();
    assert_eq!(keys, [("a", Some(1)), ("b", Some(2)), ("a", None)]);
    assert!(seen.is_sorted());

    // Another reader comes to the same, at once.
    let mut again = Vec::new();
    read_table(&cluster, TOPIC, PATIENCE, |event| {
        note(&mut again, event);
        std::ops::ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!(again, seen);
}

#[test]
fn a_reader_that_keeps_up_says_so_again_and_again() {
    let (_broker, cluster) = broker();
    let mut table = TableReader::new(&cluster, TOPIC);
    let mut seen = Vec::new();
    read_until(&mut table, &mut seen, |table, _| complete(table));
    let first = table.state().clone();
    read_until(&mut table, &mut seen, |table, _| {
        complete(table) && *table.state() != first
    });
}

#[test]
fn large_values_are_fetched_by_their_offsets_and_only_those() {
    let (_broker, cluster) = broker();
    let chunk = vec![7_u8; 512 << 10];
    let keys: Vec<String> = (0..6).map(|index| format!("chunk/{index}")).collect();
    let records: Vec<(&str, Option<&[u8]>)> =
        keys.iter().map(|key| (&**key, Some(&chunk[..]))).collect();
    write(&cluster, &records);
    let mut seen = Vec::new();
    let mut table = TableReader::new(&cluster, TOPIC);
    read_until(&mut table, &mut seen, |_, seen| seen.len() == 6);
    let offsets: Vec<i64> = [1, 2, 5, 0].iter().map(|at: &usize| seen[*at].0).collect();
    let mut fetched = Vec::new();
    fetch_records(&cluster, TOPIC, &offsets, |record| {
        assert_eq!(record.value.map(<[u8]>::len), Some(512 << 10));
        fetched.push(String::from_utf8_lossy(record.key).into_owned());
        Ok::<(), fetch::Error>(())
    })
    .expect("fetched");
    assert_eq!(fetched, ["chunk/1", "chunk/2", "chunk/5", "chunk/0"]);

    let beyond = [seen[5].0 + 1_000];
    let gone = fetch_records(&cluster, TOPIC, &beyond, |_| Ok::<(), fetch::Error>(()));
    assert!(matches!(gone, Err(fetch::Error::Gone { .. })), "{gone:?}");
}

#[test]
fn one_record_is_fetched_by_its_place_or_said_to_be_gone() {
    let (_broker, cluster) = broker();
    write(&cluster, &[("a", Some(b"1")), ("b", None)]);
    let mut seen = Vec::new();
    let mut table = TableReader::new(&cluster, TOPIC);
    read_until(&mut table, &mut seen, |_, seen| seen.len() == 2);
    let fetch = |topic, partition, offset| fetch_record(&cluster, topic, partition, offset);
    assert_eq!(
        fetch(TOPIC, 0, seen[0].0).expect("fetched"),
        Some(b"1".to_vec())
    );
    assert_eq!(fetch(TOPIC, 0, seen[1].0).expect("fetched"), None);
    for (topic, partition, offset) in [
        (TOPIC, 0, seen[1].0 + 1_000),
        (TOPIC, 0, -1),
        (TOPIC, 7, 0),
        ("nobody.features", 0, 0),
    ] {
        let gone = fetch(topic, partition, offset);
        assert!(matches!(gone, Err(fetch::Error::Gone { .. })), "{gone:?}");
    }
}

#[test]
fn a_record_that_is_too_large_takes_the_whole_transaction_with_it_and_is_named() {
    let (_broker, cluster) = broker();
    let large = vec![0_u8; 5 << 20];
    let records = [("small", &b"x"[..]), ("large", &large)].map(|(key, value)| TableWrite {
        key: key.to_owned(),
        value: Some(value),
    });
    let error = write_table(&cluster, TOPIC, &records).expect_err("too large");
    assert!(
        matches!(&error, write::Error::TooLarge { key, .. } if key == "large"),
        "{error}"
    );
}

#[test]
fn a_topic_that_is_not_there_is_missing_until_it_comes() {
    let broker = EmbeddedBroker::start().expect("the embedded broker");
    let cluster = broker.cluster().expect("a cluster");
    let refused = read_table(&cluster, TOPIC, PATIENCE, |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert!(
        matches!(refused, Err(table::Error::Missing(_))),
        "{refused:?}"
    );

    let mut table = TableReader::new(&cluster, TOPIC);
    let mut seen = Vec::new();
    read_until(&mut table, &mut seen, |table, _| {
        matches!(table.state(), TableState::Missing { .. })
    });
    broker.create(&TopicSpec::shared()).expect("topics");
    write(&cluster, &[("a", Some(b"1"))]);
    read_until(&mut table, &mut seen, |table, seen| {
        complete(table) && seen.len() == 1
    });
}

#[test]
fn a_broker_that_is_gone_is_said_to_be_and_since_when() {
    let (broker, cluster) = broker();
    let mut table = TableReader::new(&cluster, TOPIC);
    let mut seen = Vec::new();
    read_until(&mut table, &mut seen, |table, _| complete(table));
    drop(broker);
    read_until(&mut table, &mut seen, |table, _| {
        matches!(table.state(), TableState::Unreadable { .. })
    });
}

#[test]
fn the_embedded_broker_of_another_process_is_read_without_a_wait() {
    let (broker, own) = broker();
    write(&own, &[("a", Some(b"1"))]);
    // As a tool would know it: by its address alone.
    let cluster = Cluster::new(broker.bootstrap_servers(), "").expect("a cluster");
    let begun = Instant::now();
    read_table(&cluster, TOPIC, PATIENCE, |_| {
        std::ops::ControlFlow::Continue(())
    })
    .expect("read");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}
