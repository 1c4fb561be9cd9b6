//! Queries that take too long, and what they cost the others: on PostgreSQL, where lanes and queries share a server.

#[macro_use]
mod common;

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use common::{Database, PIPELINE, batch, ids, write};
use results::{
    prediction::Kind,
    query::Filter,
    store::{AnyStore, Error, QUERY_TIMEOUT, ReadStore},
};
use sqlx::{
    ConnectOptions, Connection, Executor,
    postgres::{PgConnectOptions, PgConnection},
};

/// More than there are connections for queries, and for lanes.
const QUERIES: usize = 20;

/// Makes every query of shadows wait until it is dropped, as one that no index serves on a large table would.
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
async fn slow_queries_are_stopped_and_keep_no_batch_from_being_stored() {
    let database = Database::postgres().await;
    let store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    let holder = hold_shadows(&database).await;
    let list = |store: AnyStore| async move { store.list(PIPELINE, &of_shadows()).await };
    let began = Instant::now();
    let queries: Vec<_> = (0..QUERIES)
        .map(|_| tokio::spawn(list(store.clone())))
        .collect();
    // While all of them wait, batch after batch is stored.
    let mut next = 1;
    while began.elapsed() < QUERY_TIMEOUT {
        let before = Instant::now();
        write(&store, batch(Some(next), ids([next]))).await;
        let took = before.elapsed();
        assert!(took < Duration::from_secs(2), "a write took {took:?}");
        next += 1;
    }
    let (mut too_slow, mut refused) = (0, 0);
    for query in queries {
        match query.await.expect("an end").expect_err("no answer") {
            Error::TooSlow { seconds } => {
                assert_eq!(seconds, QUERY_TIMEOUT.as_secs());
                too_slow += 1;
            }
            error => {
                assert!(error.is_retriable(), "{error}");
                refused += 1;
            }
        }
    }
    let took = began.elapsed();
    assert!(too_slow > 0 && took < 4 * QUERY_TIMEOUT, "{took:?}");
    println!("{too_slow} were stopped, {refused} found no connection, in {took:?}");
    holder.close().await.expect("closed");
    store.list(PIPELINE, &of_shadows()).await.expect("a list");
}
