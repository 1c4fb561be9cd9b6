//! One suite, run on SQLite and on PostgreSQL.

mod common;

use std::collections::HashSet;

use common::{
    Database, PIPELINE, abandon_after, batch, ids, list_ids, next_offset, prediction, topic,
};
use results::domain::{Count, Filter, Limit, Prediction};
use results::store::{Advance, AnyStore, Error, Store, TopicIdentity, WriteBatch, Written};

macro_rules! suite {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Database::sqlite().await).await; })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Database::postgres().await).await; })*
        }
    };
}

suite! {
    a_prediction_comes_back_as_it_was_stored
    of_equal_ids_the_first_stays_and_the_later_ones_are_counted
    the_same_id_in_two_pipelines_is_two_predictions
    a_zombie_writes_nothing
    of_two_writers_from_one_offset_one_is_fenced
    a_fence_on_one_partition_undoes_the_others
    a_partition_moves_without_predictions
    a_batch_that_names_a_partition_twice_is_refused
    a_restart_goes_on_from_the_stored_offsets
    another_cluster_or_another_topic_of_the_name_is_refused
    a_topic_id_that_comes_to_be_known_is_kept
    every_page_size_covers_everything_once
    paging_covers_what_was_there_once_while_more_is_inserted
    filters_narrow_the_list_alone_and_together
    a_write_given_up_anywhere_leaves_all_or_nothing
    opening_again_keeps_what_is_stored
    odd_texts_and_numbers_are_data_not_sql
    what_only_one_database_could_hold_is_refused_by_both
    a_batch_of_any_size_is_stored_whole
}

async fn write(store: &AnyStore, batch: WriteBatch) -> Written {
    store.write(&batch).await.expect("a write")
}

async fn count(store: &AnyStore) -> (i64, i64) {
    let Count { stored, duplicates } = store.count(PIPELINE).await.expect("a count");
    (stored, duplicates)
}

async fn a_prediction_comes_back_as_it_was_stored(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, vec![prediction("r-1")])).await;
    assert_eq!(
        store.get(PIPELINE, "r-1").await.expect("get"),
        Some(prediction("r-1"))
    );
    assert_eq!(store.get(PIPELINE, "r-2").await.expect("get"), None);
    let page = store
        .list(PIPELINE, &Filter::default())
        .await
        .expect("list");
    assert_eq!(
        (page.predictions, page.next),
        (vec![prediction("r-1")], None)
    );
}

async fn of_equal_ids_the_first_stays_and_the_later_ones_are_counted(database: Database) {
    let store = database.open().await;
    let with = |id: &str, probability| Prediction {
        probability,
        ..prediction(id)
    };
    let first = vec![
        with("b", 0.1),
        with("a", 0.2),
        with("b", 0.3),
        with("b", 0.4),
    ];
    let written = write(&store, batch(None, first)).await;
    assert_eq!(
        written,
        Written {
            stored: 2,
            duplicates: 2
        }
    );
    let written = write(&store, batch(Some(4), vec![with("c", 0.5), with("a", 0.6)])).await;
    assert_eq!(
        written,
        Written {
            stored: 1,
            duplicates: 1
        }
    );
    for (id, probability) in [("a", 0.2), ("b", 0.1), ("c", 0.5)] {
        assert_eq!(
            store.get(PIPELINE, id).await.expect("get"),
            Some(with(id, probability))
        );
    }
    assert_eq!(count(&store).await, (3, 3));
}

async fn the_same_id_in_two_pipelines_is_two_predictions(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let topic = TopicIdentity {
        topic: "sepsis.predictions".into(),
        ..topic()
    };
    let other = WriteBatch {
        pipeline: "sepsis".into(),
        topic,
        ..batch(None, ids(["a", "b"]))
    };
    assert_eq!(write(&store, other).await.stored, 2);
    assert_eq!(count(&store).await, (1, 0));
    assert_eq!(store.count("sepsis").await.expect("count").stored, 2);
    assert_eq!(
        store.count("nobody").await.expect("count"),
        Count::default()
    );
    assert_eq!(
        list_ids(&store, &Filter::default()).await.expect("list"),
        ["a"]
    );
}

fn assert_fenced(result: Result<Written, Error>, in_partition: i32) {
    match result {
        Err(Error::Fenced { topic, partition }) => {
            assert_eq!(
                (topic.as_str(), partition),
                ("diabetes.predictions", in_partition)
            );
        }
        other => panic!("not fenced: {other:?}"),
    }
}

async fn a_zombie_writes_nothing(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a", "b"]))).await;
    write(&store, batch(Some(2), ids(["c"]))).await;
    for old in [None, Some(0), Some(2), Some(4)] {
        assert_fenced(store.write(&batch(old, ids(["z"]))).await, 0);
    }
    assert_eq!(store.get(PIPELINE, "z").await.expect("get"), None);
    assert_eq!(next_offset(&store).await, Some(3));
    assert_eq!(count(&store).await, (3, 0));
    write(&store, batch(Some(3), ids(["d"]))).await;
}

async fn of_two_writers_from_one_offset_one_is_fenced(database: Database) {
    let store = database.open().await;
    let mut old = None;
    for round in 0..20 {
        let mine = batch(old, ids([format!("mine-{round}")]));
        let theirs = batch(old, ids([format!("theirs-{round}")]));
        let (mine, theirs) = tokio::join!(store.write(&mine), store.write(&theirs));
        match (mine, theirs) {
            (Ok(_), fenced) | (fenced, Ok(_)) => assert_fenced(fenced, 0),
            neither => panic!("neither wrote: {neither:?}"),
        }
        old = Some(round + 1);
    }
    assert_eq!(count(&store).await, (20, 0));
}

async fn a_fence_on_one_partition_undoes_the_others(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let advance = |partition, old, new| Advance {
        partition,
        old,
        new,
    };
    for stale in [advance(7, Some(1), 2), advance(0, None, 1)] {
        let mut batch = batch(Some(1), ids(["b"]));
        if stale.partition == 0 {
            batch.advances.clear();
        }
        batch.advances.extend([advance(5, None, 1), stale]);
        assert_fenced(store.write(&batch).await, stale.partition);
    }
    let claimed = store.claim(&topic(), &[5, 0, 7]).await.expect("a claim");
    assert_eq!(claimed, [(5, None), (0, Some(1)), (7, None)]);
    assert_eq!(count(&store).await, (1, 0));
}

async fn a_partition_moves_without_predictions(database: Database) {
    let store = database.open().await;
    let nothing = WriteBatch {
        advances: Vec::new(),
        ..batch(None, Vec::new())
    };
    assert_eq!(write(&store, nothing).await, Written::default());
    assert_eq!(next_offset(&store).await, None);
    let advances = vec![Advance {
        partition: 0,
        old: None,
        new: 7,
    }];
    let written = write(
        &store,
        WriteBatch {
            advances,
            ..batch(None, Vec::new())
        },
    )
    .await;
    assert_eq!(written, Written::default());
    assert_eq!(next_offset(&store).await, Some(7));
}

async fn a_batch_that_names_a_partition_twice_is_refused(database: Database) {
    let store = database.open().await;
    let mut twice = batch(None, ids(["a"]));
    twice.advances.push(Advance {
        partition: 0,
        old: Some(1),
        new: 2,
    });
    let refused = store.write(&twice).await;
    assert!(
        matches!(refused, Err(Error::PartitionTwice { partition: 0 })),
        "{refused:?}"
    );
    assert_eq!(
        (count(&store).await, next_offset(&store).await),
        ((0, 0), None)
    );
}

async fn a_restart_goes_on_from_the_stored_offsets(database: Database) {
    let mut store = database.open().await;
    let mut old = next_offset(&store).await;
    assert_eq!(old, None);
    for round in 0..3 {
        write(&store, batch(old, ids([2 * round, 2 * round + 1]))).await;
        store = database.reopen(store).await;
        old = next_offset(&store).await;
        assert_eq!(old, Some(2 * round + 2));
    }
    assert_eq!(count(&store).await, (6, 0));
}

async fn another_cluster_or_another_topic_of_the_name_is_refused(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let cluster = TopicIdentity {
        cluster_id: "cluster-b".into(),
        ..topic()
    };
    let anew = TopicIdentity {
        topic_id: Some("topic-2".into()),
        ..topic()
    };
    for other in [cluster.clone(), anew] {
        // Even for partitions that have no offset yet.
        let error = store.claim(&other, &[9]).await.expect_err("another topic");
        assert!(matches!(error, Error::OtherTopic { .. }) && !error.is_retriable());
        let message = error.to_string();
        for part in [
            "diabetes.predictions",
            "cluster-a",
            "DATABASE_URL",
            "DELETE FROM offsets",
        ] {
            assert!(message.contains(part), "{part:?} in {message}");
        }
    }
    assert_fenced(
        store
            .write(&WriteBatch {
                topic: cluster,
                ..batch(Some(1), ids(["b"]))
            })
            .await,
        0,
    );
    let unnamed = TopicIdentity {
        topic_id: None,
        ..topic()
    };
    assert_eq!(
        store.claim(&unnamed, &[0]).await.expect("a claim"),
        [(0, Some(1))]
    );
}

async fn a_topic_id_that_comes_to_be_known_is_kept(database: Database) {
    let store = database.open().await;
    let unnamed = || TopicIdentity {
        topic_id: None,
        ..topic()
    };
    write(
        &store,
        WriteBatch {
            topic: unnamed(),
            ..batch(None, ids(["a"]))
        },
    )
    .await;
    assert_eq!(next_offset(&store).await, Some(1));
    write(&store, batch(Some(1), ids(["b"]))).await;
    write(
        &store,
        WriteBatch {
            topic: unnamed(),
            ..batch(Some(2), ids(["c"]))
        },
    )
    .await;
    let anew = TopicIdentity {
        topic_id: Some("topic-2".into()),
        ..topic()
    };
    let refused = store.claim(&anew, &[0]).await;
    assert!(
        matches!(refused, Err(Error::OtherTopic { .. })),
        "{refused:?}"
    );
}

/// Many of the same event time, so that pages end inside of it.
fn crowded(numbers: std::ops::Range<i64>) -> Vec<Prediction> {
    let at = |number: i64| Prediction {
        event_time_ms: 1_700_000_000_000 + number % 3,
        ..prediction(format!("r-{number}"))
    };
    numbers.map(at).collect()
}

fn newest_first(mut predictions: Vec<Prediction>) -> Vec<String> {
    predictions.sort_by(|a, b| (b.event_time_ms, &b.id).cmp(&(a.event_time_ms, &a.id)));
    predictions
        .into_iter()
        .map(|prediction| prediction.id)
        .collect()
}

async fn every_page_size_covers_everything_once(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, crowded(0..30))).await;
    for limit in [1, 7, 10, 29, 30, 31, 1000] {
        let filter = Filter {
            limit: Limit::new(limit).expect("a limit"),
            ..Filter::default()
        };
        let listed = list_ids(&store, &filter).await.expect("list");
        assert_eq!(listed, newest_first(crowded(0..30)), "{limit} a page");
    }
}

async fn paging_covers_what_was_there_once_while_more_is_inserted(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, crowded(0..40))).await;
    let limit = Limit::new(3).expect("a limit");
    let mut filter = Filter {
        limit,
        ..Filter::default()
    };
    let (mut listed, mut next) = (Vec::new(), 40);
    loop {
        let page = store.list(PIPELINE, &filter).await.expect("list");
        listed.extend(page.predictions.into_iter().map(|prediction| prediction.id));
        let Some(after) = page.next else { break };
        filter.after = Some(after);
        if next < 60 {
            write(&store, batch(Some(next), crowded(next..next + 2))).await;
            next += 2;
        }
    }
    let distinct: HashSet<&String> = listed.iter().collect();
    assert_eq!(distinct.len(), listed.len(), "nothing twice");
    assert!(
        newest_first(crowded(0..40))
            .iter()
            .all(|id| distinct.contains(id))
    );
}

async fn filters_narrow_the_list_alone_and_together(database: Database) {
    let store = database.open().await;
    let row = |id: &str, key: &str, decision: &str, event_time_ms| Prediction {
        key: key.into(),
        decision: decision.into(),
        event_time_ms,
        ..prediction(id)
    };
    let rows = vec![
        row("a", "x", "positive", -10),
        row("b", "x", "negative", 0),
        row("c", "y", "positive", 10),
        row("d", "x", "positive", 20),
    ];
    write(&store, batch(None, rows)).await;
    let text = |text: &str| Some(text.to_owned());
    let all = Filter::default();
    for (filter, expected) in [
        (all.clone(), "dcba"),
        (
            Filter {
                key: text("x"),
                ..all.clone()
            },
            "dba",
        ),
        (
            Filter {
                decision: text("positive"),
                ..all.clone()
            },
            "dca",
        ),
        (
            Filter {
                key: text("x"),
                decision: text("positive"),
                ..all.clone()
            },
            "da",
        ),
        (
            Filter {
                from_ms: Some(0),
                ..all.clone()
            },
            "dcb",
        ),
        (
            Filter {
                to_ms: Some(10),
                ..all.clone()
            },
            "ba",
        ),
        (
            Filter {
                from_ms: Some(-10),
                to_ms: Some(20),
                key: text("x"),
                ..all.clone()
            },
            "ba",
        ),
        (
            Filter {
                key: text("X"),
                ..all.clone()
            },
            "",
        ),
        (
            Filter {
                key: text("%"),
                ..all.clone()
            },
            "",
        ),
    ] {
        let listed = list_ids(&store, &filter).await.expect("list");
        assert_eq!(listed.concat(), expected, "{filter:?}");
    }
}

/// The stored offset once nothing is under way any more: a write given up as it committed may land
/// later, and holds the partition's row until it does.
async fn settled_offset(store: &AnyStore) -> i64 {
    loop {
        let next = next_offset(store).await.expect("an offset");
        match store.write(&batch(Some(next), Vec::new())).await {
            Ok(_) => return next,
            Err(Error::Fenced { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn a_write_given_up_anywhere_leaves_all_or_nothing(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(0..3))).await;
    let (mut next, mut given_up) = (3, 0);
    // How many polls a write takes is a matter of threads, so each number has several tries.
    for polls in (1..=8).cycle().take(40) {
        let round = batch(Some(next), ids(next..next + 3));
        given_up += u32::from(abandon_after(polls, store.write(&round)).await.is_none());
        let stored = settled_offset(&store).await;
        assert!(
            stored == next || stored == next + 3,
            "{stored} after {polls} polls"
        );
        next = stored;
        let listed = list_ids(&store, &Filter::default()).await.expect("list");
        assert_eq!(
            listed.len() as i64,
            next,
            "rows and offset agree after {polls} polls"
        );
        assert_eq!(count(&store).await, (next, 0));
    }
    assert!(given_up > 0, "no write was given up in between");
}

async fn opening_again_keeps_what_is_stored(database: Database) {
    let mut store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    for _ in 0..2 {
        store = database.reopen(store).await;
        assert_eq!(count(&store).await, (1, 0));
    }
}

async fn odd_texts_and_numbers_are_data_not_sql(database: Database) {
    let store = database.open().await;
    let odd = [
        "'; DROP TABLE predictions; --",
        "ü\u{1F483}\u{7f}\n",
        "%_\\",
        "NULL",
        &"x".repeat(1024),
    ];
    let row = |text: &&str| Prediction {
        key: (*text).into(),
        decision: String::new(),
        config_hash: Vec::new(),
        probability: -f64::MIN_POSITIVE,
        input_offset: i64::MAX,
        ..prediction(*text)
    };
    let rows: Vec<Prediction> = odd.iter().map(row).collect();
    write(&store, batch(None, rows.clone())).await;
    for row in rows {
        assert_eq!(
            store.get(PIPELINE, &row.id).await.expect("get"),
            Some(row.clone())
        );
        let filter = Filter {
            key: Some(row.key),
            ..Filter::default()
        };
        assert_eq!(list_ids(&store, &filter).await.expect("list"), [row.id]);
    }
}

async fn what_only_one_database_could_hold_is_refused_by_both(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let bad = || prediction("bad");
    for row in [
        // SQLite would make it NULL.
        Prediction {
            probability: f64::NAN,
            ..bad()
        },
        // PostgreSQL has no such text.
        Prediction {
            key: "a\0b".into(),
            ..bad()
        },
    ] {
        let mut rows = ids(0..300);
        rows.push(row);
        let refused = store
            .write(&batch(Some(1), rows))
            .await
            .expect_err("refused");
        assert!(matches!(refused, Error::Unstorable { .. }) && !refused.is_retriable());
        assert!(refused.to_string().contains("\"bad\""), "{refused}");
        assert_eq!(
            (count(&store).await, next_offset(&store).await),
            ((1, 0), Some(1))
        );
    }
    write(&store, batch(Some(1), ids(["b"]))).await;
    assert_eq!(count(&store).await, (2, 0));
}

async fn a_batch_of_any_size_is_stored_whole(database: Database) {
    let store = database.open().await;
    let mut next = 0;
    for size in [1, 3, 4, 31, 33, 255, 256, 257, 1000, 5000] {
        let old = Some(next).filter(|next| *next > 0);
        let written = write(&store, batch(old, ids(next..next + size))).await;
        assert_eq!(
            written,
            Written {
                stored: size as u64,
                duplicates: 0
            }
        );
        next += size;
    }
    assert_eq!(count(&store).await, (next, 0));
}

#[tokio::test]
async fn a_second_service_on_one_sqlite_file_is_refused_until_the_first_is_gone() {
    let database = Database::sqlite().await;
    let first = database.open().await;
    let refused = AnyStore::open(&database.url).await.expect_err("in use");
    assert!(matches!(refused, Error::InUse { .. }) && !refused.is_retriable());
    let message = refused.to_string();
    assert!(
        message.contains("results.db") && message.contains("postgres:"),
        "{message}"
    );
    // A clone is the same store.
    drop(first.clone());
    assert!(AnyStore::open(&database.url).await.is_err());
    database.reopen(first).await;
}

#[tokio::test]
async fn replicas_may_open_one_postgres_database_at_once() {
    let database = Database::postgres().await;
    let (one, other) = tokio::join!(database.open(), database.open());
    write(&one, batch(None, ids(["a"]))).await;
    write(&other, batch(next_offset(&other).await, ids(["b"]))).await;
    assert_eq!((count(&one).await, count(&other).await), ((2, 0), (2, 0)));
}

#[tokio::test]
async fn a_database_in_memory_works_and_is_each_opener_s_own() {
    for url in ["sqlite::memory:", "sqlite://:memory:"] {
        let (one, other) = (AnyStore::open(url).await, AnyStore::open(url).await);
        let (one, other) = (one.expect("a store"), other.expect("a store"));
        write(&one, batch(None, ids(["a"]))).await;
        assert_eq!((count(&one).await, count(&other).await), ((1, 0), (0, 0)));
        assert_eq!(
            list_ids(&one, &Filter::default()).await.expect("list"),
            ["a"]
        );
    }
}

#[tokio::test]
async fn an_unknown_database_url_is_refused_with_the_forms_that_work() {
    for url in ["mysql://root:secret@host/db", "results.db", ""] {
        let message = AnyStore::open(url).await.expect_err("unknown").to_string();
        for part in ["DATABASE_URL", "sqlite:", "postgres:"] {
            assert!(message.contains(part), "{part:?} in {message}");
        }
        assert!(!message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn a_postgres_that_does_not_answer_is_a_retriable_error() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let error = AnyStore::open(&url).await.expect_err("nothing there");
    assert!(error.is_retriable(), "{error:?}");
}
