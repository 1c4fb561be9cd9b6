//! A model version in memory, and how its rows are scored: where they are asked, on a thread that may be held, or in batches through the
//! queue of a model that is expensive to score.
//!
//! It knows neither what is deployed nor who asks.

mod batch;
mod counts;
mod direct;
mod error;
mod loaded;
mod verdict;

pub use batch::Batching;
pub(crate) use batch::Pending;
pub(crate) use counts::Statistics;
pub use error::Error;
pub(crate) use loaded::Begun;
pub use loaded::Loaded;
