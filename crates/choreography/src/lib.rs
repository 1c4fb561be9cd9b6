//! Consume, handle, produce, commit: the loop every service shares.
//!
//! A service author writes a [`Handler`] over a batch of decoded records; this crate does the rest:
//! consumer groups, lanes, transactions, retries, dead letters, rebalances, drain, health and metrics.
//! It is the only crate that knows the Kafka client. It does not know what a record means: no
//! pipeline, no feature, no model and no SQL is named here.

mod admin;
mod backoff;
mod batch;
mod client;
mod config;
mod consumer;
mod dlq;
mod embedded;
mod facts;
#[cfg(test)]
mod fatal;
mod gates;
mod group;
mod handler;
mod judge;
mod lane;
mod native;
mod offsets;
mod partition;
mod producer;
mod publisher;
mod redrive;
mod schemas;
mod spans;
mod stage;
mod start;
mod status;
mod table;
mod transaction;
mod unreadable;

pub use admin::{
    Admin, AdminError, Retention, StageTopics, TopicIdentity, TopicSpec, dead_letter_bytes_min,
};
pub use backoff::Backoff;
pub use batch::OffsetRange;
pub use config::{
    Cluster, CommitMode, ConfigError, Delivery, LANES_MAX, Limits, OutputTopic, StageConfig,
};
pub use dlq::{ATTEMPTS_HEADER, ORIGIN_HEADER};
pub use embedded::{EmbeddedBroker, EmbeddedError};
pub use facts::{
    Facts, FactsError, FactsEvent, FactsHistory, FactsLog, Part, StageIdentity, TopicState,
    place_name,
};
pub use group::{GroupProgress, PartitionProgress};
pub use handler::{
    Cause, Claimed, Failure, GiveUp, Handler, Headers, Incoming, Item, OffsetStore, Output,
    OutputKey, Restore, To,
};
pub use partition::partition_of;
pub use publisher::{Acknowledged, Publication, PublishError, Publisher};
pub use redrive::{
    Action, Became, DeadLetter, DeadLetters, Order, Progress, Redrive, RedriveError, Refused,
    Scope, Settled, Settlement, State, list_dead_letters,
};
pub use schemas::{Lookup, SchemaError, Schemas};
pub use spans::StoreSpan;
pub use stage::{RunningStage, Stage, StageError};
pub use status::Health;
pub use table::{
    FetchError, Standing, Table, TableError, TableEvent, TableRecord, TableWrite, WriteError,
    fetch_record, fetch_records, read_table, write_table,
};
