//! A transaction that does not end, as a broker's error can leave one behind: what it holds back shows, and goes on after it.

use std::time::Duration;

use quadrille_proto::Service;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer},
};

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, record},
    eventually,
    world::World,
};

const WITHIN: Duration = Duration::from_secs(30);

/// Commits the offset 0 of partition 0 of a topic in a transaction that stays open.
fn hold_back(world: &World, group: &str, topic: &str) -> BaseProducer {
    let config = |key: &str, value: &str| {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &world.bootstrap)
            .set(key, value);
        config
    };
    let consumer: BaseConsumer = config("group.id", group).create().expect("a consumer");
    let producer: BaseProducer = config("transactional.id", &format!("stranger-{group}"))
        .set("transaction.timeout.ms", "600000")
        .create()
        .expect("a producer");
    producer.init_transactions(WITHIN).expect("initialised");
    producer.begin_transaction().expect("begun");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(0))
        .expect("an offset");
    let member = consumer.group_metadata().expect("a member");
    producer
        .send_offsets_to_transaction(&list, &member, WITHIN)
        .expect("sent");
    producer
}

#[test]
fn a_partition_whose_offset_an_open_transaction_holds_back_is_behind_and_goes_on_after_it() {
    let world = World::new(2);
    let inbox = world.topics().inbox;
    let group = Service::Ingest.group(&world.pipeline);
    let transaction = hold_back(&world, &group, &inbox);
    let ingest = world.start(Service::Ingest, "a");
    let client = Client::new(&world);
    for partition in 0..2 {
        let id = format!("p#{partition}");
        let mut raw = Raw::json("p", record(&id, "p", 80));
        raw.partition = Some(partition);
        client.send(&inbox, &raw);
    }
    client.flush();
    let records = || client.read(&world.topics().records).len();
    let behind = |partition: i32| {
        let labels =
            format!("consumergroup=\"{group}\",topic=\"{inbox}\",partition=\"{partition}\"");
        ingest.metric(&format!("quadrille_consumergroup_lag_seconds{{{labels}}}"))
    };
    // The other one is handled meanwhile.
    eventually("one record is handled", PATIENCE, || {
        (records() == 1).then_some(())
    });
    assert_eq!(behind(0), None, "it may still come");
    eventually("the partition is behind", PATIENCE, || {
        behind(0).filter(|seconds| *seconds > 30.0)
    });
    assert_eq!(behind(1), Some(0.0));
    let told = "held, but not read";
    assert_eq!(ingest.log().matches(told).count(), 1, "{}", ingest.log());
    transaction.abort_transaction(WITHIN).expect("aborted");
    eventually("both records are handled", PATIENCE, || {
        (records() == 2).then_some(())
    });
    eventually("the partition is not behind", PATIENCE, || {
        (behind(0) == Some(0.0)).then_some(())
    });
}
