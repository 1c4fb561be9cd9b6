//! All four services with a pipeline that looks back: each record ends once, as a stored prediction, as a dead letter, or
//! absorbed, whatever becomes of the replicas that keep the state.

use std::collections::BTreeSet;

use quadrille_proto::Service;

use crate::harness::{
    cards::{self, Cards, PARTITIONS, PIPELINE},
    http,
    oracle::{self, quiescence},
    process::Process,
    world::World,
};

#[test]
fn each_record_is_predicted_refused_or_absorbed_once_whatever_becomes_of_the_state() {
    let world = World::pipeline("cards", PIPELINE, PARTITIONS).with_model();
    let mut cards = Cards::of(world);
    let mut others = [Service::Inference, Service::Results].map(|it| cards.world.start(it, "a"));
    // One of them has nothing on disk.
    let launches = [
        cards.replica_on_disk("a"),
        cards.replica("b"),
        cards.replica_on_disk("c"),
    ];
    let [mut a, mut b] = [&launches[0], &launches[1]].map(|it| it.start());
    for process in others.iter_mut().chain([&mut a, &mut b]) {
        process.ready();
    }
    let mut c = None::<Process>;
    cards.send(600, 150, |n| match n {
        200 => {
            a.kill();
            a = launches[0].start();
        }
        400 => c = Some(launches[2].start()),
        _ => {}
    });
    for partition in 0..PARTITIONS {
        cards.send_garbage(partition);
    }
    cards.send(1_200, 150, |n| match n {
        200 => b.drain(),
        400 => {
            a.kill();
            b = launches[1].start();
        }
        600 => a = launches[0].start(),
        800 => c.iter_mut().for_each(Process::drain),
        1_000 => {
            b.kill();
            b = launches[1].start();
        }
        _ => {}
    });

    let records = cards.records();
    let expected = cards::expected(&cards.pipeline, &records);
    let found = cards.outcomes(expected.len());
    expected.check(&found);
    assert_eq!(
        records.len(),
        found.len() + expected.absorbed,
        "each record has its outcome"
    );
    // A key that was reset knows nothing of the ids before: results does.
    let ids: BTreeSet<String> = expected.ids().iter().map(|it| it.1.to_owned()).collect();
    let results = others[1].address();
    oracle::stored(&cards.world, results, ids.len());
    quiescence::wait(&cards.world);
    let predictions = oracle::predictions(&cards.world);
    let predicted: Vec<(i32, &str)> = (predictions.iter())
        .map(|(partition, prediction)| (*partition, &*prediction.id))
        .collect();
    assert_eq!(by_partition(predicted), expected.ids());
    assert_eq!(oracle::rows(&cards.world, results), ids);
    let count = format!("/v1/pipelines/{}/predictions/count", cards.world.pipeline);
    let (_, body) = http::get(results, &count);
    let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["duplicates"], expected.ids().len() - ids.len());
    let kinds = (ids.len(), expected.letters.len(), expected.absorbed);
    println!("predicted, refused, absorbed: {kinds:?}");
    assert!(kinds.0 > 500 && kinds.1 > 20 && kinds.2 > 100, "{kinds:?}");
}

/// In order within each.
fn by_partition(mut ids: Vec<(i32, &str)>) -> Vec<(i32, &str)> {
    ids.sort_by_key(|(partition, _)| *partition);
    ids
}
