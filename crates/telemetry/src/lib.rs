//! Logs, metrics and header propagation: names live here and nowhere else.
//!
//! This crate knows no Kafka client, no service and no pipeline.

pub mod logs;
pub mod metrics;
pub mod propagation;

pub use metrics::{Registry, StageMetrics};
