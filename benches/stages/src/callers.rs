//! Predict calls on a schedule that waits for nobody.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use prost_types::{Struct, Value, value::Kind};
use quadrille_proto::v1::{PredictRequest, predict_service_client::PredictServiceClient};
use tonic::{Status, transport::Endpoint};

use crate::{inbox::Schedule, workload::PIMA};

/// Entities the calls are about.
const KEYS: u64 = 1_000;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

pub struct Callers {
    pub address: SocketAddr,
    pub pipeline: String,
    pub schedule: Schedule,
    pub total: u64,
}

pub struct Call {
    pub due: Instant,
    /// From then on, so a stall is charged to every call that was due in it.
    pub took: Duration,
    /// The version that answered.
    pub answer: Result<String, Status>,
}

impl Callers {
    /// Makes all calls, over one connection.
    pub fn run(self) -> anyhow::Result<Vec<Call>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(self.call_all())
    }

    async fn call_all(self) -> anyhow::Result<Vec<Call>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true);
        let client = PredictServiceClient::new(endpoint.connect().await?);
        let rows: Vec<&str> = PIMA.lines().skip(1).collect();
        let mut calls = Vec::new();
        for n in 0..self.total {
            let due = self.schedule.due(n);
            tokio::time::sleep_until(due.into()).await;
            let request = PredictRequest {
                pipeline: self.pipeline.clone(),
                record: Some(record(n, rows[n as usize % rows.len()])?),
                ..PredictRequest::default()
            };
            let mut client = client.clone();
            calls.push(tokio::spawn(async move {
                let answer = client.predict(request).await;
                Call {
                    due,
                    took: due.elapsed(),
                    answer: answer.map(|answer| answer.into_inner().version),
                }
            }));
        }
        let mut all = Vec::with_capacity(calls.len());
        for call in calls {
            all.push(call.await.context("a caller")?);
        }
        Ok(all)
    }
}

/// A line of the bundled data as Predict takes it.
fn record(n: u64, row: &str) -> anyhow::Result<Struct> {
    let value = |kind| Value { kind: Some(kind) };
    let key = format!("p-{}", n % KEYS);
    let mut fields = vec![
        ("id".to_owned(), value(Kind::StringValue(n.to_string()))),
        ("patient_id".to_owned(), value(Kind::StringValue(key))),
    ];
    let names = PIMA.lines().next().unwrap_or_default().split(',');
    // The last column is the truth.
    for (name, text) in names.zip(row.split(',')).take(8) {
        let number = text.parse().with_context(|| format!("{name} {text:?}"))?;
        fields.push((name.to_owned(), value(Kind::NumberValue(number))));
    }
    Ok(Struct {
        fields: fields.into_iter().collect(),
    })
}
