//! Fuzzing of HTTP services: schemathesis generates requests from an OpenAPI description.

use std::{path::Path, process::Command};

use crate::{Error, error::printed, python};

const ENVIRONMENT: &str = "schemathesis-4.32.5";
const PACKAGES: [&str; 1] = ["schemathesis==4.32.5"];

/// Checks that no response is a server error, and that its status, media type and body are as described.
pub const AS_DESCRIBED: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// Requests were sent, and every response passed the checks.
    pub passed: bool,
    /// What schemathesis printed.
    pub text: String,
}

/// Sends requests that `description` allows to the service at `url`, and checks the responses. The same requests in every run.
/// `folder` takes its output files. Blocks.
///
/// # Errors
/// Schemathesis cannot be installed or run.
pub fn run(description: &Path, url: &str, checks: &str, folder: &Path) -> Result<Report, Error> {
    let python = python::with_packages(ENVIRONMENT, &PACKAGES)?;
    let ran = Command::new(&python)
        .args(["-m", "schemathesis.cli", "run"])
        .arg(description)
        .args(["--url", url, "--checks", checks])
        .args(["--seed", "7", "--generation-database", "none"])
        .args(["--max-examples", "25", "--phases", "examples,fuzzing"])
        .current_dir(folder)
        .output()
        .map_err(Error::io("run", &python))?;
    let text = printed(&ran);
    Ok(Report {
        passed: ran.status.success() && text.contains("generated"),
        text,
    })
}
