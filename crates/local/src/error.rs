//! Errors, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} was not found: {hint}")]
    Missing {
        program: &'static str,
        hint: &'static str,
    },

    #[error("{java} is Java {found}, and Apache Kafka needs {needed} or newer: install a newer one or point JAVA_HOME at it", java = java.display())]
    JavaTooOld {
        java: PathBuf,
        found: u32,
        needed: u32,
    },

    #[error("Maven could not fetch {what}; the end of its output:\n{output}")]
    Fetch { what: String, output: String },

    #[error("no {what} for this machine on Maven Central ({os}, {arch})")]
    Unsupported {
        what: &'static str,
        os: &'static str,
        arch: &'static str,
    },

    #[error("port {port} on 127.0.0.1 is in use: choose another or leave it to the system")]
    PortTaken { port: u16 },

    #[error("Apache Kafka {given} is not supported; use 3.9, 4.1 or 4.4")]
    NoSuchRelease { given: String },

    #[error("{key} is set by the local broker itself and cannot be overridden")]
    OwnedSetting { key: String },

    #[error("{program} failed ({status}); the end of its output:\n{output}")]
    Failed {
        program: &'static str,
        status: String,
        output: String,
    },

    #[error("{server} exited during start-up ({status}); the end of its log:\n{log}")]
    Ended {
        server: &'static str,
        status: String,
        log: String,
    },

    #[error("{server} did not respond within {waited_s} s; the end of its log:\n{log}")]
    Late {
        server: &'static str,
        waited_s: u64,
        log: String,
    },

    #[error("{path} is not private to this user (another owner, a link, or writable by others): remove it or set QUADRILLE_CACHE", path = path.display())]
    Untrusted { path: PathBuf },

    #[error("could not {action} {path}: {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names the action and the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Everything that a program printed.
pub(crate) fn printed(ran: &Output) -> String {
    let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    text.into_owned()
}

/// # Errors
/// The program failed.
pub(crate) fn succeeded(program: &'static str, ran: &Output) -> Result<(), Error> {
    match ran.status.success() {
        true => Ok(()),
        false => Err(Error::Failed {
            program,
            status: ran.status.to_string(),
            output: last_lines(&printed(ran)),
        }),
    }
}

/// The end of a program's output, without blank lines, Java stack frames and colour codes.
pub(crate) fn last_lines(output: &str) -> String {
    const LINES: usize = 15;
    let lines: Vec<&str> = output
        .lines()
        .map(|line| line.trim_start_matches("\u{1b}[0m"))
        .filter(|line| !line.trim().is_empty() && !line.starts_with("\tat "))
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
