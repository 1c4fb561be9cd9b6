//! Which databases open, how often, and for whom.

#[macro_use]
mod common;

use common::{Database, batch, count, ids, list_ids, next_offset, write};
use results::{
    query::Filter,
    store::{AnyStore, Error},
};

suite! {
    opening_again_keeps_what_is_stored
}

async fn opening_again_keeps_what_is_stored(database: Database) {
    let mut store = database.open().await;
    write(&store, batch(None, ids(["a"]))).await;
    for _ in 0..2 {
        store = database.reopen(store).await;
        assert_eq!(count(&store).await, (1, 0));
    }
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

/// As a load balancer does before a database that is unreachable.
#[tokio::test]
async fn a_postgres_whose_connections_are_closed_at_once_is_a_retriable_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let closing = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        while let Ok((mut connection, _)) = listener.accept().await {
            // Its question was heard; closed unread it would be a reset.
            let _ = connection.read(&mut [0; 64]).await;
        }
    });
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let error = AnyStore::open(&url).await.expect_err("nobody answers");
    closing.abort();
    assert!(error.is_retriable(), "{error:?}");
}
