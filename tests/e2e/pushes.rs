//! Pushes over HTTP and gRPC whose senders repeat them until they are acknowledged, while services are killed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use quadrille_proto::{
    Service,
    v1::{SubmitRequest, ingest_service_client::IngestServiceClient},
};
use tokio::runtime::Runtime;

use crate::{
    harness::{
        PATIENCE,
        client::{record, structure},
        eventually, http,
        oracle::{self, Promise, Sent},
        process::Process,
        world::World,
    },
    surface::records_path,
};

const SENDERS: usize = 6;
/// Of each sender.
const RECORDS: usize = 200;
/// Acknowledged pushes after which the next service is killed.
const KILL_AFTER: [usize; 4] = [200, 400, 600, 800];

/// One try to push a record.
trait Push {
    fn push(&mut self, address: SocketAddr, world: &World, json: &str) -> bool;
}

struct Http;

impl Push for Http {
    fn push(&mut self, address: SocketAddr, world: &World, json: &str) -> bool {
        let kind = [("Content-Type", "application/json")];
        let path = records_path(world);
        let answer = http::try_request(address, "POST", &path, &kind, json.as_bytes());
        answer.is_some_and(|(status, _)| status == 200)
    }
}

struct Grpc(Runtime);

impl Push for Grpc {
    fn push(&mut self, address: SocketAddr, world: &World, json: &str) -> bool {
        let request = SubmitRequest {
            pipeline: world.pipeline.clone(),
            record: Some(structure(json)),
            ..SubmitRequest::default()
        };
        let answer = self.0.block_on(async {
            let client = IngestServiceClient::connect(format!("http://{address}")).await;
            client.ok()?.submit(request).await.ok()
        });
        answer.is_some()
    }
}

/// Pushes the records of one key, each until it is acknowledged.
fn send(
    world: &World,
    key: &str,
    mut by: impl Push,
    ingest: &Mutex<SocketAddr>,
    acknowledged: &AtomicUsize,
) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for n in 0..RECORDS {
        let id = format!("{key}#{n:06}");
        let json = record(&id, key, 100);
        eventually("the push is acknowledged", PATIENCE, || {
            let address = *ingest.lock().expect("no panic");
            by.push(address, world, &json).then_some(())
        });
        acknowledged.fetch_add(1, Ordering::Relaxed);
        sent.insert(id);
    }
    sent
}

#[test]
fn what_was_acknowledged_is_stored_once_and_in_order_whatever_is_killed() {
    let world = World::new(4);
    let mut services: Vec<Process> = world.start_all();
    let ingest = Mutex::new(services[0].address());
    let acknowledged = AtomicUsize::new(0);
    let good = std::thread::scope(|scope| {
        let (world, ingest, acknowledged) = (&world, &ingest, &acknowledged);
        let senders: Vec<_> = (0..SENDERS)
            .map(|n| {
                scope.spawn(move || {
                    let key = format!("p{n}");
                    match n % 2 {
                        0 => send(world, &key, Http, ingest, acknowledged),
                        _ => {
                            let runtime = Runtime::new().expect("a runtime");
                            send(world, &key, Grpc(runtime), ingest, acknowledged)
                        }
                    }
                })
            })
            .collect();
        for (stage, after) in Service::ALL.iter().zip(KILL_AFTER) {
            eventually("pushes are acknowledged", PATIENCE, || {
                (acknowledged.load(Ordering::Relaxed) >= after).then_some(())
            });
            let index = services
                .iter()
                .position(|service| service.launch.binary == stage.name())
                .expect("it runs");
            services[index].kill();
            services[index] = services[index].launch.start();
            if *stage == Service::Ingest {
                *ingest.lock().expect("no panic") = services[index].address();
            }
        }
        let sent = senders
            .into_iter()
            .map(|sender| sender.join().expect("its ids"));
        sent.flatten().collect()
    });
    let sent = Sent {
        good,
        ..Sent::default()
    };
    oracle::check_sent(&world, services[3].address(), &sent, Promise::PushedAgain);
}
