//! What every service process shares: its settings, its port, health, signals and the drain.
//!
//! This crate does not know what any of the services does.

mod answer;
mod args;
mod calls;
mod config;
mod context;
mod edge;
mod error;
mod evolution;
pub mod fields;
mod front;
mod health;
mod healthcheck;
mod listener;
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
pub use edge::limits::{HttpArgs, HttpConfig};
pub use edge::load::{Lease, Memory};
pub use error::Error;
pub use health::{ReadyFn, Requests};
pub use healthcheck::healthcheck;
pub use listener::Listener;
pub use process::{exit_code, run_to_exit, run_to_exit_logging, shutdown_signal};
pub use server::Deadline;
pub use service::{Assembly, MessageMax, run};
pub use task::{Drain, StopSignal, Task};
