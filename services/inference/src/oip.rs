//! The Open Inference Protocol: tensors in, tensors out, by gRPC and by REST.

pub(crate) mod about;
pub(crate) mod ask;
mod bounded;
mod extensions;
pub(crate) mod grpc;
pub(crate) mod infer;
pub(crate) mod json;
pub(crate) mod outputs;
pub(crate) mod refusal;
pub(crate) mod rest;
pub(crate) mod rows;
pub(crate) mod tensor;
