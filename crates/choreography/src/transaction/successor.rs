//! The end of a transaction that another lane's producer left open.

use std::time::Duration;

use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{BaseProducer, Producer},
};

use super::settings;
use crate::{Cluster, client::LoggingContext, native, producer::TRANSACTION_TIMEOUT};

const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// How long the group's coordinator may take to say who is in the group.
const MEMBERS_WITHIN: Duration = Duration::from_secs(5);
/// The first InitProducerId has the coordinator fence the producer that has the id, and abort what it left open; it is answered with "again",
/// and librdkafka (2.12.1) sends it again after half a second, only to be given an epoch. That one would fence a lane that has come back in
/// between, for nothing: the client is gone by then.
const ASKED_WITHIN: Duration = Duration::from_millis(300);
/// Where that did not do: coordinators may be slow.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// Who ends another lane's transaction.
pub(crate) struct Successor {
    pub cluster: Cluster,
    pub group: String,
    /// Of the lane that waits for it.
    pub own: String,
    /// Of the lane whose transaction it is.
    pub id: String,
    /// It was tried before.
    pub is_repeated: bool,
}

impl Successor {
    /// Ends it, unless the lane is a member of the group. Blocks, for some seconds at most.
    pub fn end_transaction(&self) {
        let (transactional_id, group) = (&self.id, &self.group);
        match self.fence() {
            Ok(()) => {}
            // As where there was a transaction to end.
            Err(KafkaError::Transaction(error))
                if error.code() == RDKafkaErrorCode::ConcurrentTransactions => {}
            // It was not asked, or did not answer; perhaps the next try is.
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                tracing::debug!(transactional_id, group, %error, "what a lane may have left open is not ended yet");
            }
            Err(error) => {
                tracing::warn!(transactional_id, group, %error, "what a lane may have left open could not be ended; Kafka ends it by its timeout");
            }
        }
    }

    fn fence(&self) -> KafkaResult<()> {
        let mut config = self.cluster.client_config();
        settings(&mut config, &self.id, TRANSACTION_TIMEOUT);
        // In the brokers' logs.
        config.set("client.id", &self.own);
        let producer: BaseProducer<LoggingContext> = config.create_with_context(LoggingContext)?;
        // As in `LaneProducer::init_transactions`.
        let _ = producer.client().fetch_cluster_id(CONNECTED_WITHIN);
        let members = native::group_members(producer.client(), &self.group, MEMBERS_WITHIN);
        let members = members.map_err(KafkaError::GroupListFetch)?;
        if !is_gone(&self.id, &members, &self.own) {
            return Ok(());
        }
        tracing::info!(
            transactional_id = self.id,
            "a lane has left the group, and may have left a transaction open that holds up a restore: it is ended now"
        );
        producer.init_transactions(match self.is_repeated {
            false => ASKED_WITHIN,
            true => ASKED_AGAIN_WITHIN,
        })
    }
}

/// Whether a lane is no member of the group. The lane that asks is one: an answer without it is about something else.
fn is_gone(id: &str, members: &[String], own: &str) -> bool {
    let is_member = |name: &str| members.iter().any(|member| member == name);
    is_member(own) && !is_member(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_group_are_spared_and_so_is_everybody_where_they_are_not_known() {
        let gone = |id, members: &[&str]| {
            let members: Vec<String> = members.iter().map(|it| (*it).to_owned()).collect();
            is_gone(id, &members, "g-c-0")
        };
        assert!(gone("g-a-0", &["g-c-0", "g-a-1"]));
        assert!(!gone("g-a-1", &["g-c-0", "g-a-1"]));
        assert!(
            !gone("g-a-0", &["g-a-1"]),
            "of a group without the one that asks"
        );
        assert!(!gone("g-a-0", &[]));
    }
}
