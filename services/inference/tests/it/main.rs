//! The protocols of a running service: an in-process one on the embedded broker, asked as clients ask.

mod bounds;
mod compression;
mod grpc;
mod meanings;
mod openapi;
mod port;
mod probes;
mod rest;
mod server;
mod tfs;
