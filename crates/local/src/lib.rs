//! Apache Kafka and PostgreSQL for development and tests: fetched once from Maven Central with the
//! user's `mvn`, run as child processes which end when their owner does, however it ends. And a
//! Python with packages, for clients that are written in it.
//!
//! What this crate does not know: Kafka clients, SQL, topics, pipelines. It hands out an address.
//!
//! Everything blocks; from async code call it on a blocking thread. Servers listen on 127.0.0.1 only.
//! By default there is one of each, without a password.
//!
//! ```no_run
//! let kafka = quadrille_local::Kafka::options().start()?;
//! println!("{}", kafka.bootstrap_servers());
//! # Ok::<(), quadrille_local::Error>(())
//! ```

#![forbid(unsafe_code)]

mod cache;
mod error;
mod guarded;
mod java;
pub mod kafka;
mod maven;
mod patience;
mod port;
pub mod postgres;
pub mod proxy;
pub mod python;
pub mod schemathesis;
mod scratch;

pub use error::Error;
pub use kafka::Kafka;
pub use postgres::Postgres;
pub use proxy::Proxy;
