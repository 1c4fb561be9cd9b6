//! Other replicas of this service, asked over connections that are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quadrille_proto::v1::{
    GetFeaturesRequest, GetFeaturesResponse, feature_service_client::FeatureServiceClient,
};
use quadrille_service::Boxed;
use quadrille_telemetry::propagation::{BAGGAGE, TRACEPARENT, TRACESTATE};
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

/// More replicas than anybody runs of a pipeline; further ones take the place of others.
const CHANNELS_MAX: usize = 256;
/// A replica in the same network answers within some milliseconds, or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A connection whose other end vanished is found out before the next question waits for it.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(2);

/// Asks another replica.
pub(crate) trait Ask: Send + Sync + 'static {
    /// `within`: nobody waits for the answer any longer.
    fn ask(
        &self,
        address: &str,
        request: Request<GetFeaturesRequest>,
        within: Duration,
    ) -> Boxed<'static, Result<GetFeaturesResponse, Status>>;
}

/// A connection for each replica that was asked.
#[derive(Default)]
pub(crate) struct Peers(Mutex<BTreeMap<String, Channel>>);

impl Peers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Channel>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections to all others.
    pub fn keep(&self, addresses: &BTreeSet<&str>) {
        self.lock()
            .retain(|address, _| addresses.contains(address.as_str()));
    }

    /// Connects when it is first used. Within a runtime.
    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::unavailable(format!("{address}: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.pop_first();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Ask for Peers {
    fn ask(
        &self,
        address: &str,
        mut request: Request<GetFeaturesRequest>,
        within: Duration,
    ) -> Boxed<'static, Result<GetFeaturesResponse, Status>> {
        let channel = self.channel(address);
        request.set_timeout(within);
        Box::pin(async move {
            let mut client = FeatureServiceClient::new(channel?);
            let answer = tokio::time::timeout(within, client.get_features(request)).await;
            let late = |_| Status::deadline_exceeded("no answer in time");
            answer.map_err(late)?.map(tonic::Response::into_inner)
        })
    }
}

/// The same question for another replica, in the same trace.
pub(super) fn forwarded(
    question: &GetFeaturesRequest,
    metadata: &MetadataMap,
) -> Request<GetFeaturesRequest> {
    let mut request = Request::new(GetFeaturesRequest {
        forwarded: true,
        ..question.clone()
    });
    for name in [TRACEPARENT, TRACESTATE, BAGGAGE] {
        if let Some(value) = metadata.get(name) {
            request.metadata_mut().insert(name, value.clone());
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_few_and_closed_once_nobody_reports_there() {
        let peers = Peers::default();
        for port in 1..=1_000 {
            peers.channel(&format!("a.example:{port}")).unwrap();
        }
        assert_eq!(peers.lock().len(), CHANNELS_MAX);
        let kept = peers.lock().keys().next().cloned().unwrap();
        peers.keep(&[kept.as_str(), "b.example:1"].into());
        assert_eq!(peers.lock().keys().collect::<Vec<_>>(), [&kept]);
        assert!(peers.channel("no address at all").is_err());
    }

    #[tokio::test]
    async fn a_replica_that_is_gone_is_an_error_soon() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let peers = Peers::default();
        let request = Request::new(GetFeaturesRequest::default());
        let asked = peers.ask(&address, request, Duration::from_secs(30));
        assert_eq!(asked.await.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
