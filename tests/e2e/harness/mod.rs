//! What the end-to-end tests stand on: a broker, isolated pipelines, processes, a user's client, the oracle.

pub mod broker;
pub mod bucket;
pub mod cards;
pub mod cli;
pub mod client;
pub mod collector;
pub mod http;
pub mod oracle;
pub mod process;
pub mod world;

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value; fails with `what` when it does not within `patience`.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    eventually_or_show(what, patience, || condition().ok_or_else(String::new))
}

/// As [`eventually`]; a condition that fails says what it saw.
#[track_caller]
pub fn eventually_or_show<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => assert!(
                Instant::now() < deadline,
                "not within {patience:?}: {what}\n{seen}"
            ),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Long enough for a loaded two-core machine; conditions end the wait much earlier.
pub const PATIENCE: Duration = Duration::from_secs(120);
