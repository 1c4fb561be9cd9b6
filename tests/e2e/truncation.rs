//! Logs that lost records: a disk that is gone, offsets beyond the end, retention that was faster than a stage.

use std::{fs, path::Path};

use quadrille_local::{Kafka, kafka::DataDir};
use quadrille_proto::Service;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use tempfile::TempDir;

use crate::{
    facts::{drained, send_nameless, worked_off},
    harness::{
        PATIENCE, broker,
        client::{Client, Raw, record},
        eventually_or_show, oracle,
        process::Process,
        world::World,
    },
    registry::admin,
};

fn lost(process: &Process, world: &World, reason: &str) -> Option<f64> {
    let pipeline = &world.pipeline;
    process.metric(&format!(
        "quadrille_lost_records_total{{pipeline=\"{pipeline}\",reason=\"{reason}\"}}"
    ))
}

fn send_named(world: &World, numbers: std::ops::Range<u32>) {
    let client = Client::new(world);
    for n in numbers {
        let json = record(&format!("r{n:03}"), "p-1", 100);
        client.send(&world.topics().inbox, &Raw::json("p-1", json));
    }
    client.flush();
}

/// Says in ingest's name where it goes on.
fn commit(world: &World, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", Service::Ingest.group(&world.pipeline))
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.topics().inbox, 0, Offset::Offset(offset))
        .expect("an offset");
    consumer.commit(&list, CommitMode::Sync).expect("committed");
}

/// A partition's folder, wherever the broker keeps it.
fn remove_partition(data: &Path, partition: &str) {
    for entry in fs::read_dir(data).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.ends_with(partition) {
            return fs::remove_dir_all(&path).expect("removed");
        }
        if path.is_dir() && path.join(partition).is_dir() {
            return fs::remove_dir_all(path.join(partition)).expect("removed");
        }
    }
    panic!("{partition} is not in {}", data.display());
}

/// An Apache Kafka that keeps its data in this folder.
fn on_disk(data: &TempDir) -> Kafka {
    let mut options = broker::that_goes_away();
    options.data_dir = DataDir::Kept(data.path().to_owned());
    options.start().expect("Apache Kafka starts")
}

/// Takes places in the inbox by records of a transaction that is aborted, and its marker.
fn send_aborted(world: &World, records: u32) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("transactional.id", format!("{}-aborted", world.pipeline))
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("an epoch");
    producer.begin_transaction().expect("begun");
    let inbox = world.topics().inbox;
    for _ in 0..records {
        let record = BaseRecord::<(), _>::to(&inbox).payload("aborted");
        producer.send(record.partition(0)).expect("queued");
    }
    producer.flush(PATIENCE).expect("sent");
    producer.abort_transaction(PATIENCE).expect("aborted");
}

/// Deletes the inbox up to an offset, as retention does.
fn expire(world: &World, offset: i64) {
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&world.topics().inbox, 0, Offset::Offset(offset))
        .expect("an offset");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let deleting = admin(&world.bootstrap);
    let deleted = runtime.block_on(deleting.delete_records(&before, &AdminOptions::new()));
    deleted.expect("deleted");
}

/// The inbox loses its disk under running services, or while ingest is stopped.
fn a_lost_disk(ingest_runs: bool) {
    let data = TempDir::new().expect("a folder");
    let mut broker = on_disk(&data);
    let world = World::on(broker.bootstrap_servers(), 1);
    let mut services = world.start_all();
    send_nameless(&world, 0, 20);
    oracle::stored(&world, services[3].address(), 20);
    worked_off(&world, Service::Ingest);
    if !ingest_runs {
        drained(&mut services[0]);
    }
    broker.stop();
    remove_partition(data.path(), &format!("{}-0", world.topics().inbox));
    broker.restart().expect("it comes back");
    send_nameless(&world, 20, 5);
    if !ingest_runs {
        services[0] = services[0].launch.start();
    }
    // Their places are those of records that were handled: only the generation tells them apart.
    oracle::stored(&world, services[3].address(), 25);
    let ids = oracle::rows(&world, services[3].address());
    let again = format!("{}@1-0-", world.topics().inbox);
    assert_eq!(
        ids.iter().filter(|id| id.starts_with(&again)).count(),
        5,
        "{ids:?}"
    );
    let lost = lost(&services[0], &world, "truncated");
    assert!(lost.is_some_and(|lost| lost >= 15.0), "{lost:?}");
    // And the log goes on as any.
    send_nameless(&world, 25, 30);
    oracle::stored(&world, services[3].address(), 55);
}

#[test]
fn records_on_a_new_disk_are_handled_by_an_ingest_that_ran() {
    a_lost_disk(true);
}

#[test]
fn records_on_a_new_disk_are_handled_by_an_ingest_that_starts() {
    a_lost_disk(false);
}

/// Its position, which is committed when nothing comes, would take the offset back without a word; then the ids of new
/// records would be those of lost ones.
#[test]
fn markers_alone_on_a_new_disk_do_not_hide_that_the_old_one_is_lost() {
    let data = TempDir::new().expect("a folder");
    let mut broker = on_disk(&data);
    let world = World::on(broker.bootstrap_servers(), 1);
    let others = [Service::Feature, Service::Inference, Service::Results];
    let others = others.map(|stage| world.start(stage, "a"));
    // It mostly keeps its partition meanwhile.
    let launch = world.launch(Service::Ingest, "a");
    let ingest = launch
        .env("KAFKA_PROPERTIES", "session.timeout.ms=30000")
        .start();
    send_nameless(&world, 0, 20);
    oracle::stored(&world, others[2].address(), 20);
    worked_off(&world, Service::Ingest);
    broker.stop();
    remove_partition(data.path(), &format!("{}-0", world.topics().inbox));
    broker.restart().expect("it comes back");
    send_aborted(&world, 3);
    eventually_or_show("the cut is seen", PATIENCE, || {
        let log = ingest.log();
        let has_fallen = log.contains("does not continue from the record polled last");
        // Its session may end first; it begins from what is committed then.
        let has_joined_again = log.matches("partitions assigned").count() > 1;
        match has_fallen || has_joined_again {
            true => Ok(()),
            false => Err(log),
        }
    });
    send_nameless(&world, 20, 5);
    oracle::stored(&world, others[2].address(), 25);
    let lost = lost(&ingest, &world, "truncated");
    assert_eq!(lost, Some(16.0));
}

/// It stands still meanwhile, and so sees only the log that has grown beyond what it stored.
#[test]
fn predictions_on_a_new_disk_that_outgrew_the_old_one_are_stored_by_results_that_ran() {
    let data = TempDir::new().expect("a folder");
    let mut broker = on_disk(&data);
    let world = World::on(broker.bootstrap_servers(), 1);
    let others = [Service::Ingest, Service::Feature, Service::Inference];
    let _others = others.map(|stage| world.start(stage, "a"));
    let launch = world.launch(Service::Results, "a");
    let results = launch
        .env("KAFKA_PROPERTIES", "session.timeout.ms=120000")
        .start();
    send_nameless(&world, 0, 20);
    oracle::stored(&world, results.address(), 20);
    worked_off(&world, Service::Results);
    results.signal("STOP");
    broker.stop();
    remove_partition(data.path(), &format!("{}-0", world.topics().predictions));
    broker.restart().expect("it comes back");
    // Markers of transactions are places as well: more of them than before.
    for n in 0..8 {
        send_nameless(&world, 20 + 5 * n, 5);
        worked_off(&world, Service::Inference);
    }
    results.signal("CONT");
    oracle::stored(&world, results.address(), 60);
    let lost = lost(&results, &world, "truncated");
    assert!(lost.is_some_and(|lost| lost >= 20.0), "{lost:?}");
}

#[test]
fn an_offset_beyond_the_end_skips_no_record() {
    let world = World::new(1);
    let mut services = world.start_all();
    send_named(&world, 0..20);
    oracle::stored(&world, services[3].address(), 20);
    drained(&mut services[0]);
    commit(&world, 1_000);
    send_named(&world, 20..25);
    services[0] = services[0].launch.start();
    services[0].ready();
    oracle::stored(&world, services[3].address(), 25);
    let lost = lost(&services[0], &world, "truncated");
    assert!(lost.is_some_and(|lost| lost >= 900.0), "{lost:?}");
    send_named(&world, 25..30);
    oracle::stored(&world, services[3].address(), 30);
}

#[test]
fn what_retention_deleted_before_it_was_read_is_counted_and_the_rest_is_handled() {
    let world = World::new(1);
    let mut services = world.start_all();
    send_named(&world, 0..20);
    oracle::stored(&world, services[3].address(), 20);
    drained(&mut services[0]);
    send_named(&world, 20..30);
    expire(&world, 26);
    services[0] = services[0].launch.start();
    services[0].ready();
    oracle::stored(&world, services[3].address(), 24);
    assert_eq!(lost(&services[0], &world, "expired"), Some(6.0));
}

/// A gap and a newer epoch: the log could have been cut, too.
#[test]
fn a_start_behind_a_gap_and_in_a_newer_epoch_is_looked_at_twice_and_counted_once() {
    let data = TempDir::new().expect("a folder");
    let mut broker = on_disk(&data);
    let world = World::on(broker.bootstrap_servers(), 1);
    let mut services = world.start_all();
    send_named(&world, 0..20);
    oracle::stored(&world, services[3].address(), 20);
    worked_off(&world, Service::Ingest);
    drained(&mut services[0]);
    broker.restart().expect("it comes back");
    send_named(&world, 20..30);
    expire(&world, 26);
    services[0] = services[0].launch.start();
    services[0].ready();
    oracle::stored(&world, services[3].address(), 24);
    assert_eq!(lost(&services[0], &world, "expired"), Some(6.0));
    let log = services[0].log();
    let twice = log.matches("begins behind a gap and in a newer leader epoch");
    assert_eq!(twice.count(), 1, "{log}");
}
