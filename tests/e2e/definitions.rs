//! Replicas whose pipeline files define the state differently, as for a moment in an update one replica after the other. They
//! take each other's state away: a partition whose owner has another file begins anew, with empty histories. So while
//! both are there vectors are of this file or of that one; once the last old replica is gone each is what the new file
//! computes of all that came since the new one took the partition over for good.

use std::path::PathBuf;

use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use rdkafka::message::{Message, OwnedMessage};

use crate::harness::{
    cards::{self, Cards, Outcomes, PARTITIONS, Vector},
    oracle::quiescence,
};

/// The file with another window.
fn edited(cards: &Cards) -> (PathBuf, Pipeline) {
    let text = std::fs::read_to_string(cards.world.pipeline_file()).expect("the pipeline file");
    let (before, after) = (
        "name = \"spent\"\nkind = \"sum\"\nfield = \"amount\"\nto = \"1m\"",
        "name = \"spent\"\nkind = \"sum\"\nfield = \"amount\"\nto = \"90s\"",
    );
    assert!(text.contains(before), "there is this feature");
    let text = text.replace(before, after);
    let path = cards.world.folder.path().join("edited.toml");
    std::fs::write(&path, &text).expect("written");
    (
        path,
        Pipeline::parse("edited.toml", &text).expect("a pipeline"),
    )
}

/// Of one partition.
fn of(partition: i32, records: &[OwnedMessage]) -> Vec<&OwnedMessage> {
    let all = records.iter();
    all.filter(|record| record.partition() == partition)
        .collect()
}

/// A partition's vectors and its letters' offsets.
fn outcome(partition: i32, outcomes: &Outcomes) -> (Vec<Vector>, Vec<i64>) {
    let letters = outcomes.letters.iter().filter(|it| it.0 == partition);
    let vectors = outcomes.vectors.get(&partition).cloned();
    (
        vectors.unwrap_or_default(),
        letters.map(|it| it.1).collect(),
    )
}

/// Where the last epoch began, such that the old file has computed what was before and the new one what came then.
fn switched(
    records: &[&OwnedMessage],
    (old, new): (&Pipeline, &Pipeline),
    found: &(Vec<Vector>, Vec<i64>),
) -> Option<usize> {
    let partition = records.first()?.partition();
    (0..=records.len()).find(|at| {
        let (before, since) = records.split_at(*at);
        let mut expected = outcome(partition, &cards::expected(old, before.iter().copied()));
        let since = outcome(partition, &cards::expected(new, since.iter().copied()));
        expected.0.extend(since.0);
        expected.1.extend(since.1);
        expected == *found
    })
}

#[test]
fn replicas_of_two_definitions_take_each_others_state_and_the_last_ones_vectors_are_right() {
    let mut cards = Cards::new();
    let (path, new) = edited(&cards);
    let old = cards.pipeline.clone();
    let mut a = cards.replica_on_disk("a").start();
    a.ready();
    cards.send(600, 400, |_| {});
    cards.check();
    let path = path.to_str().expect("a path of text");
    let launch = cards.replica_on_disk("b").env("QUADRILLE_PIPELINE", path);
    let mut b = launch.start();
    b.ready();
    cards.send(600, 400, |_| {});
    a.drain();
    let update_ended = cards.records();
    cards.send(600, 400, |_| {});
    let records = cards.records();
    quiescence::wait_for(
        &cards.world,
        Service::Feature,
        &cards.world.topics().records,
    );
    let found = cards.outcomes(0);
    for partition in 0..PARTITIONS {
        let records = of(partition, &records);
        let found = outcome(partition, &found);
        let at = switched(&records, (&old, &new), &found);
        let at = at.unwrap_or_else(|| panic!("partition {partition} has vectors of neither"));
        let ended = of(partition, &update_ended).len();
        println!(
            "partition {partition}: record {at} of {} was the first of the new file; the old one ended before {ended}",
            records.len()
        );
        assert!(at > 0 && at <= ended, "{at} of {ended}");
    }
    b.drain();
}
