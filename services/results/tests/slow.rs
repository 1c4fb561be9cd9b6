//! Questions that take too long, and what they cost the others: on PostgreSQL, where lanes and questions share a server.

#[macro_use]
mod common;

use std::str::FromStr;
use std::time::{Duration, Instant};

use common::{Database, PIPELINE, batch, ids, write};
use results::domain::{Filter, Kind};
use results::store::{AnyStore, Error, READ_WITHIN, Store};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

/// More than there are connections for questions, and for lanes.
const QUESTIONS: usize = 20;

/// Makes every question about shadows wait until it is dropped, as one that no index serves on a large table would.
async fn hold_shadows(database: &Database) -> PgConnection {
    let options = PgConnectOptions::from_str(&database.url).expect("a URL");
    let mut holder = options.connect().await.expect("a connection");
    holder.execute("BEGIN").await.expect("begun");
    let lock = "LOCK TABLE shadow_predictions IN ACCESS EXCLUSIVE MODE";
    holder.execute(lock).await.expect("locked");
    holder
}

fn of_shadows() -> Filter {
    Filter {
        kind: Kind::Shadow,
        ..Filter::default()
    }
}

#[tokio::test]
async fn slow_questions_are_stopped_and_keep_no_batch_from_being_stored() {
    let database = Database::postgres().await;
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let holder = hold_shadows(&database).await;
    let ask = |store: AnyStore| async move { store.list(PIPELINE, &of_shadows()).await };
    let began = Instant::now();
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|_| tokio::spawn(ask(store.clone())))
        .collect();
    // While all of them wait, batch after batch is stored.
    let mut next = 1;
    while began.elapsed() < READ_WITHIN {
        let before = Instant::now();
        write(&store, batch(Some(next), ids([next]))).await;
        let took = before.elapsed();
        assert!(took < Duration::from_secs(2), "a write took {took:?}");
        next += 1;
    }
    let (mut too_slow, mut refused) = (0, 0);
    for question in questions {
        match question.await.expect("an end").expect_err("no answer") {
            Error::TooSlow { seconds } => {
                assert_eq!(seconds, READ_WITHIN.as_secs());
                too_slow += 1;
            }
            error => {
                assert!(error.is_retriable(), "{error}");
                refused += 1;
            }
        }
    }
    let took = began.elapsed();
    assert!(too_slow > 0 && took < 4 * READ_WITHIN, "{took:?}");
    println!("{too_slow} were stopped, {refused} found no connection, in {took:?}");
    holder.close().await.expect("closed");
    store.list(PIPELINE, &of_shadows()).await.expect("a list");
}
