//! Versions come into service and go, while others score.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use inference::serving::Loaded;

use crate::replica::*;

#[test]
fn swaps_under_load_fail_nothing_mix_nothing_and_leave_nothing_behind() {
    const SWAPS: u64 = 1_000;
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    let (over, scored) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (serving, over, scored) = (
                replica.serving.clone(),
                Arc::clone(&over),
                Arc::clone(&scored),
            );
            std::thread::spawn(move || {
                let mut outputs = Vec::new();
                while !over.load(Ordering::Acquire) {
                    let routes = serving.routes(0).expect("served");
                    // Both routes are of one revision: version 2r - 1 and 2r, but for the first.
                    let versions = routes.variants.iter().map(|variant| {
                        outputs.clear();
                        variant
                            .loaded
                            .score_waiting(&[0.5, 0.5, 1.0, 1.0], &mut outputs);
                        let version: u32 = variant.loaded.id().version.parse().expect("a number");
                        assert_eq!(outputs, [answer(version); 2]);
                        u64::from(version)
                    });
                    let versions: Vec<u64> = versions.collect();
                    if routes.revision > 1 {
                        assert_eq!(versions, [routes.revision * 2 - 1, routes.revision * 2]);
                    }
                    scored.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut old: Vec<Weak<Loaded>> = Vec::new();
    let mut resident = Vec::new();
    for revision in 2..SWAPS + 2 {
        let versions = [revision as u32 * 2 - 1, revision as u32 * 2];
        let routes = replica.serving.routes(0).expect("served");
        old.extend(routes.variants.iter().map(|it| Arc::downgrade(&it.loaded)));
        drop(routes);
        for version in versions {
            replica.log.push(version);
        }
        replica.log.deploy(
            revision,
            &[
                ("stable", versions[0], LIVE),
                ("new", versions[1], canary(500)),
            ],
        );
        replica.turn();
        assert_eq!(
            replica.serving.routes(0).expect("served").revision,
            revision
        );
        for version in versions {
            replica.log.drop_files(version);
        }
        if revision % 100 == 0 {
            resident.push(resident_kib());
        }
    }
    over.store(true, Ordering::Release);
    for reader in readers {
        reader.join().expect("nothing failed");
    }
    replica.turn();
    assert!(scored.load(Ordering::Relaxed) > 0);
    let alive = old
        .iter()
        .filter(|loaded| loaded.strong_count() > 0)
        .count();
    assert_eq!((alive, replica.serving.models().len()), (0, 2));
    let series = replica
        .registry
        .encode()
        .lines()
        .filter(|line| line.contains("version="))
        .count();
    // Two versions: a state, a count, and the buckets of three stages.
    // Of one version, not of a thousand: its own times are some sixty.
    assert!(series < 250, "{series} series");
    // Loosely: the allocator keeps what it likes, and a model is small here.
    if let (Some(Some(first)), Some(Some(last))) = (resident.get(1), resident.last()) {
        assert!(*last < first + 16 * 1024, "{resident:?} KiB");
    }
}

/// None where the system does not say.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_version_in_use_is_dropped_when_its_batch_is_done_and_by_the_loader() {
    let mut replica = Replica::new(None);
    replica.log.push(1);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 1, LIVE)]);
    replica.turn();
    let batch = replica.serving.routes(0).expect("served");
    let old = Arc::downgrade(&batch.variants[0].loaded);
    replica.log.deploy(2, &[("stable", 2, LIVE)]);
    replica.turn();
    assert_eq!(replica.version("k"), 2);
    assert!(
        replica.again_at <= replica.now + Duration::from_millis(20),
        "it waits for the batch"
    );
    drop(batch);
    assert!(old.strong_count() == 1, "a lane does not free a model");
    replica.turn();
    assert!(old.upgrade().is_none());
    assert!(replica.again_at > replica.now + Duration::from_secs(1));
}

#[tokio::test]
async fn a_running_loader_follows_the_log_by_itself() {
    let replica = Replica::new(Some(1));
    let (log, serving) = (replica.log, replica.serving);
    let loader = replica.loader.spawn().expect("a thread");
    let mut versions = Vec::new();
    for revision in 1..=3 {
        log.push(revision as u32 + 1);
        log.deploy(revision, &[("stable", revision as u32 + 1, LIVE)]);
        let served = async {
            while serving
                .routes(0)
                .is_none_or(|routes| routes.revision != revision)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), served)
            .await
            .expect("in time");
        versions.push(
            serving
                .model("m", None)
                .expect("ready")
                .id()
                .version
                .clone(),
        );
    }
    assert_eq!(versions, ["2", "3", "4"]);
    assert!(!log.reports().is_empty());
    loader.stop().await;
    assert_eq!(log.reports(), [], "others are told that it has gone");
}

#[tokio::test]
async fn a_queued_model_answers_stream_and_requests_alike_and_goes_when_it_is_replaced() {
    let mut replica = Replica::queueing(&["m"], vec![pipeline()], vec![Some(package(1))]);
    replica.turn();
    let choice = replica
        .serving
        .choose("ward", Some("k"), None)
        .expect("served");
    let answered = choice.loaded.score(vec![1.0, 2.0, 3.0, 4.0], None).await;
    assert_eq!(answered, Ok(vec![answer(1); 2]));
    let loaded = Arc::clone(&choice.loaded);
    let lane = std::thread::spawn(move || {
        let mut outputs = Vec::new();
        loaded.score_waiting(&[0.0; 1_000], &mut outputs);
        outputs
    });
    assert_eq!(lane.join().expect("scored"), [answer(1); 500]);
    let batches = r#"quadrille_model_batch_rows_count{model="m",version="1"}"#;
    assert!(replica.registry.encode().contains(batches));
    drop(choice);
    replica.log.push(2);
    replica.log.deploy(1, &[("stable", 2, LIVE)]);
    replica.turn();
    assert!(!replica.registry.encode().contains("version=\"1\""));
}
