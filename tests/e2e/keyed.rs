//! A pipeline that looks back: each vector is what a replay of the records computes, bit for bit, whatever is killed, and
//! however many replicas there are.

use crate::harness::{PATIENCE, cards::Cards, eventually, process::Process};

#[test]
fn each_vector_is_what_a_replay_computes_although_its_processes_are_killed() {
    let mut cards = Cards::new();
    let launches = ["a", "b"].map(|instance| cards.replica(instance));
    let mut replicas = launches.each_ref().map(|it| it.start());
    replicas.iter_mut().for_each(|it| {
        it.ready();
    });
    cards.send(2_500, 150, |n| {
        if n % 250 == 125 {
            let turn = (n / 250) % 2;
            replicas[turn].kill();
            replicas[turn] = launches[turn].start();
        }
    });
    cards.check();
    replicas.iter_mut().for_each(Process::drain);
}

/// Partitions move to stores that are new, and back to those that were left behind, where others have gone on since.
#[test]
fn replicas_that_come_and_go_under_load_each_with_its_own_store_change_no_vector() {
    let mut cards = Cards::new();
    // Of one lane each, or there would be more lanes than partitions, and a replica might get none.
    let replica = |instance| cards.replica_on_disk(instance).env("QUADRILLE_LANES", "1");
    let launches = ["a", "b", "c"].map(replica);
    let mut first = launches[0].start();
    first.ready();
    let mut others: Vec<Process> = Vec::new();
    cards.send(1_800, 200, |n| match n {
        200 | 1_000 => others = launches[1..].iter().map(|it| it.start()).collect(),
        600 | 1_400 => {
            for mut other in others.drain(..) {
                eventually("it takes part", PATIENCE, || {
                    let restored = other.events("state restored");
                    restored.first().map(drop)
                });
                other.drain();
            }
        }
        _ => {}
    });
    cards.check();
    first.drain();
}
