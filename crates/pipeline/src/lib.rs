//! A pipeline is one TOML file: the record, its features, the model's inputs, the decision.
//!
//! This crate reads that file and explains what is wrong with it ([`Error`]), reads records from
//! JSON, CSV and field lists and explains what is wrong with them ([`Invalid`]), and computes
//! features; training and the stream share that code.
//!
//! It does not know Kafka, HTTP, gRPC, async, any model or any clock: bytes and the time come
//! in, numbers and explanations go out.
#![forbid(unsafe_code)]

mod check;
mod csv_lines;
mod csv_row;
mod error;
mod example;
mod feature;
mod invalid;
mod json;
mod keys;
mod load;
mod pipeline;
pub mod projection;
pub mod quote;
mod record;
mod schema;
mod spec;
mod table;
mod time;
pub mod training;
mod value;

pub use csv_lines::CsvLines;
pub use csv_row::CsvColumns;
pub use error::Error;
pub use invalid::{Invalid, InvalidKind};
pub use pipeline::Pipeline;
pub use projection::Projection;
pub use record::{ID_LEN_MAX, NeedKey, Reading};
pub use schema::schema;
pub use spec::{Argmax, Bands, Decision, Label, Threshold, Truth};
pub use training::Training;
pub use value::Scalar;
