//! The user's `mvn`, with the user's settings: mirrors and proxies apply.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;
use crate::error::{last_lines, printed};

/// Runs one goal or phase of `pom` in `folder`.
pub(crate) fn run(what: &str, pom: &str, goal: &str, folder: &Path) -> Result<(), Error> {
    let file = folder.join("pom.xml");
    fs::write(&file, pom).map_err(Error::io("write", &file))?;
    let ran = Command::new("mvn")
        .args([
            "-q",
            "-B",
            "--strict-checksums",
            "-Dstyle.color=never",
            goal,
        ])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                program: "mvn",
                hint: "install Apache Maven (Debian: apt install maven, macOS: brew install maven)",
            },
            _ => Error::io("run mvn in", folder)(error),
        })?;
    if ran.status.success() {
        return Ok(());
    }
    let output = printed(&ran);
    // What follows is advice on using Maven.
    let message = output.split("[ERROR] To see the full stack trace").next();
    Err(Error::Fetch {
        what: what.to_owned(),
        output: last_lines(message.unwrap_or_default()),
    })
}
