//! The client by which a stage asks about its topics.

use std::{fmt, sync::OnceLock};

use rdkafka::{consumer::BaseConsumer, error::KafkaResult};

use crate::{Cluster, client::Plain};

/// One for the whole stage, made when it is needed. Not a lane's own: what that asks waits behind its fetch, on the same
/// connection, for up to `fetch.wait.max.ms`.
#[derive(Default)]
pub(super) struct Asking(OnceLock<BaseConsumer<Plain>>);

impl Asking {
    pub fn client(&self, cluster: &Cluster) -> KafkaResult<&BaseConsumer<Plain>> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        let client = cluster.client_config().create_with_context(Plain)?;
        Ok(self.0.get_or_init(|| client))
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asking").finish_non_exhaustive()
    }
}
