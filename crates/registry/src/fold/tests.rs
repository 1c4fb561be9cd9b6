//! The folds against a model: interleaved pushes, deletions, garbage, and compactions that must change nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    PackageBytes, Role,
    deployment::tests::{deployment, id, route},
};

type Record = (Vec<u8>, Option<Vec<u8>>);

fn package(content: u8, bytes: usize) -> PackageBytes {
    PackageBytes {
        manifest: vec![b'{', content, b'}'],
        artefact: vec![content; bytes],
    }
}

fn push_key(version: &str, package: &PackageBytes, push: &str) -> PushKey {
    PushKey {
        id: id("m", version),
        sha256: package.sha256(),
        push: push.to_owned(),
    }
}

/// The records of a push, chunks of 512 KiB, the manifest last.
fn push(key: &PushKey, package: &PackageBytes) -> Vec<Record> {
    let chunks = (0..).zip(package.chunks());
    let mut records: Vec<Record> = chunks
        .map(|(index, chunk)| (key.chunk(index).into_bytes(), Some(chunk.to_vec())))
        .collect();
    let manifest = wire::encode_manifest(wire::manifest_message(key, package, None, &key.push, 5));
    records.push((key.manifest().into_bytes(), Some(manifest)));
    records
}

/// As a delete writes it: the manifest first.
fn delete(key: &PushKey, package: &PackageBytes) -> Vec<Record> {
    let chunks = 0..package.chunks().len() as u32;
    let keys = [key.manifest()]
        .into_iter()
        .chain(chunks.map(|i| key.chunk(i)));
    keys.map(|key| (key.into_bytes(), None)).collect()
}

fn models(log: &[(i64, Record)]) -> ModelsView {
    let mut fold = Models::default();
    for (offset, (key, value)) in log {
        fold.apply(*offset, key, value.as_deref());
    }
    fold.view()
}

fn deployments(log: &[(i64, Record)]) -> DeploymentsView {
    let mut fold = Deployments::default();
    for (offset, (key, value)) in log {
        fold.apply(*offset, key, value.as_deref());
    }
    fold.view()
}

fn numbered(log: Vec<Record>) -> Vec<(i64, Record)> {
    (0..).zip(log).collect()
}

/// What a log cleaner leaves that has cleaned up to `end`; `tombstones`: they are past their time, too.
fn compacted(log: &[(i64, Record)], end: usize, tombstones: bool) -> Vec<(i64, Record)> {
    let (clean, rest) = log.split_at(end.min(log.len()));
    let last: BTreeMap<&[u8], i64> = clean.iter().map(|(at, (key, _))| (&key[..], *at)).collect();
    let kept = clean
        .iter()
        .filter(|(at, (key, value))| last[&key[..]] == *at && (value.is_some() || !tombstones));
    kept.chain(rest).cloned().collect()
}

/// Merges writers' records, each writer's in order, as `turns` say.
fn merged(mut writers: Vec<Vec<Record>>, turns: &[usize]) -> Vec<Record> {
    for writer in &mut writers {
        writer.reverse();
    }
    let mut log = Vec::new();
    let mut turns = turns.iter().cycle();
    while writers.iter().any(|writer| !writer.is_empty()) {
        let turn = turns.next().copied().unwrap_or_default() % writers.len();
        let waiting = (0..writers.len()).map(|step| (turn + step) % writers.len());
        let mut waiting = waiting.filter(|at| !writers[*at].is_empty());
        let Some(next) = waiting.next() else { break };
        log.extend(writers[next].pop());
    }
    log
}

/// A writer: pushes a version with some content and size, and perhaps deletes it again, or dies on the way.
fn writer() -> impl Strategy<Value = (u8, u8, usize, bool, usize)> {
    (0..2_u8, 0..2_u8, 0..3_usize, any::<bool>(), 0..12_usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn models_are_what_survives_whoever_interleaves_and_however_the_log_was_cleaned(
        writers in prop::collection::vec(writer(), 1..5),
        turns in prop::collection::vec(0..5_usize, 1..12),
        end in 0..40_usize,
        tombstones in any::<bool>(),
    ) {
        let records = writers.iter().enumerate().map(|(number, writer)| {
            let (version, content, chunks, deletes, cut) = *writer;
            let package = package(content, chunks * crate::CHUNK_BYTES);
            let key = push_key(&version.to_string(), &package, &format!("u{number}"));
            let mut records = push(&key, &package);
            if deletes {
                records.extend(delete(&key, &package));
            }
            // Readers see whole transactions; foreign writers may leave anything.
            let keep = if cut < 3 { records.len() - cut.min(records.len()) } else { records.len() };
            records.truncate(keep);
            records
        });
        let log = numbered(merged(records.collect(), &turns));
        let view = models(&log);
        prop_assert_eq!(&models(&compacted(&log, end, tombstones)), &view);

        // The model: the last value of each key, whole packages by the manifest's place, the first stands.
        let mut last: BTreeMap<String, (i64, bool)> = BTreeMap::new();
        for (offset, (key, value)) in &log {
            let key = String::from_utf8(key.clone()).unwrap();
            last.insert(key, (*offset, value.is_some()));
        }
        let mut standing: BTreeMap<ModelId, (i64, String)> = BTreeMap::new();
        for (number, (version, content, chunks, ..)) in writers.iter().enumerate() {
            let package = package(*content, chunks * crate::CHUNK_BYTES);
            let key = push_key(&version.to_string(), &package, &format!("u{number}"));
            let there = |key: String| last.get(&key).copied().filter(|(_, there)| *there);
            let all = (0..*chunks as u32).all(|index| there(key.chunk(index)).is_some());
            if let (true, Some((offset, _))) = (all, there(key.manifest())) {
                let first = standing.entry(key.id).or_insert((i64::MAX, String::new()));
                if offset < first.0 {
                    *first = (offset, format!("u{number}"));
                }
            }
        }
        let found = view.models.into_iter();
        let found: BTreeMap<_, _> = found.map(|(id, entry)| (id, (entry.manifest_offset, entry.push))).collect();
        prop_assert_eq!(found, standing);
    }

    #[test]
    fn of_deployments_that_race_each_revision_is_won_by_the_first(
        revisions in prop::collection::vec((1..6_u64, 0..2_usize), 1..30),
        end in 0..30_usize,
    ) {
        let mut current: [Option<u64>; 2] = [None, None];
        let mut valid = Vec::new();
        let log = revisions.iter().enumerate().map(|(number, (revision, pipeline))| {
            let mut event = deployment(*revision, vec![route("live", "1", Role::Live { weight: 1 })]);
            event.pipeline = format!("p{pipeline}");
            let current = &mut current[*pipeline];
            let wins = current.is_none_or(|current| current + 1 == *revision);
            if wins {
                *current = Some(*revision);
            }
            valid.push(wins);
            let key = key::event(&event.pipeline, *revision, &format!("u{number}"));
            (key.into_bytes(), Some(wire::encode_deployment(&event)))
        });
        let log = numbered(log.collect());
        let view = deployments(&log);
        prop_assert_eq!(&deployments(&compacted(&log, end, true)), &view);
        for (pipeline, history) in &view.deployments {
            for event in &history.events {
                prop_assert_eq!(event.void.is_none(), valid[event.offset as usize]);
            }
            let number: usize = pipeline[1..].parse().unwrap();
            prop_assert_eq!(history.current().map(|current| current.revision), current[number]);
        }
    }

    #[test]
    fn garbage_is_listed_and_hurts_nothing(
        garbage in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), any::<Option<Vec<u8>>>()), 0..20),
    ) {
        let package = package(1, 10);
        let key = push_key("1", &package, "u");
        let log = numbered(merged(vec![garbage.clone(), push(&key, &package)], &[0, 1]));
        prop_assert_eq!(models(&log).models.len(), 1);
        let event = deployment(1, vec![route("live", "1", Role::Live { weight: 1 })]);
        let good = (key::event("p", 1, "u").into_bytes(), Some(wire::encode_deployment(&event)));
        let log = numbered(merged(vec![garbage, vec![good]], &[0]));
        prop_assert_eq!(deployments(&log).deployments.len(), 1);
    }
}

#[test]
fn the_second_content_of_a_version_is_void_and_says_whose_the_first_is() {
    let (first, second) = (package(1, 10), package(2, 20));
    let (a, b) = (push_key("1", &first, "a"), push_key("1", &second, "b"));
    let log = numbered([push(&a, &first), push(&b, &second)].concat());
    let view = models(&log);
    assert_eq!(view.models[&id("m", "1")].push, "a");
    assert_eq!(view.models[&id("m", "1")].bytes, 13);
    let [void] = &view.void[..] else {
        panic!("{:?}", view.void)
    };
    assert!(
        void.reason
            .contains("a pushed m:1 with other content before")
    );
    assert_eq!(void.keys, [b.manifest(), b.chunk(0)]);
}

#[test]
fn a_package_that_contradicts_itself_is_void_with_the_reason() {
    let whole = package(1, crate::CHUNK_BYTES + 1);
    let key = push_key("1", &whole, "u");
    let records = push(&key, &whole);
    let reason = |change: &dyn Fn(&mut Vec<Record>)| {
        let mut changed = records.clone();
        change(&mut changed);
        let view = models(&numbered(changed));
        assert!(view.models.is_empty());
        let reasons: Vec<&str> = view.void.iter().map(|void| void.reason.as_str()).collect();
        reasons.join("; ")
    };
    assert!(reason(&|records| drop(records.remove(1))).contains("chunk 2 of 2 is missing"));
    assert!(reason(&|records| drop(records.pop())).contains("its manifest is missing"));
    let longer = reason(&|records| records[1].1 = Some(vec![0; 7]));
    assert!(
        longer.contains("524295 bytes in 2 chunks are there"),
        "{longer}"
    );
    let extra = reason(&|records| records.insert(0, (key.chunk(9).into_bytes(), Some(vec![]))));
    assert!(extra.contains("in 3 chunks are there"), "{extra}");
    let garbage = reason(&|records| records[2].1 = Some(b"garbage".to_vec()));
    assert!(garbage.contains("not a manifest"), "{garbage}");
    let other = push_key("2", &whole, "u");
    let swapped = reason(&|records| records[2].0 = other.manifest().into_bytes());
    assert!(
        swapped.contains("belongs to another package than its key"),
        "{swapped}"
    );
}

#[test]
fn a_package_whose_artefact_lies_elsewhere_has_no_chunks() {
    let whole = package(1, crate::CHUNK_BYTES + 1);
    let key = push_key("1", &whole, "u");
    let uri = crate::Uri::parse("s3://models/m/1/forest.bin").unwrap();
    let message = wire::manifest_message(&key, &whole, Some(&uri), "a", 5);
    let view = |message: &quadrille_proto::v1::ModelManifest, chunks: &[u32]| {
        let chunk = |index: &u32| (key.chunk(*index).into_bytes(), Some(vec![1]));
        let mut records: Vec<Record> = chunks.iter().map(chunk).collect();
        let value = wire::encode_manifest(message.clone());
        records.push((key.manifest().into_bytes(), Some(value)));
        models(&numbered(records))
    };
    let good = view(&message, &[]);
    let entry = &good.models[&key.id];
    let found = (entry.bytes, entry.chunks(), entry.artefact_uri());
    let bytes = crate::CHUNK_BYTES as u64 + 1 + 3;
    assert_eq!(found, (bytes, 0, Some("s3://models/m/1/forest.bin")));
    assert_eq!(entry.keys(), [key.manifest()]);

    let reason = |view: &ModelsView| view.void[0].reason.clone();
    assert!(reason(&view(&message, &[0])).contains("1 chunks are there"));
    let mut both = message.clone();
    both.chunk_bytes = 7;
    assert!(reason(&view(&both, &[])).contains("chunks of 7"));
    // As readers see it that do not know the URI.
    let mut without = message.clone();
    without.artefact_uri.clear();
    assert!(reason(&view(&without, &[])).contains("in 0 chunks of 0"));
}

#[test]
fn an_impossible_deployment_is_void_and_the_one_before_stays() {
    let good = deployment(1, vec![route("live", "1", Role::Live { weight: 1 })]);
    let bad = deployment(2, vec![route("shadow", "2", Role::Shadow)]);
    let record = |event: &Deployment, id: &str| {
        let key = key::event("p", event.revision, id);
        (key.into_bytes(), Some(wire::encode_deployment(event)))
    };
    let foreign = (
        b"p/2/x".to_vec(),
        Some([wire::encode_deployment(&bad), vec![0x48, 1]].concat()),
    );
    let misplaced = (b"q/1/u".to_vec(), record(&good, "u").1);
    let log = numbered(vec![
        record(&good, "a"),
        record(&bad, "b"),
        foreign,
        misplaced,
    ]);
    let view = deployments(&log);
    let history = &view.deployments["p"];
    assert_eq!(history.current(), Some(&good));
    let void = history.events[1].void.as_deref().unwrap();
    assert!(void.contains("no live route has a weight"), "{void}");
    let reasons: Vec<&str> = view.void.iter().map(|void| void.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains("field 9") && reasons[1].contains("differs from its key"));
}

#[test]
fn a_push_that_is_read_half_is_not_taken_for_one_that_lost() {
    let whole = package(1, 3 * crate::CHUNK_BYTES);
    let key = push_key("1", &whole, "u");
    let log = numbered(push(&key, &whole));
    for read in 1..log.len() {
        let view = models(&log[..read]);
        assert!(view.void.iter().all(|void| void.key != key.manifest()));
    }
    assert!(models(&log).void.is_empty());
}
