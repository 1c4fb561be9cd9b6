//! Requests that nobody thought of: schemathesis makes them of the description of the REST form.

mod common;

use std::{io::Write, path::Path};

use common::{Database, PIPELINE, batch, prediction, shadows};
use quadrille_local::schemathesis::{self, AS_DESCRIBED};
use results::store::{UnitOfWork, WriteStore};

const DESCRIPTION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi/results.yaml"
);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_description_allows_is_answered_as_described() {
    let database = Database::sqlite().await;
    let store = database.open().await;
    let live = ["r-1", "r-2"].map(prediction);
    let unit = UnitOfWork {
        shadows: shadows("candidate", ["r-1"]),
        ..batch(None, live.into())
    };
    store.write(&unit).await.expect("a write");
    let router = results::rest::router(store, vec![PIPELINE.into()]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let report = tokio::task::spawn_blocking(move || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        schemathesis::run(Path::new(DESCRIPTION), &url, AS_DESCRIBED, folder)
    });
    match report.await.expect("no panic") {
        Ok(report) => assert!(report.passed, "{}", report.text),
        // Not by a macro, whose output a test that passes does not show.
        Err(error) => {
            let why = format!("SKIPPED: no schemathesis here, it is not tried: {error}\n");
            let _ = std::io::stderr().write_all(why.as_bytes());
        }
    }
    serving.abort();
}
