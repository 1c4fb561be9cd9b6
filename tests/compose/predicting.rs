//! A client that asks for predictions all the time.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use quadrille_proto::v1::{PredictRequest, predict_service_client::PredictServiceClient};
use tokio::{runtime::Runtime, time::MissedTickBehavior};

use crate::harness::client::{record, structure};

const EVERY: Duration = Duration::from_millis(10);
/// A call that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Predicted {
    answers: u32,
    failures: Vec<String>,
    longest: Duration,
}

impl fmt::Display for Predicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Predicted {
            answers,
            failures,
            longest,
        } = self;
        let failed = failures.len();
        write!(
            f,
            "Predict: {answers} answers, {failed} failures, the longest took {longest:?}"
        )
    }
}

impl Predicted {
    pub fn check(&self) {
        assert!(self.answers > 100, "{self}");
        assert!(self.failures.is_empty(), "{self}: {:?}", self.failures);
    }
}

pub struct Predicting {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Predicted>,
}

impl Predicting {
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = Runtime::new().expect("a runtime");
            runtime.block_on(predict(address, &stopped))
        });
        Predicting { stop, thread }
    }

    pub fn stop(self) -> Predicted {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client")
    }
}

/// A client that looks at who answers.
pub struct Asking(Runtime);

impl Asking {
    pub fn new() -> Self {
        Asking(Runtime::new().expect("a runtime"))
    }

    /// The model versions that answer so many calls on one connection; none where nobody answers.
    pub fn versions(&mut self, address: SocketAddr, calls: u32) -> BTreeSet<String> {
        self.0.block_on(async {
            let mut versions = BTreeSet::new();
            let url = format!("http://{address}");
            let Ok(mut client) = PredictServiceClient::connect(url).await else {
                return versions;
            };
            for _ in 0..calls {
                match client.predict(question()).await {
                    Ok(answer) => versions.insert(answer.into_inner().version),
                    Err(status) => versions.insert(status.to_string()),
                };
            }
            versions
        })
    }
}

fn question() -> PredictRequest {
    PredictRequest {
        pipeline: "diabetes".to_owned(),
        record: Some(structure(&record("any", "any", 148))),
        ..PredictRequest::default()
    }
}

async fn predict(address: SocketAddr, stop: &AtomicBool) -> Predicted {
    let client = PredictServiceClient::connect(format!("http://{address}")).await;
    let mut client = client.expect("a connection");
    let mut predicted = Predicted::default();
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let began = Instant::now();
        match tokio::time::timeout(ANSWER_WITHIN, client.predict(question())).await {
            Ok(Ok(_)) => predicted.answers += 1,
            Ok(Err(status)) => predicted.failures.push(status.to_string()),
            Err(_) => predicted.failures.push("no answer in time".to_owned()),
        }
        predicted.longest = predicted.longest.max(began.elapsed());
    }
    predicted
}
