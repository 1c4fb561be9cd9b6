//! What the adapters of one transport share: how an error is said in its words, and what comes with a call beside its message.

pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod view_age;
