//! Logging to standard error: readable on a terminal, JSON otherwise.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A service's, without `RUST_LOG`.
pub const DEFAULT_FILTER: &str = "info,librdkafka=warn,sqlx=warn";

/// Installs the process's subscriber. `RUST_LOG` selects what is shown, or else `default_filter`.
///
/// # Errors
/// `RUST_LOG` does not parse; the message says where. A second call changes nothing.
pub fn init(default_filter: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG {text:?}: {error}"))?
        }
        _ => EnvFilter::new(default_filter),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let installed = if stderr().is_terminal() {
        registry
            .with(fmt::layer().with_writer(stderr).with_target(false))
            .try_init()
    } else {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(stderr))
            .try_init()
    };
    // A second initialisation (tests, several services in one process) keeps the first.
    drop(installed);
    Ok(())
}
