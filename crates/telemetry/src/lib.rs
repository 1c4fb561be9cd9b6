//! Logs, metrics, traces and header propagation: names live here and nowhere else.
//!
//! This crate knows no Kafka client, no service and no pipeline.

pub mod logs;
pub mod metrics;
mod otlp;
pub mod propagation;
pub mod push;
pub mod traces;

pub use metrics::{Registry, StageMetrics};
pub use traces::Tracing;
