//! The shared vocabulary: messages, services, schemas, stages and topics.
//!
//! This crate knows neither Kafka nor a service; it holds names, shapes and bytes.

mod codec;
mod envelope;
mod schema;
mod stage;

pub use codec::allow_elements;
pub use envelope::{EnvelopeError, SCHEMA_ID_LEN, SchemaId, open, seal};
pub use schema::{Field, FieldType, Kind, Schema};
pub use stage::{DLQ_SUFFIX, Stage, Topics, dlq_of};

/// The generated messages, clients and servers of `inference`: the Open Inference Protocol.
pub mod oip {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("inference");
}

/// The generated messages, clients and servers of `quadrille.v1`.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("quadrille.v1");

    /// The encoded `FileDescriptorSet` of all packages, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/quadrille.binpb"));
}
