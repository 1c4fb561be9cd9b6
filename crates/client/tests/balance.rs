//! Calls over replicas that differ, drain and come back.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use quadrille_client::{Balance, Replicas};
use quadrille_proto::v1::{
    PredictRequest, PredictResponse,
    predict_service_client::PredictServiceClient,
    predict_service_server::{PredictService, PredictServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

/// Answers its name after a time.
struct Named {
    name: &'static str,
    takes: Duration,
}

#[tonic::async_trait]
impl PredictService for Named {
    async fn predict(
        &self,
        _: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        tokio::time::sleep(self.takes).await;
        Ok(Response::new(PredictResponse {
            model: self.name.to_owned(),
            ..PredictResponse::default()
        }))
    }
}

async fn replica(name: &'static str, takes: Duration) -> (SocketAddr, HealthReporter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .add_service(health)
        .add_service(PredictServiceServer::new(Named { name, takes }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, reporter)
}

#[derive(Clone, Default)]
struct Dns(Arc<Mutex<Vec<SocketAddr>>>);

impl Dns {
    fn set(&self, addresses: &[SocketAddr]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }

    fn client(&self, balance: Balance) -> PredictServiceClient<Replicas> {
        let known = Arc::clone(&self.0);
        let resolve = move || {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { Ok(known) }.boxed()
        };
        PredictServiceClient::new(Replicas::resolved_by(Box::new(resolve), balance))
    }
}

async fn ask(client: &mut PredictServiceClient<Replicas>) -> String {
    let answer = client.predict(PredictRequest::default()).await;
    answer.expect("an answer").into_inner().model
}

async fn count(
    client: &mut PredictServiceClient<Replicas>,
    calls: usize,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(ask(client).await).or_default() += 1;
    }
    counts
}

/// Calls until the answers come from exactly these.
async fn until(client: &mut PredictServiceClient<Replicas>, names: &[&str]) {
    let settled = async {
        loop {
            let counts = count(client, 16).await;
            if counts.keys().map(String::as_str).eq(names.iter().copied()) {
                return;
            }
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(60), settled).await;
    settled.unwrap_or_else(|_| panic!("answers come from {names:?}"));
}

#[tokio::test]
async fn in_turn_each_replica_gets_its_share() {
    let dns = Dns::default();
    let (a, _a) = replica("a", Duration::ZERO).await;
    let (b, _b) = replica("b", Duration::ZERO).await;
    dns.set(&[a, b]);
    let mut client = dns.client(Balance::RoundRobin);
    until(&mut client, &["a", "b"]).await;
    let counts = count(&mut client, 100).await;
    assert_eq!((counts["a"], counts["b"]), (50, 50));
}

#[tokio::test]
async fn by_load_the_replica_that_answers_sooner_gets_most() {
    let dns = Dns::default();
    let (quick, _quick) = replica("quick", Duration::from_millis(1)).await;
    let (slow, _slow) = replica("slow", Duration::from_millis(40)).await;
    dns.set(&[quick, slow]);
    let mut client = dns.client(Balance::PeakEwma);
    until(&mut client, &["quick", "slow"]).await;
    let counts = count(&mut client, 200).await;
    assert!(counts["quick"] > 150, "{counts:?}");
}

#[tokio::test]
async fn a_replica_that_drains_is_left_without_a_failed_call() {
    for balance in [Balance::RoundRobin, Balance::PeakEwma] {
        let dns = Dns::default();
        let (a, health) = replica("a", Duration::from_millis(1)).await;
        let (b, _b) = replica("b", Duration::from_millis(1)).await;
        dns.set(&[a, b]);
        let mut client = dns.client(balance);
        until(&mut client, &["a", "b"]).await;
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        until(&mut client, &["b"]).await;
        health.set_service_status("", ServingStatus::Serving).await;
        until(&mut client, &["a", "b"]).await;
    }
}

#[tokio::test]
async fn replicas_that_come_and_go_in_dns_are_followed() {
    let dns = Dns::default();
    let (a, _a) = replica("a", Duration::ZERO).await;
    let (b, _b) = replica("b", Duration::ZERO).await;
    dns.set(&[a]);
    let mut client = dns.client(Balance::RoundRobin);
    until(&mut client, &["a"]).await;
    dns.set(&[a, b]);
    until(&mut client, &["a", "b"]).await;
    dns.set(&[b]);
    until(&mut client, &["b"]).await;
}
