//! The Open Inference Protocol: tensors in, tensors out, by gRPC and by REST.

mod bounded;
mod contents;
mod extensions;
pub(crate) mod grpc;
mod infer;
mod metadata;
mod outputs;
mod parameters;
mod repository;
pub(crate) mod rest;
