//! Requests that nobody thought of: schemathesis makes them of a description of the REST form.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use quadrille_local::python;

use crate::server::server;

const DESCRIPTION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi/inference.yaml"
);
const ENVIRONMENT: &str = "schemathesis-4.32.5";
const PACKAGES: [&str; 1] = ["schemathesis==4.32.5"];

/// What must hold of every answer: no server error, and a status, a media type and a body that are described.
const AS_DESCRIBED: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Where the standard's own description is (`open_inference_rest.yaml` of kserve/open-inference-protocol), for who has it.
const STANDARD: &str = "QUADRILLE_TEST_OPENAPI";

fn python() -> Option<PathBuf> {
    let python = python::with_packages(ENVIRONMENT, &PACKAGES);
    python
        .map_err(|error| say(&format!("no schemathesis here, it is not tried: {error}")))
        .ok()
}

/// Not by a macro, whose output a test that passes does not show.
fn say(why: &str) {
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

fn run(python: &Path, description: &str, checks: &str) {
    let ran = Command::new(python)
        .args(["-m", "schemathesis.cli", "run", description])
        .args(["--url", &server().url(), "--checks", checks])
        // The same requests in every run.
        .args(["--seed", "7", "--generation-database", "none"])
        .args(["--max-examples", "25", "--phases", "examples,fuzzing"])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("Python runs");
    let output = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{output}");
    assert!(output.contains("generated"), "{output}");
}

#[test]
fn whatever_the_description_allows_is_answered_as_described() {
    if let Some(python) = python() {
        run(&python, DESCRIPTION, AS_DESCRIBED);
    }
}

#[test]
fn whatever_the_standards_description_allows_is_no_server_error() {
    let Ok(description) = std::env::var(STANDARD) else {
        return say(&format!(
            "{STANDARD} names no open_inference_rest.yaml, it is not tried"
        ));
    };
    if let Some(python) = python() {
        run(&python, &description, "not_a_server_error");
    }
}
