//! Every kind of malformed record ends as a dead letter with its own bytes and the reason, and costs its
//! neighbours nothing.

use std::collections::BTreeMap;

use quadrille_choreography::{Redrive, list_dead_letters};
use quadrille_proto::{SchemaId, dlq_of, seal, v1::Record};
use rdkafka::{Message, message::OwnedMessage};

use crate::harness::{
    PATIENCE,
    client::{Client, Raw, header, record},
    eventually, oracle,
    process::Process,
    world::World,
};

const CLASS: &str = "__connect.errors.exception.class.name";
const MESSAGE: &str = "__connect.errors.exception.message";

/// A good record of one patient, changed.
fn changed(id: &str, from: &str, to: &str) -> Vec<u8> {
    let good = record(id, "p-1", 148);
    let bad = good.replacen(from, to, 1);
    assert_ne!(good, bad, "{from} is in the record");
    bad.into_bytes()
}

/// What is sent to the inbox, the class of its dead letter, and what its message must name.
fn bad_inbox_records() -> Vec<(Raw, &'static str, &'static str)> {
    let value = |bytes: Vec<u8>| Raw {
        key: Some(b"p-1".to_vec()),
        value: Some(bytes),
        ..Raw::default()
    };
    let mut large = record("large", "p-1", 148).into_bytes();
    large.pop();
    large.extend_from_slice(br#","note":""#);
    large.resize(2 << 20, b'x');
    large.extend_from_slice(br#""}"#);
    vec![
        (value(b"not json".to_vec()), "not_json", "JSON"),
        (value(b"[1, 2]".to_vec()), "not_object", "object"),
        (
            value(changed("b1", ":148", ":true")),
            "wrong_type",
            "glucose",
        ),
        (
            value(changed("b2", ":148", ":\"148\"")),
            "wrong_type",
            "glucose",
        ),
        (
            value(changed("b3", "\"glucose\":148,", "")),
            "missing_field",
            "glucose",
        ),
        (
            value(changed("b4", ":148", ":-1")),
            "out_of_range",
            "glucose",
        ),
        (value(changed("b5", ":148", ":1e999")), "", "glucose"),
        (value(changed("b6", ":148", ":NaN")), "not_json", ""),
        (
            value(changed("b7", "\"patient_id\":\"p-1\",", "")),
            "missing_field",
            "patient_id",
        ),
        (
            value(changed(
                "b8",
                "{",
                "{\"event_time\":\"2300-01-01T00:00:00Z\",",
            )),
            "bad_time",
            "event_time",
        ),
        (value(b"".to_vec()), "empty", ""),
        (
            value(b"{\"patient_id\":\"\xff\xfe\"}".to_vec()),
            "not_utf8",
            "",
        ),
        (value(large), "too_large", "QUADRILLE_RECORD_BYTES"),
        (
            Raw {
                key: Some(b"p-1".to_vec()),
                ..Raw::default()
            },
            "tombstone",
            "",
        ),
    ]
}

fn wait_for_letters(client: &Client, topic: &str, count: usize) -> Vec<OwnedMessage> {
    eventually(
        &format!("{count} dead letters on {topic}"),
        PATIENCE,
        || {
            let letters = client.read(&dlq_of(topic));
            assert!(
                letters.len() <= count,
                "{} dead letters on {topic}",
                letters.len()
            );
            (letters.len() == count).then_some(letters)
        },
    )
}

#[test]
fn every_malformed_inbox_record_is_dead_lettered_with_its_bytes_and_the_reason() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    let bad = bad_inbox_records();
    for (number, (raw, _, _)) in bad.iter().enumerate() {
        // All in one partition, each between two good ones, and marked.
        let mut raw = raw.clone();
        raw.partition = Some(1);
        raw.headers = vec![("case".to_owned(), number.to_string().into_bytes())];
        raw.timestamp_ms = Some(1_700_000_000_000);
        client.send(
            &inbox,
            &Raw {
                partition: Some(1),
                ..Raw::json("p-1", record(&format!("g{number}"), "p-1", 100))
            },
        );
        client.send(&inbox, &raw);
    }
    client.flush();
    let letters = wait_for_letters(&client, &inbox, bad.len());
    let by_case: BTreeMap<usize, &OwnedMessage> = letters
        .iter()
        .map(|letter| {
            (
                header(letter, "case")
                    .expect("the mark")
                    .parse()
                    .expect("a number"),
                letter,
            )
        })
        .collect();
    for (number, (raw, class, named)) in bad.iter().enumerate() {
        let letter = by_case[&number];
        assert_eq!(
            letter.payload(),
            raw.value.as_deref(),
            "case {number} keeps its bytes"
        );
        assert_eq!(
            letter.key(),
            raw.key.as_deref(),
            "case {number} keeps its key"
        );
        assert_eq!(letter.timestamp().to_millis(), Some(1_700_000_000_000));
        let found = header(letter, CLASS).expect("a class");
        let message = header(letter, MESSAGE).expect("a message");
        assert!(found.ends_with(class), "case {number}: {found}: {message}");
        assert!(
            message.contains(named),
            "case {number} names {named:?}: {message}"
        );
        assert_eq!(
            header(letter, "__connect.errors.topic").as_ref(),
            Some(&inbox)
        );
        assert_eq!(
            header(letter, "__connect.errors.partition").as_deref(),
            Some("1")
        );
        assert_eq!(
            header(letter, "quadrille.errors.service").as_deref(),
            Some("ingest")
        );
        assert_eq!(
            header(letter, "quadrille.errors.attempts").as_deref(),
            Some("1")
        );
    }
    oracle::stored(&world, services[3].address(), bad.len());
}

#[test]
fn odd_but_good_records_pass() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    // A null key, an unknown field that the pipeline keeps, no id, a broken trace header, a header that is not UTF-8.
    client.send(
        &inbox,
        &Raw {
            key: None,
            ..Raw::json("", record("null-key", "p-1", 100))
        },
    );
    let extra = changed("extra", "{", "{\"ward\":{\"floor\":3},");
    client.send(
        &inbox,
        &Raw {
            value: Some(extra),
            ..Raw::default()
        },
    );
    let no_id = changed("x", "\"id\":\"x\",", "");
    client.send(
        &inbox,
        &Raw {
            partition: Some(0),
            value: Some(no_id),
            ..Raw::default()
        },
    );
    let headers = vec![
        ("traceparent".to_owned(), b"not-a-trace".to_vec()),
        ("blob".to_owned(), vec![0xff, 0x00, 0xfe]),
    ];
    client.send(
        &inbox,
        &Raw {
            headers: headers.clone(),
            ..Raw::json("p-1", record("odd-headers", "p-1", 100))
        },
    );
    client.flush();
    oracle::stored(&world, services[3].address(), 4);
    let predictions = client.read(&world.topics().predictions);
    let carried = predictions
        .iter()
        .find(|message| header(message, "traceparent").is_some());
    let carried = carried.expect("headers travel from the inbox to the prediction");
    assert_eq!(
        header(carried, "traceparent").as_deref(),
        Some("not-a-trace")
    );
    let ids = oracle::rows(&world, services[3].address());
    assert!(
        ids.iter().any(|id| id.starts_with(&format!("{inbox}-0-"))),
        "{ids:?}"
    );
}

#[test]
fn an_id_that_comes_twice_is_stored_once_and_counted() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    for glucose in [100, 190] {
        client.send(
            &world.topics().inbox,
            &Raw::json("p-1", record("twice", "p-1", glucose)),
        );
    }
    client.flush();
    oracle::stored(&world, services[3].address(), 1);
    let path = format!("/v1/pipelines/{}/predictions/count", world.pipeline);
    eventually("the later one is counted", PATIENCE, || {
        let (_, body) = crate::harness::http::get(services[3].address(), &path);
        body.contains("\"duplicates\":1").then_some(())
    });
}

#[test]
fn garbage_and_unknown_schemas_on_inner_topics_are_dead_lettered() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    let topics = world.topics();
    let mut unknown = Vec::new();
    seal(
        SchemaId(42),
        &Record {
            id: "u".into(),
            key: "p-1".into(),
            ..Record::default()
        },
        &mut unknown,
    );
    let mut inner = Vec::new();
    let schema =
        quadrille_pipeline::Pipeline::load(&world.pipeline_file()).expect("it loads")[0].clone();
    inner.extend_from_slice(&schema.record_schema_id().0.to_be_bytes());
    inner.extend_from_slice(b"\xff\xff\xff\xff garbage behind a good schema id");
    for topic in [&topics.records, &topics.features, &topics.predictions] {
        for bytes in [
            &b"short"[..],
            b"garbage, long enough to hold an id",
            &unknown,
            &inner,
        ] {
            client.send(
                topic,
                &Raw {
                    value: Some(bytes.to_vec()),
                    ..Raw::default()
                },
            );
        }
        client.send(
            topic,
            &Raw {
                key: Some(b"k".to_vec()),
                ..Raw::default()
            },
        );
    }
    client.send(&topics.inbox, &Raw::json("p-1", record("good", "p-1", 100)));
    client.flush();
    for topic in [&topics.records, &topics.features, &topics.predictions] {
        let letters = wait_for_letters(&client, topic, 5);
        for letter in letters {
            let class = header(&letter, CLASS).expect("a class");
            let known = ["unknown_schema", "malformed", "tombstone", "wrong_schema"];
            assert!(known.iter().any(|k| class.ends_with(k)), "{class}");
        }
    }
    oracle::stored(&world, services[3].address(), 1);
}

#[test]
fn a_redrive_sends_the_original_back_once_and_counts_attempts() {
    let world = World::new(2);
    let services = world.start_all();
    let client = Client::new(&world);
    let inbox = world.topics().inbox;
    let bytes = changed("again", ":148", ":-1");
    let headers = vec![("ward".to_owned(), b"7".to_vec())];
    client.send(
        &inbox,
        &Raw {
            value: Some(bytes.clone()),
            headers,
            ..Raw::default()
        },
    );
    client.flush();
    let first = wait_for_letters(&client, &inbox, 1).remove(0);
    let place = header(&first, "__connect.errors.offset").expect("an offset");

    let dlq = dlq_of(&inbox);
    let cluster = world.cluster();
    let redrive = Redrive {
        cluster: &cluster,
        topic: &dlq,
    };
    assert_eq!(redrive.run(|_| {}).expect("redriven"), 1);
    let letters = wait_for_letters(&client, &inbox, 2);
    let second = letters
        .iter()
        .find(|letter| header(letter, "quadrille.errors.attempts").as_deref() == Some("2"))
        .expect("the attempts are counted on");
    assert_eq!(second.payload(), Some(bytes.as_slice()));
    assert_eq!(header(second, "ward").as_deref(), Some("7"));
    let origin = header(second, "quadrille.origin").expect("where it first lay");
    assert!(
        origin.starts_with(&inbox) && origin.ends_with(&format!("-{place}")),
        "{origin}"
    );

    // Only the new letter is sent by a second redrive, none by a third without new ones.
    assert_eq!(redrive.run(|_| {}).expect("redriven"), 1);
    wait_for_letters(&client, &inbox, 3);
    let mut listed = 0;
    list_dead_letters(&cluster, &dlq, |letter| {
        listed += 1;
        assert!(
            letter
                .message()
                .is_some_and(|message| message.contains("glucose"))
        );
        std::ops::ControlFlow::Continue(())
    })
    .expect("listed");
    assert_eq!(listed, 3);
    drop(services);
}

#[test]
fn a_storm_of_poison_does_not_stop_the_good_ones() {
    let world = World::new(2);
    let mut services: Vec<Process> = world.start_all();
    let client = Client::new(&world);
    let topics = world.topics();
    for n in 0..5_000_u32 {
        let bytes = format!("garbage {n:08} {n:08}").into_bytes();
        client.send(
            &topics.records,
            &Raw {
                value: Some(bytes),
                ..Raw::default()
            },
        );
    }
    client.send(&topics.inbox, &Raw::json("p-1", record("good", "p-1", 100)));
    client.flush();
    oracle::stored(&world, services[3].address(), 1);
    wait_for_letters(&client, &topics.records, 5_000);
    services[1].signal("TERM");
    assert_eq!(services[1].wait().code(), Some(0));
}
