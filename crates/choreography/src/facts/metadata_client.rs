//! The client by which a stage asks about its topics.

use std::{fmt, sync::OnceLock};

use rdkafka::{consumer::BaseConsumer, error::KafkaResult};

use crate::{Cluster, client::LoggingContext};

/// One for the whole stage, made when it is needed. Not a lane's own: what that asks waits behind its fetch, on the same
/// connection, for up to `fetch.wait.max.ms`.
#[derive(Default)]
pub(super) struct MetadataClient(OnceLock<BaseConsumer<LoggingContext>>);

impl MetadataClient {
    pub fn client(&self, cluster: &Cluster) -> KafkaResult<&BaseConsumer<LoggingContext>> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        let client = cluster
            .client_config()
            .create_with_context(LoggingContext)?;
        Ok(self.0.get_or_init(|| client))
    }
}

impl fmt::Debug for MetadataClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MetadataClient").finish_non_exhaustive()
    }
}
