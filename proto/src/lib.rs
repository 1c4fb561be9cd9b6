//! The shared vocabulary: messages, schemas, the services and their topics.
//!
//! This crate knows neither Kafka nor a service; it holds names, shapes and bytes.

mod codec;
pub mod envelope;
mod schema;
mod topics;

pub use codec::allow_elements;
pub use envelope::{SCHEMA_ID_LEN, SchemaId, open, seal};
pub use schema::{Field, FieldType, Kind, Schema};
pub use topics::{
    Content, DLQ_SUFFIX, KeyedState, OutputSpec, PipelineTopic, STAGES, Service, StageSpec, Topics,
    dlq_of,
};

/// When to ask again, in milliseconds, in the trailers of a refusal: gRPC's own name, which clients with a retry policy obey.
pub const RETRY_PUSHBACK_MS: &str = "grpc-retry-pushback-ms";

/// The generated messages, clients and servers of `inference`: the Open Inference Protocol.
pub mod oip {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    include!("generated/inference.rs");
}

/// The generated messages, clients and servers of `quadrille.v1`.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    include!("generated/quadrille.v1.rs");

    /// The encoded `FileDescriptorSet` of all packages, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/quadrille.binpb");
}
