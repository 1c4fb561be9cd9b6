//! Dynamic batching for models that are expensive to score: one bounded queue for each model, for the stream and for requests together, and
//! the threads that score what has gathered.

mod options;
mod pending;
mod policy;
mod queue;

pub use options::Batching;
pub(crate) use pending::Pending;
pub(super) use queue::Queue;
