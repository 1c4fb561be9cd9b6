//! What was written is found again: on SQLite and on PostgreSQL.

#[macro_use]
mod common;

use std::collections::HashSet;

use common::{Database, PIPELINE, batch, count, ids, list_ids, prediction, shadows, topic, write};
use results::{
    prediction::{Kind, Prediction},
    query::{Count, Filter, Limit},
    store::{ReadStore, TopicIdentity, UnitOfWork},
};

suite! {
    a_prediction_comes_back_as_it_was_stored
    the_same_id_in_two_pipelines_is_two_predictions
    every_page_size_covers_everything_once
    paging_covers_what_was_there_once_while_more_is_inserted
    filters_narrow_the_list_alone_and_together
    a_variant_narrows_answers_and_shadows_on_pages_of_any_size
    odd_texts_and_numbers_are_data_not_sql
    shadows_of_one_id_are_listed_once_each_on_pages_of_any_size
}

async fn a_prediction_comes_back_as_it_was_stored(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, vec![prediction("r-1")])).await;
    assert_eq!(
        store.get(PIPELINE, "r-1", None).await.expect("get"),
        Some(prediction("r-1"))
    );
    assert_eq!(store.get(PIPELINE, "r-2", None).await.expect("get"), None);
    let page = store
        .list(PIPELINE, &Filter::default())
        .await
        .expect("list");
    assert_eq!(
        (page.predictions, page.next),
        (vec![prediction("r-1")], None)
    );
}

async fn the_same_id_in_two_pipelines_is_two_predictions(database: Database) {
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let topic = TopicIdentity {
        topic: "sepsis.predictions".into(),
        ..topic()
    };
    let other = UnitOfWork {
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

async fn shadows_of_one_id_are_listed_once_each_on_pages_of_any_size(database: Database) {
    let store = database.open().await;
    let of = ["x", "y", "z"].map(|variant| shadows(variant, ["a", "b", "c"]));
    let all = UnitOfWork {
        shadows: of.concat(),
        ..batch(None, ids(["a", "b", "c"]))
    };
    write(&store, all).await;
    for limit in [1, 2, 3, 4, 8, 9, 10] {
        let mut filter = Filter {
            kind: Kind::Shadow,
            limit: Limit::new(limit).expect("a limit"),
            ..Filter::default()
        };
        let mut listed = Vec::new();
        loop {
            let page = store.list(PIPELINE, &filter).await.expect("list");
            let of_page = page.predictions.into_iter();
            listed.extend(of_page.map(|it| format!("{}{}", it.id, it.variant)));
            let Some(next) = page.next else { break };
            filter.after = Some(next);
        }
        let all = ["cz", "cy", "cx", "bz", "by", "bx", "az", "ay", "ax"];
        assert_eq!(listed, all, "{limit} a page");
    }
    let filter = Filter {
        kind: Kind::Shadow,
        key: Some("patient-2".into()),
        ..Filter::default()
    };
    let none = list_ids(&store, &filter).await.expect("list");
    assert!(none.is_empty());
}

async fn a_variant_narrows_answers_and_shadows_on_pages_of_any_size(database: Database) {
    let store = database.open().await;
    let of = |variant: &str| {
        let variant = variant.to_owned();
        move |row: Prediction| Prediction {
            variant: variant.clone(),
            ..row
        }
    };
    let live = ids(["a", "c", "e"]).into_iter();
    let canary = ids(["b", "d"]).into_iter().map(of("canary"));
    let all = UnitOfWork {
        shadows: [shadows("x", ["a", "b"]), shadows("y", ["a"])].concat(),
        ..batch(None, live.chain(canary).collect())
    };
    write(&store, all).await;
    for (kind, variant, expected) in [
        (Kind::Live, "live", "eca"),
        (Kind::Live, "canary", "db"),
        (Kind::Live, "x", ""),
        (Kind::Shadow, "x", "ba"),
        (Kind::Shadow, "y", "a"),
    ] {
        for limit in [1, 2, 10] {
            let filter = Filter {
                kind,
                variant: Some(variant.to_owned()),
                limit: Limit::new(limit).expect("a limit"),
                ..Filter::default()
            };
            let listed = list_ids(&store, &filter).await.expect("list");
            assert_eq!(listed.concat(), expected, "{variant}, {limit} a page");
        }
    }
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
        outputs: vec![-f64::MIN_POSITIVE],
        input_offset: i64::MAX,
        ..prediction(*text)
    };
    let rows: Vec<Prediction> = odd.iter().map(row).collect();
    write(&store, batch(None, rows.clone())).await;
    for row in rows {
        assert_eq!(
            store.get(PIPELINE, &row.id, None).await.expect("get"),
            Some(row.clone())
        );
        let filter = Filter {
            key: Some(row.key),
            ..Filter::default()
        };
        assert_eq!(list_ids(&store, &filter).await.expect("list"), [row.id]);
    }
}
