//! The past of one key: the events within reach of its windows, and aggregates over them.
//!
//! A [`Definition`] says what is computed. A [`History`] holds the events of one key: each record is pushed, then the key is looked
//! at from the record's own place, which gives one number per aggregate. Streams, training, batches and requests run this code.
//!
//! This crate does not know where rows are stored, what time it is, how a pipeline is written or what a feature is called: it has
//! no I/O, no clock and no serialisation but its own rows.
#![forbid(unsafe_code)]

mod buckets;
mod codec;
pub mod definition;
mod events;
mod exact;
mod history;
mod look;
mod prefix;
mod summary;

pub use codec::Corrupt;
pub use definition::{Aggregate, Current, Definition, Filter, Function, Settings, Window};
pub use history::{Event, History, Position, Pushed, TooOld};
