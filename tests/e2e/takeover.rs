//! How partitions of a pipeline that looks back come to another owner: one that left, died, or stood still and goes on.

use std::time::{Duration, Instant};

use quadrille_local::{
    kafka::Options,
    proxy::{self, Held, Request, Verdict},
};
use quadrille_proto::Service;

use crate::harness::{
    PATIENCE, broker,
    cards::{Cards, PARTITIONS, PIPELINE, SHORT},
    client::Watch,
    eventually, eventually_or_show,
    process::{Launch, Process},
    world::World,
};

const PRODUCE: i16 = 0;
const INIT: i16 = 22;
const END: i16 = 26;
const SEND_OFFSETS: i16 = 28;

/// Records a second.
const RATE: u32 = 200;

fn assigned(cards: &Cards, replica: &Process, is_enough: impl Fn(f64) -> bool) {
    let line = format!(
        "quadrille_assigned_partitions{{pipeline=\"{}\"",
        cards.world.pipeline
    );
    eventually_or_show("partitions are assigned", PATIENCE, || {
        let found = replica.metric(&line);
        match found.is_some_and(&is_enough) {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    });
}

/// Waits until a replica that was frozen has noticed what it lost, and is given partitions again.
fn takes_part_again(replica: &Process, before: usize) {
    eventually("it is given partitions again", PATIENCE, || {
        (given(replica) > before).then_some(())
    });
}

/// How often it was given partitions.
fn given(replica: &Process) -> usize {
    replica.events("partitions assigned").len()
}

/// Sends a load within which something happens; the longest time that a partition brought no vector after it.
fn pause(cards: &mut Cards, happens: impl FnOnce()) -> Duration {
    let watch = Watch::start(&cards.world, &cards.world.topics().features);
    let (mut happens, mut at) = (Some(happens), Instant::now());
    cards.send(400, RATE, |n| {
        if n == 200
            && let Some(happens) = happens.take()
        {
            at = Instant::now();
            happens();
        }
    });
    cards.check();
    watch.longest_pause(at)
}

#[test]
fn partitions_go_on_soon_after_their_owner_left_died_or_stood_still() {
    let mut cards = Cards::new();
    let launches = ["a", "b"].map(|instance| cards.replica_on_disk(instance));
    let [mut a, mut b] = launches.each_ref().map(|it| it.start());
    a.ready();
    b.ready();
    let half = |found| found == f64::from(PARTITIONS / 2);
    assigned(&cards, &a, half);
    assigned(&cards, &b, half);

    // Each partition has a vector before.
    cards.send(200, RATE, |_| {});
    cards.check();
    let left = pause(&mut cards, || a.signal("TERM"));
    a.wait();
    println!("longest pause of a partition after its owner left: {left:?}");

    a = launches[0].start();
    a.ready();
    assigned(&cards, &a, half);
    let died = pause(&mut cards, || a.kill());
    println!("longest pause of a partition after its owner died: {died:?}");

    a = launches[0].start();
    a.ready();
    assigned(&cards, &a, half);
    // Frozen until the other one has all of them and has gone on for a while.
    let before = given(&a);
    cards.send(200, RATE, |n| {
        if n == 100 {
            a.signal("STOP");
        }
    });
    assigned(&cards, &b, |found| found == f64::from(PARTITIONS));
    cards.send(400, RATE, |n| {
        if n == 200 {
            a.signal("CONT");
        }
    });
    takes_part_again(&a, before);
    cards.send(200, RATE, |_| {});
    cards.check();
    a.drain();
    b.drain();
    // A loaded machine is given more than the second, and the session and a second, that it takes; but not the time that Kafka
    // leaves a transaction open.
    assert!(left < Duration::from_secs(5), "{left:?}");
    assert!(died < Duration::from_secs(10), "{died:?}");
}

/// Replicas that may talk to Kafka through a proxy.
fn behind_a_proxy(
    options: Options,
    partitions: i32,
) -> (proxy::Proxy, quadrille_local::Kafka, Cards) {
    let (proxy, kafka) = proxy::before(options).expect("Apache Kafka starts");
    let servers = kafka.bootstrap_servers();
    let cards = Cards::of(World::pipeline_on(servers, "cards", PIPELINE, partitions));
    (proxy, kafka, cards)
}

/// A replica that does.
fn through(proxy: &proxy::Proxy, cards: &Cards, instance: &str) -> Launch {
    let launch = cards.replica_on_disk(instance);
    launch.env("KAFKA_BOOTSTRAP_SERVERS", &proxy.bootstrap_servers())
}

/// Whether a request is of this kind, and of this replica.
fn is_of(
    cards: &Cards,
    instance: &str,
    api_key: i16,
) -> impl Fn(&Request) -> bool + Send + 'static {
    let group = Service::Feature.group(&cards.world.pipeline);
    let lanes = format!("{group}-{}-{instance}-", cards.world.pipeline);
    move |request| request.api_key == api_key && request.client_id.starts_with(&lanes)
}

/// A broker that ends no transaction by itself for as long as a test takes.
fn patient() -> Options {
    let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let mut options = broker::options();
    options
        .extra
        .push((interval.to_owned(), "3600000".to_owned()));
    options
}

/// What an owner left open is ended by who has its partitions: its offsets, or only the rows on the changelog, would be waited for
/// without end.
#[test]
fn a_transaction_of_an_owner_that_died_or_stands_still_is_ended_by_its_successor() {
    let (proxy, _kafka, mut cards) = behind_a_proxy(patient(), PARTITIONS);
    let launch = through(&proxy, &cards, "a");
    let mut b = cards.replica_on_disk("b").start();
    let half = |found| found == f64::from(PARTITIONS / 2);
    for (open_at, signal) in [(END, "KILL"), (SEND_OFFSETS, "KILL"), (END, "STOP")] {
        let mut a = launch.start();
        a.ready();
        b.ready();
        assigned(&cards, &a, half);
        assigned(&cards, &b, half);
        cards.send(200, RATE, |_| {});
        cards.check();

        let before = given(&a);
        let (late, mut is_it) = (Held::new(), Some(is_of(&cards, "a", open_at)));
        let watch = Watch::start(&cards.world, &cards.world.topics().features);
        let mut at = Instant::now();
        cards.send(400, RATE, |n| match n {
            100 => {
                let (late, is_it) = (late.clone(), is_it.take().expect("once"));
                proxy.rule(move |request| match is_it(request) {
                    true => Verdict::Hold(late.clone()),
                    false => Verdict::Pass,
                });
            }
            200 => {
                assert!(late.came(PATIENCE), "a transaction is open");
                a.signal(signal);
                at = Instant::now();
            }
            _ => {}
        });
        cards.check();
        let pause = watch.longest_pause(at);
        println!("longest pause of a partition, {open_at} held back, {signal}: {pause:?}");
        // What comes now is refused.
        proxy.no_rule();
        late.release();
        match signal {
            "STOP" => {
                a.signal("CONT");
                takes_part_again(&a, before);
                cards.send(200, RATE, |_| {});
                cards.check();
                a.drain();
            }
            _ => {
                a.wait();
            }
        }
    }
    b.drain();
}

/// What the owner's last batch left is on the changelog and its offsets are sent, but the end of its transaction is still on the
/// way when another one has its partitions: the batch is a part of the state all the same.
#[test]
fn a_commit_that_comes_after_the_takeover_is_part_of_the_state() {
    let (proxy, _kafka, mut cards) = behind_a_proxy(broker::options(), PARTITIONS);
    let [mut a, mut b] = ["a", "b"].map(|instance| through(&proxy, &cards, instance).start());
    a.ready();
    b.ready();
    let half = |found| found == f64::from(PARTITIONS / 2);
    assigned(&cards, &a, half);
    cards.send(600, 400, |_| {});
    cards.check();

    let (end, is_end) = (Held::new(), is_of(&cards, "a", END));
    let is_init = is_of(&cards, "b", INIT);
    let mut once = Some(end.clone());
    proxy.rule(move |request| match is_end(request) {
        // It must not come again by another connection.
        true => once.take().map_or(Verdict::Lose, Verdict::Late),
        // The successor would end the transaction.
        false if is_init(request) => Verdict::Lose,
        false => Verdict::Pass,
    });
    cards.send(40, 400, |_| {});
    assert!(end.came(PATIENCE), "a batch is to be committed");
    let before = given(&a);
    a.signal("STOP");
    assigned(&cards, &b, |found| found == f64::from(PARTITIONS));
    // Records for the successor, which come after that batch.
    cards.send(200, 400, |_| {});
    end.release();
    assert!(end.is_answered(PATIENCE), "it is committed");
    proxy.no_rule();
    cards.check();
    a.signal("CONT");
    takes_part_again(&a, before);
    cards.send(200, 400, |_| {});
    cards.check();
    a.drain();
    b.drain();
}

/// The other lane of the process has the store open still.
#[test]
fn a_lane_that_stands_still_gives_its_store_to_the_other_lane_of_its_process() {
    let (proxy, _kafka, mut cards) = behind_a_proxy(patient(), 2);
    let properties = format!("{SHORT},max.poll.interval.ms=6500");
    let launch = through(&proxy, &cards, "a");
    let mut a = launch.env("KAFKA_PROPERTIES", &properties).start();
    a.ready();
    cards.send(400, 400, |_| {});
    cards.check();

    let (send, is_send) = (Held::new(), is_of(&cards, "a", PRODUCE));
    let mut once = Some(send.clone());
    proxy.rule(move |request| {
        let held = once.take_if(|_| is_send(request));
        held.map_or(Verdict::Pass, Verdict::Hold)
    });
    cards.send(200, 400, |_| {});
    assert!(send.came(PATIENCE), "a lane waits for its outputs");
    eventually_or_show("the other lane waits for the store", PATIENCE, || {
        let log = a.log();
        match log.contains("is open already") {
            true => Ok(()),
            false => Err(log),
        }
    });
    send.release();
    cards.check();
    cards.send(200, 400, |_| {});
    cards.check();
    a.drain();
}
