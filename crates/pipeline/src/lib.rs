//! A pipeline is one TOML file: the record, its features, the model's inputs, the decision.
//!
//! This crate reads that file and explains what is wrong with it ([`Error`]), reads records from
//! JSON, CSV and field lists and explains what is wrong with them ([`Invalid`]), and computes
//! features; training and the stream share that code.
//!
//! What was not measured is a NaN from here on. How a record says so depends on two keys of the field:
//!
//! | field | absent (in CSV: no column) | null (in CSV: an empty cell) | a marker of `missing` |
//! | --- | --- | --- | --- |
//! | required, without markers | refused | refused | there is none |
//! | required, with markers | refused | not measured | not measured |
//! | `required = false` | not measured | not measured | not measured |
//!
//! The label's field is passed over in every record: it is neither read nor kept.
//!
//! It does not know Kafka, HTTP, gRPC, async, any model or any clock: bytes and the time come
//! in, numbers and explanations go out.
#![forbid(unsafe_code)]

mod check;
mod csv_lines;
mod csv_row;
mod describe;
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
mod replay;
mod schema;
mod spec;
mod state;
mod table;
mod time;
pub mod training;
mod value;

pub use csv_lines::CsvLines;
pub use csv_row::CsvColumns;
pub use describe::{FeatureMeaning, FieldMeaning, StateMeaning};
pub use error::Error;
pub use invalid::{Invalid, InvalidKind};
pub use json::number_word;
pub use load::Loaded;
pub use pipeline::Pipeline;
pub use projection::Projection;
pub use record::{ID_LEN_MAX, NeedKey, Reading};
pub use replay::{Replay, Replayed};
pub use schema::schema;
pub use spec::{Argmax, Bands, Decision, Label, Late, Threshold, Truth};
pub use state::{Arrival, NeedsHistory, Scratch, State, Taken};
pub use training::Training;
pub use value::Scalar;
