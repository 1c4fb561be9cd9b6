//! Consume, handle, produce, commit: the loop every service shares.
//!
//! A service author writes a [`Handler`] over a batch of decoded records; this crate does the rest:
//! consumer groups, lanes, transactions, retries, dead letters, rebalances, drain, health and metrics.
//! It is the only crate that knows the Kafka client. It does not know what a record means: no
//! pipeline, no feature, no model and no SQL is named here.

pub mod admin;
mod backoff;
mod batch;
pub mod changelog;
mod client;
pub mod config;
mod consumer;
mod decisions;
mod dlq;
pub mod embedded;
pub mod facts;
#[cfg(test)]
mod fatal;
mod gates;
mod group;
pub mod handler;
mod lane;
mod native;
mod offsets;
mod partition;
mod position;
mod producer;
pub mod publisher;
pub mod redrive;
pub mod schemas;
mod spans;
pub mod stage;
mod stage_topics;
mod status;
pub mod table;
mod topic_state;
mod transaction;
mod unreadable;

pub use admin::{Admin, Retention, TopicIdentity, TopicSpec};
pub use backoff::Backoff;
pub use batch::OffsetRange;
pub use changelog::{Change, ChangelogFollower, ChangelogReader};
pub use config::{
    Cluster, CommitMode, Delivery, LANES_MAX, LaneId, Limits, OutputTopic, StageConfig,
};
pub use dlq::{ATTEMPTS_HEADER, ORIGIN_HEADER, dead_letter_bytes_min};
pub use embedded::EmbeddedBroker;
pub use facts::{
    Definition, Facts, FactsEvent, FactsHistory, FactsLog, Partitioning, PipelineFile,
    StageIdentity, pipeline_files,
};
pub use group::{GroupProgress, PartitionProgress};
pub use handler::{
    Cancelled, Cause, ClaimedOffsets, Delivered, Destination, Handler, Headers, Incoming, Item,
    OffsetStore, Output, OutputKey, Restore, StoreSpan,
};
pub use partition::partition_of;
pub use position::position_id;
pub use publisher::{Acknowledged, Publication, Publisher};
pub use redrive::{DeadLetter, DeadLetters, Redrive, list_dead_letters};
pub use schemas::{Lookup, Schemas};
pub use stage::{RunningStage, Stage};
pub use stage_topics::StageTopics;
pub use status::Health;
pub use table::{
    Seeker, Sought, TableEvent, TableReader, TableRecord, TableState, TableWrite, fetch_record,
    fetch_records, read_table, write_table,
};
pub use topic_state::TopicState;
