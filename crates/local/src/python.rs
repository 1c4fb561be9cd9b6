//! A Python environment with packages, for clients that exist in Python only: installed once with the user's `pip`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::succeeded;
use crate::scratch::SeenBy;
use crate::{Error, cache};

/// The interpreter of an environment that has `packages`, each with its version, as pip takes them; `name` is the
/// environment's folder in the cache, and other packages need another one. Blocks, at first for as long as fetching takes.
///
/// # Errors
/// There is no Python with `venv`, or the packages cannot be installed.
pub fn with_packages(name: &str, packages: &[&str]) -> Result<PathBuf, Error> {
    let folder = cache::install(name, SeenBy::Owner, |folder| {
        // An environment is moved to its place when it is complete; its interpreter finds its packages wherever it is.
        run("python3", &["-m", "venv", "."], folder)?;
        let install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        run("bin/python", &[&install, packages].concat(), folder)
    })?;
    Ok(folder.join("bin/python"))
}

fn run(program: &'static str, arguments: &[&str], folder: &Path) -> Result<(), Error> {
    // A relative path would be looked up from where we are, not from the folder.
    let path = match program.contains('/') {
        true => folder.join(program),
        false => PathBuf::from(program),
    };
    let ran = Command::new(path)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                program,
                hint: "install Python 3 with venv (Debian: apt install python3-venv)",
            },
            _ => Error::io("run Python in", folder)(error),
        })?;
    succeeded(program, &ran)
}
