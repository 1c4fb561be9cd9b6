//! A gRPC channel over all replicas of a service.
//!
//! One HTTP/2 connection is one replica, however many addresses its name has: a plain channel stays with
//! the first. [`Replicas`] looks the name up again and again, asks every address for its health
//! (`grpc.health.v1`), and spreads calls over those that serve. It knows no service of ours: any generated
//! client takes it in place of a channel.
//!
//! ```no_run
//! # use quadrille_client::{Balance, Replicas};
//! # async fn example() {
//! let replicas = Replicas::of("inference:7003", Balance::PeakEwma);
//! // let client = PredictServiceClient::new(replicas);
//! # }
//! ```
#![forbid(unsafe_code)]

mod discovery;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{body::Body, transport::Channel};
use tower::{
    BoxError, Service, ServiceExt,
    balance::p2c,
    buffer::Buffer,
    discover::Change,
    load::{CompleteOnResponse, PeakEwmaDiscover},
};

pub use discovery::Resolve;

/// How long a replica is taken to answer that has not been called yet.
const ANSWER_EXPECTED: Duration = Duration::from_millis(10);
/// How fast a slow answer is forgotten.
const MEMORY: Duration = Duration::from_secs(10);
/// Calls that may wait for a replica; more wait for their turn.
const WAITING_MAX: usize = 1_024;
const CHANGES_WAITING_MAX: usize = 64;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

/// Which replica a call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after the other: fair where replicas and calls are alike.
    RoundRobin,
    /// Of two at random the one that answers sooner and has less to do: for replicas that differ, or are
    /// slowed down by something else.
    PeakEwma,
}

#[derive(Clone)]
enum Picker {
    InTurn {
        replicas: watch::Receiver<Vec<(SocketAddr, Channel)>>,
        next: Arc<AtomicUsize>,
    },
    ByLoad(Buffer<Request, <ByLoad as Service<Request>>::Future>),
}

type Changes = ReceiverStream<Result<Change<SocketAddr, Channel>, Infallible>>;
type ByLoad = p2c::Balance<PeakEwmaDiscover<Changes>, Request>;

/// A channel over all replicas. Cheap to clone; the last clone ends the looking.
#[derive(Clone)]
pub struct Replicas(Picker);

impl Replicas {
    /// The replicas behind `host:port`, as DNS names them. To be called inside a tokio runtime; calls wait
    /// until one is found.
    pub fn of(address: impl Into<String>, balance: Balance) -> Self {
        let address = address.into();
        let resolve = move || {
            let address = address.clone();
            async move { Ok(tokio::net::lookup_host(address).await?.collect()) }.boxed()
        };
        Self::resolved_by(Box::new(resolve), balance)
    }

    /// As [`Replicas::of`], by other means than DNS.
    pub fn resolved_by(resolve: Resolve, balance: Balance) -> Self {
        let (tell, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        tokio::spawn(discovery::run(resolve, tell));
        Replicas(match balance {
            Balance::RoundRobin => {
                let (known, replicas) = watch::channel(Vec::new());
                tokio::spawn(keep(changes, known));
                Picker::InTurn {
                    replicas,
                    next: Arc::default(),
                }
            }
            Balance::PeakEwma => {
                let measured = PeakEwmaDiscover::new(
                    ReceiverStream::new(changes),
                    ANSWER_EXPECTED,
                    MEMORY,
                    CompleteOnResponse::default(),
                );
                Picker::ByLoad(Buffer::new(p2c::Balance::new(measured), WAITING_MAX))
            }
        })
    }
}

/// Carries changes over to the list that calls go through.
async fn keep(
    mut changes: mpsc::Receiver<Result<Change<SocketAddr, Channel>, Infallible>>,
    known: watch::Sender<Vec<(SocketAddr, Channel)>>,
) {
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = known.closed() => None,
        };
        let Some(Ok(change)) = change else { return };
        known.send_modify(|replicas| match change {
            Change::Insert(address, channel) => {
                replicas.retain(|(known, _)| *known != address);
                replicas.push((address, channel));
            }
            Change::Remove(address) => replicas.retain(|(known, _)| *known != address),
        });
    }
}

impl Service<Request> for Replicas {
    type Response = Response;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            // Which one it will be is decided by the call.
            Picker::InTurn { .. } => Poll::Ready(Ok(())),
            Picker::ByLoad(balance) => balance.poll_ready(context),
        }
    }

    fn call(&mut self, request: Request) -> Answer {
        match &mut self.0 {
            Picker::InTurn { replicas, next } => {
                let (mut replicas, next) = (replicas.clone(), Arc::clone(next));
                Box::pin(async move {
                    let channel = {
                        let known = replicas.wait_for(|known| !known.is_empty()).await?;
                        let at = next.fetch_add(1, Ordering::Relaxed) % known.len();
                        known[at].1.clone()
                    };
                    channel.oneshot(request).err_into().await
                })
            }
            Picker::ByLoad(balance) => Box::pin(balance.call(request)),
        }
    }
}
