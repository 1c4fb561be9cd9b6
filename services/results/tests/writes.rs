//! Rows and offsets move together, once, and by one writer: on SQLite and on PostgreSQL.

#[macro_use]
mod common;

use common::{
    Database, PIPELINE, abandon_after, batch, count, ids, list_ids, next_offset, position,
    prediction, shadows, topic, write,
};
use results::{
    prediction::{Kind, Prediction},
    query::Filter,
    store::{
        Advance, AnyStore, Error, Position, ReadStore, TopicIdentity, UnitOfWork, WriteStore,
        Written,
    },
};

suite! {
    of_equal_ids_the_first_stays_and_the_later_ones_are_counted
    a_zombie_writes_nothing
    of_two_writers_from_one_offset_one_is_fenced
    a_fence_on_one_partition_undoes_the_others
    a_partition_moves_without_predictions
    a_batch_that_names_a_partition_twice_is_refused
    an_offset_moves_forward_only_but_for_a_log_that_was_cut_off
    a_restart_goes_on_from_the_stored_offsets
    another_cluster_or_another_topic_of_the_name_is_refused
    a_topic_id_that_comes_to_be_known_is_kept
    a_write_given_up_anywhere_leaves_all_or_nothing
    what_only_one_database_could_hold_is_refused_by_both
    a_batch_of_any_size_is_stored_whole
    shadows_move_with_the_offset_and_are_not_counted
    all_outputs_are_kept_to_the_bit
}

async fn shadows_move_with_the_offset_and_are_not_counted(database: Database) {
    let store = database.open().await;
    let with = |old, live: &[&str], of: Vec<Prediction>| UnitOfWork {
        shadows: of,
        ..batch(old, ids(live))
    };
    let both = [shadows("x", 0..300), shadows("y", 0..300)].concat();
    let written = write(&store, with(None, &["0", "1"], both)).await;
    assert_eq!((written.stored, written.duplicates), (2, 0));
    // A batch of shadows alone moves its partition, too; what is there stays, what is new comes.
    let again = [shadows("y", 299..301), shadows("x", ["0"])].concat();
    let written = write(&store, with(Some(2), &[], again)).await;
    assert_eq!(written, Written::default());
    assert_fenced(
        store.write(&with(Some(1), &[], shadows("z", 0..9))).await,
        0,
    );
    assert_eq!(count(&store).await, (2, 0));
    let filter = |kind| Filter {
        kind,
        ..Filter::default()
    };
    let live = list_ids(&store, &filter(Kind::Live)).await.expect("live");
    assert_eq!(live, ["1", "0"]);
    let listed = list_ids(&store, &filter(Kind::Shadow)).await;
    assert_eq!(listed.expect("shadows").len(), 601);
    let found = store.get(PIPELINE, "2", Some("y")).await.expect("get");
    assert_eq!(found, shadows("y", ["2"]).pop());
    let found = store.get(PIPELINE, "2", Some("z")).await.expect("get");
    assert_eq!(found, None, "there is no such shadow");
    let live = store.get(PIPELINE, "0", None).await.expect("get");
    assert_eq!(live, Some(prediction("0")));
    assert_eq!(store.get(PIPELINE, "2", None).await.expect("get"), None);
    let store = database.reopen(store).await;
    assert_eq!(next_offset(&store).await, Some(2));
}

async fn all_outputs_are_kept_to_the_bit(database: Database) {
    let store = database.open().await;
    let of = |id: &str, outputs: &[f64]| Prediction {
        probability: outputs[0],
        outputs: outputs.to_vec(),
        ..prediction(id)
    };
    let one = of("one", &[0.25]);
    let many = of("many", &[0.1, f64::MIN_POSITIVE, -0.0, 1.0 / 3.0]);
    let of_shadow = Prediction {
        variant: "x".into(),
        ..many.clone()
    };
    let mut all = batch(None, vec![one.clone(), many.clone()]);
    all.shadows = vec![of_shadow.clone()];
    write(&store, all).await;
    let bits = |it: Option<Prediction>| {
        let outputs = it.expect("stored").outputs.into_iter();
        outputs.map(f64::to_bits).collect::<Vec<_>>()
    };
    for stored in [one, many] {
        let found = store.get(PIPELINE, &stored.id, None).await.expect("get");
        assert_eq!(bits(found), bits(Some(stored)));
    }
    let found = store.get(PIPELINE, "many", Some("x")).await.expect("get");
    assert_eq!(bits(found), bits(Some(of_shadow)));
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

async fn of_equal_ids_the_first_stays_and_the_later_ones_are_counted(database: Database) {
    let store = database.open().await;
    let with = |id: &str, probability| Prediction {
        probability,
        outputs: vec![probability],
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
            store.get(PIPELINE, id, None).await.expect("get"),
            Some(with(id, probability))
        );
    }
    assert_eq!(count(&store).await, (3, 3));
}

async fn a_zombie_writes_nothing(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a", "b"]))).await;
    write(&store, batch(Some(2), ids(["c"]))).await;
    for old in [None, Some(0), Some(2), Some(4)] {
        assert_fenced(store.write(&batch(old, ids(["z"]))).await, 0);
    }
    assert_eq!(store.get(PIPELINE, "z", None).await.expect("get"), None);
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
    let advance = |partition, old: Option<i64>, new| Advance {
        partition,
        old: old.map(Position::at),
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
    assert_eq!(claimed, [(5, None), (0, Some(Position::at(1))), (7, None)]);
    assert_eq!(count(&store).await, (1, 0));
}

async fn a_partition_moves_without_predictions(database: Database) {
    let store = database.open().await;
    let nothing = UnitOfWork {
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
        UnitOfWork {
            advances,
            ..batch(None, Vec::new())
        },
    )
    .await;
    assert_eq!(written, Written::default());
    assert_eq!(next_offset(&store).await, Some(7));
}

async fn an_offset_moves_forward_only_but_for_a_log_that_was_cut_off(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(0..5))).await;
    let back = |old: Position, new| UnitOfWork {
        advances: vec![Advance {
            partition: 0,
            old: Some(old),
            new,
        }],
        ..batch(None, ids(["back"]))
    };
    let refused = store.write(&back(Position::at(5), 4)).await;
    let (old, new) = (5, 4);
    assert!(
        matches!(refused, Err(Error::Backwards { partition: 0, old: o, new: n }) if (o, n) == (old, new)),
        "{refused:?}"
    );
    assert_eq!(position(&store).await, Some(Position::at(5)));

    // The log ends at 2 now, and goes on.
    let anew = store.truncated(&topic(), 0, Position::at(5), 2).await;
    let anew = anew.expect("stored");
    assert!(anew > Position::at(5), "{anew:?} is further on");
    assert_eq!((anew.next, position(&store).await), (2, Some(anew)));
    // Whoever read the log before it was cut off comes too late, also where its offset is the same.
    for next in [5, 2] {
        let old = Position::at(next);
        assert_fenced(store.write(&back(old, 6)).await, 0);
        let again = store.truncated(&topic(), 0, old, 0).await;
        assert!(matches!(again, Err(Error::Fenced { .. })), "{again:?}");
    }
    write(&store, back(anew, 3)).await;
    assert_eq!(position(&store).await, Some(Position { next: 3, ..anew }));
    assert_eq!(count(&store).await, (6, 0));
}

async fn a_batch_that_names_a_partition_twice_is_refused(database: Database) {
    let store = database.open().await;
    let mut twice = batch(None, ids(["a"]));
    twice.advances.push(Advance {
        partition: 0,
        old: Some(Position::at(1)),
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
            .write(&UnitOfWork {
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
        [(0, Some(Position::at(1)))]
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
        UnitOfWork {
            topic: unnamed(),
            ..batch(None, ids(["a"]))
        },
    )
    .await;
    assert_eq!(next_offset(&store).await, Some(1));
    write(&store, batch(Some(1), ids(["b"]))).await;
    write(
        &store,
        UnitOfWork {
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
