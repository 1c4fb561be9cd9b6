//! What serves now: models, and the routes to them.
//!
//! One thread, the [`loader`], follows the log of models and deployments and brings versions into service; who
//! scores reads one consistent [`snapshot`] and never waits for it. A route never leads to a version that is not
//! ready: a deployment takes effect when all its versions are, and until then the one before it goes on.

mod current;
mod error;
mod fit;
mod fixed;
mod load;
mod loader;
pub mod local;
mod log;
mod snapshot;
pub mod source;
mod status;
mod thread;

pub use current::{Choice, Serving};
pub use error::Error;
pub use fit::check;
pub use loader::{Loader, Options};
pub use log::Log;
pub use snapshot::{Routes, Variant};
pub use status::{ModelState, ModelStatus, PipelineStatus};
pub use thread::Handle;

pub use crate::engine::{Batching, Loaded};

// What a package may hold its way to it has room for; neither crate knows the other.
const _: () =
    assert!(quadrille_model::package::ARTEFACT_BYTES_MAX == quadrille_registry::ARTEFACT_BYTES_MAX);
