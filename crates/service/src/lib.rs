//! What every service process shares: its settings, its port, health, signals and the drain.
//!
//! This crate does not know what any of the services does.

mod advertise;
mod answer;
mod args;
mod blocking;
mod calls;
mod config;
mod context;
mod deadline;
mod edge;
mod error;
mod evolution;
pub mod fields;
mod front;
mod health;
mod healthcheck;
mod listener;
mod message_max;
mod methods;
mod process;
mod scrape;
pub mod sealed;
mod server;
mod service;
mod spans;
mod stages;
mod task;

pub use args::{Args, DeliveryArg, log_warnings};
pub use calls::Calls;
pub use config::Config;
pub use context::Context;
pub use deadline::Deadline;
pub use edge::limits::{HttpArgs, HttpConfig};
pub use edge::load::{Lease, Memory};
pub use error::Error;
pub use health::Requests;
pub use healthcheck::healthcheck;
pub use listener::Listener;
pub use message_max::MessageMax;
pub use process::{exit_code, run_to_exit, run_to_exit_logging, shutdown_signal};
pub use service::{Assembly, run};
pub use task::{Drain, ReadyFn, StopSignal, Task};

/// A future whose type nobody needs to know. A service's `run` returns one: generic over what ends it, it would be compiled again
/// in every binary, with all that it calls (measured: 50 of the 85 s of CPU that the `quadrille` binary itself took).
pub type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
