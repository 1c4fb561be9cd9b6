//! Requests that nobody thought of: schemathesis makes them of an OpenAPI description and sends them to a service.

use std::{path::Path, process::Command};

use crate::{Error, python};

const ENVIRONMENT: &str = "schemathesis-4.32.5";
const PACKAGES: [&str; 1] = ["schemathesis==4.32.5"];

/// That every answer is no server error, and has a status, a media type and a body that are described.
pub const AS_DESCRIBED: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Requests were sent, and every answer passed the checks.
    pub passed: bool,
    /// What schemathesis printed.
    pub text: String,
}

/// Sends what `description` allows to the service at `url`, and looks at the answers. The same requests in every run. `folder`
/// takes what it leaves behind. Blocks.
///
/// # Errors
/// Schemathesis cannot be had or be run here.
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
    let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    Ok(Report {
        passed: ran.status.success() && text.contains("generated"),
        text: text.into_owned(),
    })
}
