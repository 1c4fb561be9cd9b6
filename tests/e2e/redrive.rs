//! Dead letters on their way back: each open case once, whatever happens to a redrive, and what is said of it.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use quadrille_choreography::{
    Admin, DeadLetters, Retention, TopicSpec,
    redrive::{Action, Progress, SettleRequest},
};
use quadrille_proto::{Topics, dlq_of};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::harness::{
    PATIENCE,
    cli::Cli,
    client::{Client, Raw, header, record},
    eventually, eventually_or_show,
    world::World,
};

/// Dead letters written by hand, number by number, as the loop of an earlier version left them: `first..last`.
fn write_letters(world: &World, numbers: std::ops::Range<u32>) {
    let client = Client::new(world);
    let inbox = world.topics().inbox;
    for number in numbers {
        client.send(&dlq_of(&inbox), &letter(&inbox, number));
    }
    client.flush();
}

/// An hour ago, to the second: a topic's retention takes records that are older than a week.
fn base_ms() -> i64 {
    static BASE: OnceLock<i64> = OnceLock::new();
    *BASE.get_or_init(|| (Timestamp::now().as_second() - 3_600) * 1_000)
}

fn letter(inbox: &str, number: u32) -> Raw {
    let class = match number % 2 {
        0 => "quadrille.out_of_range",
        _ => "quadrille.bad_time",
    };
    let headers = [
        ("__connect.errors.topic", inbox),
        ("__connect.errors.partition", "0"),
        ("__connect.errors.offset", &number.to_string()),
        ("__connect.errors.exception.class.name", class),
        ("quadrille.errors.attempts", "1"),
        ("ward", "7"),
    ];
    Raw {
        partition: Some(0),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .to_vec(),
        timestamp_ms: Some(base_ms() + i64::from(number % 1_000) * 1_000),
        ..Raw::json("p-1", record(&format!("r{number}"), "p-1", 148))
    }
}

/// Bytes that do not shrink.
fn noise(length: usize) -> Vec<u8> {
    let mut chance = 1_u64;
    let next = || {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (chance >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// How often each origin lies in the inbox.
fn sent_back(world: &World) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for message in Client::new(world).read(&world.topics().inbox) {
        if let Some(origin) = header(&message, "quadrille.origin") {
            *counts.entry(origin).or_default() += 1;
        }
    }
    counts
}

fn each_once(world: &World, numbers: impl Iterator<Item = u32>) {
    let inbox = world.topics().inbox;
    let expected: BTreeMap<String, usize> = numbers
        .map(|number| (format!("{inbox}-0-{number}"), 1))
        .collect();
    // A transaction that is committed shows when its markers are written.
    eventually_or_show("each is sent back once", PATIENCE, || {
        let found = sent_back(world);
        match found == expected {
            true => Ok(()),
            false => {
                let other = found
                    .iter()
                    .find(|(origin, times)| expected.get(*origin) != Some(times));
                Err(format!(
                    "{} of {}; wrong: {other:?}",
                    found.len(),
                    expected.len()
                ))
            }
        }
    });
}

fn cli(world: &World) -> Cli {
    Cli(world.bootstrap.clone())
}

fn redrive(world: &World, more: &[&str]) -> String {
    let inbox = world.topics().inbox;
    cli(world).good(&[&["dlq", "redrive", "--topic", &inbox], more].concat())
}

fn listed(world: &World, more: &[&str]) -> Vec<serde_json::Value> {
    let inbox = world.topics().inbox;
    let args = ["dlq", "list", "--topic", &inbox, "--limit", "100000"];
    let text = cli(world).good(&[&args[..], &["--output", "json"], more].concat());
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_record_that_is_sent_back_and_fails_again_is_one_open_case() {
    let world = World::new(2);
    let _services = world.start_all();
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    for number in 0..15 {
        let bad = record(&format!("b{number}"), "p-1", 148).replace(":148", ":-1");
        client.send(&inbox, &Raw::json("p-1", bad));
    }
    client.flush();
    for round in 1..=3 {
        let open = eventually("all have failed again", PATIENCE, || {
            let all = listed(&world, &["--all"]).len();
            (all == 15 * round).then(|| listed(&world, &[]))
        });
        assert_eq!(open.len(), 15);
        for letter in &open {
            assert_eq!(letter["attempts"], round, "{letter}");
            assert_eq!(letter["state"], "open", "{letter}");
        }
        let sent = redrive(&world, &["--by", "ann", "--note", "once more"]);
        assert!(sent.starts_with("15 sent back"), "{sent}");
    }
    let all = listed(&world, &["--all"]);
    let settled = all.iter().find(|letter| letter["state"] == "sent_back");
    let settled = settled.expect("those that were sent back say so");
    assert_eq!(
        (&settled["settled_by"], &settled["note"]),
        (&"ann".into(), &"once more".into())
    );
}

#[test]
fn a_letter_larger_than_a_producers_default_goes_back_among_the_others() {
    let world = World::new(2);
    write_letters(&world, 0..3);
    let (client, inbox) = (Client::new(&world), world.topics().inbox);
    let mut large = letter(&inbox, 3);
    large.value = Some(vec![b'x'; 2 << 20]);
    client.send(&dlq_of(&inbox), &large);
    client.flush();
    write_letters(&world, 4..6);
    redrive(&world, &[]);
    each_once(&world, 0..6);
    let back = client.read(&inbox);
    let large = back
        .iter()
        .find(|it| it.payload().is_some_and(|it| it.len() == 2 << 20));
    let large = large.expect("with its bytes");
    assert_eq!(header(large, "ward").as_deref(), Some("7"));
    assert_eq!(header(large, "__connect.errors.topic"), None);
    assert_eq!(large.timestamp().to_millis(), Some(base_ms() + 3_000));
}

#[test]
fn a_letter_that_cannot_go_back_stays_open_and_holds_up_neither_the_others_nor_readers() {
    let world = World::new(2);
    let (client, inbox) = (Client::new(&world), world.topics().inbox);
    write_letters(&world, 0..2);
    // Larger than the inbox takes, and of bytes that do not shrink.
    let mut large = letter(&inbox, 2);
    large.value = Some(noise(crate::harness::world::MESSAGE_BYTES_MAX + 1_000));
    client.send(&dlq_of(&inbox), &large);
    // Of a partition that is not there, and one that only names its original.
    let mut nowhere = letter(&inbox, 3);
    nowhere.headers[1].1 = b"99".to_vec();
    client.send(&dlq_of(&inbox), &nowhere);
    let mut truncated = letter(&inbox, 4);
    truncated
        .headers
        .push(("quadrille.errors.truncated".to_owned(), b"true".to_vec()));
    client.send(&dlq_of(&inbox), &truncated);
    client.flush();
    write_letters(&world, 5..7);
    for round in 0..2 {
        let complaint = cli(&world).bad(1, &["dlq", "redrive", "--topic", &inbox]);
        assert!(
            complaint.contains("3 dead letters could not be sent back"),
            "{complaint}"
        );
        assert!(complaint.contains("no partition 99"), "{complaint}");
        each_once(&world, [0, 1, 5, 6].into_iter());
        assert_eq!(listed(&world, &[]).len(), 3, "after run {round}");
    }
    // An open transaction would hold back what comes after it.
    client.send(&inbox, &Raw::json("p-1", record("later", "p-1", 148)));
    client.flush();
    let asked = Instant::now();
    eventually("a reader of committed records has it", PATIENCE, || {
        let last = client.read(&inbox).into_iter().find(|it| {
            it.payload()
                .is_some_and(|bytes| bytes.starts_with(br#"{"id":"later""#))
        });
        last.map(drop)
    });
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn a_letter_that_its_topic_refuses_is_found_among_the_others_of_its_batch() {
    let world = World::new(1);
    let client = Client::new(&world);
    let topic = format!("{}.narrow", world.pipeline);
    let spec = |name: String, message_bytes_max| TopicSpec {
        name,
        partitions: 1,
        retention: Retention::Broker,
        message_bytes_max: Some(message_bytes_max),
    };
    let specs = [
        spec(topic.clone(), 100_000),
        spec(dlq_of(&topic), 1_000_000),
    ];
    let admin = Admin::connect(&world.cluster()).expect("a client");
    admin.create(&specs).expect("topics");
    for number in 0..7 {
        let mut raw = letter(&topic, number);
        if number == 3 {
            raw.value = Some(noise(500_000));
        }
        client.send(&dlq_of(&topic), &raw);
    }
    client.flush();
    let complaint = cli(&world).bad(1, &["dlq", "redrive", "--topic", &topic]);
    assert!(
        complaint.contains("1 dead letters could not be sent back"),
        "{complaint}"
    );
    eventually("the others are back", PATIENCE, || {
        (client.read(&topic).len() == 6).then_some(())
    });
}

#[test]
fn what_was_done_is_remembered_when_kafka_forgets_the_group() {
    let world = World::new(2);
    let inbox = world.topics().inbox;
    write_letters(&world, 0..4);
    // An earlier version kept its place in a group: two were sent back by it.
    let group = format!("quadrille.redrive.{inbox}");
    commit(&world, &group, &dlq_of(&inbox), 2);
    assert_eq!(
        listed(&world, &[]).len(),
        2,
        "seen without a ledger's record"
    );
    let sent = redrive(&world, &[]);
    assert!(sent.starts_with("2 sent back"), "{sent}");
    delete_group(&world, &group);
    assert_eq!(listed(&world, &[]).len(), 0);
    let sent = redrive(&world, &[]);
    assert!(sent.starts_with("0 sent back"), "{sent}");
    each_once(&world, 2..4);
}

fn commit(world: &World, group: &str, topic: &str, next: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", group)
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(next))
        .expect("an offset");
    consumer.commit(&list, CommitMode::Sync).expect("committed");
}

fn delete_group(world: &World, group: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .create()
        .expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let groups = [group];
    let options = AdminOptions::new();
    let deleted = runtime.block_on(admin.delete_groups(&groups, &options));
    for result in deleted.expect("an answer") {
        result.expect("deleted");
    }
}

#[test]
fn filters_choose_a_rehearsal_changes_nothing_and_what_is_discarded_stays_away() {
    let world = World::new(2);
    let inbox = world.topics().inbox;
    write_letters(&world, 0..8);
    let rehearsed = redrive(&world, &["--dry-run", "--reason", "bad_time"]);
    assert_eq!(
        rehearsed.trim(),
        format!("4 would be sent back from {inbox}.dlq to {inbox}: 4 quadrille.bad_time")
    );
    assert_eq!((sent_back(&world).len(), listed(&world, &[]).len()), (0, 8));
    let discard = ["dlq", "discard", "--topic", &inbox, "--note", "a test"];
    let complaint = cli(&world).bad(64, &discard);
    assert!(complaint.contains("--all"), "{complaint}");
    let place = format!("{inbox}-0-3");
    let done = cli(&world).good(&[&discard[..], &["--place", &place, "--place", "x-0-1"]].concat());
    assert_eq!(done.trim(), format!("1 of {inbox}.dlq discarded"));
    redrive(&world, &["--id", "r1", "--id", "r3"]);
    each_once(&world, 1..2);
    let from = Timestamp::from_millisecond(base_ms() + 6_000).expect("a time");
    redrive(&world, &["--from", &from.to_string()]);
    each_once(&world, [1, 6, 7].into_iter());
    redrive(&world, &["--reason", "bad_time"]);
    each_once(&world, [1, 5, 6, 7].into_iter());
    redrive(&world, &[]);
    each_once(&world, [0, 1, 2, 4, 5, 6, 7].into_iter());
    let all = listed(&world, &["--all"]);
    let discarded: Vec<_> = all.iter().filter(|it| it["state"] == "discarded").collect();
    assert_eq!(discarded.len(), 1);
    assert_eq!(
        (&discarded[0]["origin"], &discarded[0]["note"]),
        (&place.into(), &"a test".into())
    );
}

/// The command line sending back, in a process of its own.
fn start(world: &World) -> Command {
    let inbox = world.topics().inbox;
    let mut command = cli(world).command(&["dlq", "redrive", "--topic", &inbox]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_redrive_that_is_killed_goes_on_where_it_ended() {
    let world = World::new(2);
    write_letters(&world, 0..15_000);
    let mut killed = start(&world).spawn().expect("it starts");
    eventually("it has begun", PATIENCE, || {
        (!sent_back(&world).is_empty()).then_some(())
    });
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    redrive(&world, &[]);
    each_once(&world, 0..15_000);
    assert_eq!(listed(&world, &[]).len(), 0);
}

#[test]
fn of_two_redrives_at_once_one_ends_the_other_and_each_letter_goes_back_once() {
    let world = World::new(2);
    write_letters(&world, 0..5_000);
    let mut both = [(), ()].map(|()| start(&world).spawn().expect("it starts"));
    let done = both
        .each_mut()
        .map(|it| it.wait().expect("ended").success());
    assert!(done.contains(&true), "one at least comes to its end");
    redrive(&world, &[]);
    each_once(&world, 0..5_000);
}

#[test]
fn what_anothers_open_transaction_hides_of_the_ledger_is_waited_for() {
    let world = World::new(2);
    write_letters(&world, 0..600);
    let (cluster, inbox) = (world.cluster(), world.topics().inbox);
    let dlq = dlq_of(&inbox);
    let letters = DeadLetters {
        cluster: &cluster,
        topic: &dlq,
    };
    let order = SettleRequest {
        action: Action::SendBack,
        select: &|_| true,
        by: "",
        reason: "",
    };
    // Another topic's redrive begins after the first transaction of ours, and hides the second from readers. Its end is
    // its timeout.
    let mut other: Option<BaseProducer> = None;
    let first = letters.settle(&order, &mut |progress| {
        if let Progress::Settling { done: 500, .. } = progress {
            other = Some(open_transaction(&world));
        }
    });
    assert_eq!(first.expect("settled").count, 600);
    assert!(other.is_some());
    let second = letters.settle(&order, &mut |_| {}).expect("settled");
    assert_eq!(second.count, 0);
    each_once(&world, 0..600);
}

/// On the ledger, with a record of nobody's.
fn open_transaction(world: &World) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("transactional.id", format!("other-{}", world.pipeline))
        .set("transaction.timeout.ms", "5000")
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("initialised");
    producer.begin_transaction().expect("begun");
    let record = BaseRecord::<'_, [u8], [u8]>::to(Topics::DEAD_LETTERS)
        .partition(0)
        .key(b"other/0")
        .payload(b"");
    producer
        .send(record)
        .map_err(|(error, _)| error)
        .expect("sent");
    producer.flush(PATIENCE).expect("delivered");
    producer
}
