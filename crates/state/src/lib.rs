//! Keyed state on disk: a cache of a pipeline's compacted changelog, one store per partition.
#![forbid(unsafe_code)]

mod batch;
mod budget;
mod disk;
mod error;
mod folders;
mod identity;
mod inner;
mod memory;
mod store;
mod stores;
mod verify;
mod workers;

pub use batch::Batch;
pub use error::Error;
pub use identity::{Identity, Name, Why};
pub use store::Store;
pub use stores::{Opened, Settings, StoreUsage, Stores, Usage};

/// Shorter keys are the store's own.
pub const ROW_KEY_BYTES_MIN: usize = 2;
pub const ROW_KEY_BYTES_MAX: usize = 65_535;
/// Far more than Kafka takes as one record.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
