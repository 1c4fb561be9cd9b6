//! Requests that nobody thought of: schemathesis makes them of a description of the REST form.

use std::{io::Write, path::Path};

use quadrille_local::schemathesis::{self, AS_DESCRIBED};

use crate::server::server;

const DESCRIPTION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi/inference.yaml"
);

/// Where the standard's own description is (`open_inference_rest.yaml` of kserve/open-inference-protocol), for who has it.
const STANDARD: &str = "QUADRILLE_TEST_OPENAPI";

/// Not by a macro, whose output a test that passes does not show.
fn say(why: &str) {
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

fn run(description: &str, checks: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match schemathesis::run(Path::new(description), &server().url(), checks, folder) {
        Ok(report) => assert!(report.passed, "{}", report.text),
        Err(error) => say(&format!("no schemathesis here, it is not tried: {error}")),
    }
}

#[test]
fn whatever_the_description_allows_is_answered_as_described() {
    run(DESCRIPTION, AS_DESCRIBED);
}

#[test]
fn whatever_the_standards_description_allows_is_no_server_error() {
    match std::env::var(STANDARD) {
        Ok(description) => run(&description, "not_a_server_error"),
        Err(_) => say(&format!(
            "{STANDARD} names no open_inference_rest.yaml, it is not tried"
        )),
    }
}
