//! Standbys: while a partition has no owner they answer, each as of the offset that it states, and who takes the partition over goes on
//! from what they have.

use std::collections::BTreeMap;

use quadrille_proto::v1::{FeaturesSource, GetFeaturesResponse};
use rdkafka::Message;

use crate::{
    harness::{
        PATIENCE,
        cards::{Cards, KEYS, PARTITIONS},
        eventually_or_show,
        process::{Launch, Process},
    },
    queries::{Answers, Asker, check},
};

/// Records a second.
const RATE: u32 = 150;
/// One question for so many records.
const ASKED_EVERY: usize = 3;

fn launch(cards: &Cards, instance: &str) -> Launch {
    let launch = cards.replica_on_disk(instance);
    launch.env("QUADRILLE_STANDBY", "all")
}

/// Waits until a replica owns half of the partitions and stands by for the others.
#[track_caller]
fn shares(cards: &Cards, replica: &Process) {
    let pipeline = &cards.world.pipeline;
    let half = f64::from(PARTITIONS / 2);
    for line in [
        format!("quadrille_assigned_partitions{{pipeline=\"{pipeline}\""),
        format!("quadrille_standby_partitions{{pipeline=\"{pipeline}\",state=\"ready\""),
    ] {
        eventually_or_show(
            "it has half, and stands by for half",
            PATIENCE,
            || match replica.metric(&line) {
                Some(found) if found == half => Ok(()),
                found => Err(format!("{line} {found:?}")),
            },
        );
    }
}

/// Asks replicas in turn, about one key after the other.
struct Questions {
    asker: Asker,
    asked: usize,
    answers: Answers,
    sources: BTreeMap<&'static str, usize>,
}

impl Questions {
    /// Every question has an answer.
    #[track_caller]
    fn ask(&mut self, replicas: &[&Process]) {
        let replica = replicas[self.asked % replicas.len()];
        let key = format!("c{}", self.asked * 7 % KEYS);
        self.asked += 1;
        let answer = self.asker.key(replica.address(), &key);
        let answer = answer.unwrap_or_else(|status| {
            panic!("{key}: {status}\n{}", replica.log());
        });
        let name = source(&answer).as_str_name();
        *self.sources.entry(name).or_default() += 1;
        self.answers.push((key, answer));
    }
}

fn source(answer: &GetFeaturesResponse) -> FeaturesSource {
    let as_of = answer.as_of.as_ref().expect("it says as of when");
    as_of.source()
}

/// How many rows a replica read since its log was that long, to take partitions over.
fn rows_read(replica: &Process, since: usize) -> u64 {
    let restored = replica.events("state restored");
    let rows = restored[since..].iter().map(|it| it["records"].as_u64());
    rows.map(|it| it.expect("a number")).sum()
}

#[test]
fn every_question_is_answered_while_a_killed_owners_partitions_move() {
    let mut cards = Cards::new();
    let mut questions = Questions {
        asker: Asker::new(&cards.world),
        asked: 0,
        answers: Answers::new(),
        sources: BTreeMap::new(),
    };
    let launches = ["a", "b"].map(|instance| launch(&cards, instance));
    let [mut a, mut b] = launches.each_ref().map(Launch::start);
    a.ready();
    b.ready();
    // From here on each key is known.
    cards.send(8 * KEYS, 1_000, |_| {});
    cards.check();
    shares(&cards, &a);
    shares(&cards, &b);
    let long: u64 = cards.changelog().values().sum();
    let restored = b.events("state restored").len();

    let mut ask = |n: usize, replicas: &[&Process]| {
        if n.is_multiple_of(ASKED_EVERY) {
            questions.ask(replicas);
        }
    };
    cards.send(60, RATE, |n| ask(n, &[&a, &b]));
    a.kill();
    // Longer than the session, until the other one has restored what was the killed one's.
    let half = PARTITIONS as usize / 2;
    let mut rounds = 0;
    while b.events("state restored").len() < restored + half {
        rounds += 1;
        assert!(rounds < 120, "it takes them over:\n{}", b.log());
        cards.send(RATE as usize / 2, RATE, |n| ask(n, &[&b]));
    }
    cards.send(60, RATE, |n| ask(n, &[&b]));
    let read = rows_read(&b, restored);

    // Back again: it is asked as soon as it says that it is ready.
    a = launches[0].start();
    a.ready();
    cards.send(300, RATE, |n| ask(n, &[&a, &b]));
    cards.check();
    let topic = format!("{}.feature-state", cards.world.pipeline);
    let rows = cards.client.read(&topic);
    let progress = rows.iter().filter(|it| it.key() == Some(&[0_u8, 1][..]));
    println!(
        "{} questions, {:?}; {read} of {long} rows read to take over; {} of {} rows are progress",
        questions.asked,
        questions.sources,
        progress.count(),
        rows.len(),
    );
    check(
        &cards.world,
        &cards.pipeline,
        &cards.client,
        &questions.answers,
    );
    assert!(questions.sources["FEATURES_SOURCE_STANDBY"] > 20);
    assert!(questions.sources["FEATURES_SOURCE_OWNER"] > 20);
    // What was written in the session's time and the transaction's, at most.
    assert!(read < long, "{read} of {long} rows");
    assert_eq!(
        b.events("the standby begins anew with its changelog").len(),
        0
    );
}
