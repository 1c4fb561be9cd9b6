//! What a person sees while everything runs: where to look, then the predictions as they come.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use quadrille_proto::{
    Service,
    v1::{
        CountPredictionsRequest, ListPredictionsRequest, StoredPrediction,
        results_service_client::ResultsServiceClient,
    },
};
use quadrille_service::Error;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::{Plan, broker::Broker};
use crate::output;

const TERMINAL_EVERY: Duration = Duration::from_secs(1);
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Of the latest predictions, on a terminal.
const SHOWN: i32 = 8;
const CONNECT_EVERY: Duration = Duration::from_millis(100);

/// Shows until the process is asked to end; returns only an error.
pub async fn show(plan: &Plan, broker: &Broker) -> Result<(), Error> {
    greet(plan, broker)?;
    let address = format!("http://127.0.0.1:{}", port(plan, Service::Results));
    let mut client = connect(&address).await;
    let terminal = stdout().is_terminal();
    let started = Instant::now();
    let mut before = 0;
    let mut lines = 0;
    loop {
        let every = if terminal {
            TERMINAL_EVERY
        } else {
            PLAIN_EVERY
        };
        sleep(every).await;
        let mut text = String::new();
        for pipeline in &plan.pipelines {
            let name = pipeline.name();
            let Some(view) = look(&mut client, name).await else {
                continue;
            };
            let rate = (view.count - before) as f64 / every.as_secs_f64();
            before = view.count;
            let seconds = started.elapsed().as_secs();
            let line = format!(
                "{seconds:>5} s  {name}: {} predicted, {rate:.1}/s; of the last {}: {}\n",
                view.count,
                view.latest.len(),
                shares(&view.latest)
            );
            text += &line;
            if terminal {
                let rows = view.latest.iter().take(SHOWN as usize).map(row);
                text.extend(rows);
            }
        }
        if text.is_empty() {
            continue;
        }
        // On a terminal the block is drawn over the one before.
        let up = if terminal && lines > 0 {
            format!("\x1b[{lines}A\x1b[J")
        } else {
            String::new()
        };
        lines = text.lines().count();
        if output::print(format!("{up}{}", text.trim_end()))?.is_break() {
            // Nobody reads; the services go on.
            std::future::pending::<()>().await;
        }
    }
}

fn port(plan: &Plan, service: Service) -> u16 {
    plan.port + (service.port() - Service::Ingest.port())
}

fn greet(plan: &Plan, broker: &Broker) -> Result<(), Error> {
    let names: Vec<&str> = plan.pipelines.iter().map(|p| p.name()).collect();
    let text = format!(
        "kafka      {} ({})\npipelines  {}\n{}push       http://127.0.0.1:{}/v1/pipelines/{}/records\npredict    grpc 127.0.0.1:{} quadrille.v1.PredictService/Predict\ndashboard  http://127.0.0.1:{}/\nCtrl-C drains and ends",
        broker.address(),
        broker.kind(),
        names.join(", "),
        remembered(plan),
        port(plan, Service::Ingest),
        names.first().unwrap_or(&""),
        port(plan, Service::Inference),
        port(plan, Service::Results),
    );
    let _ = output::print(&text)?;
    Ok(())
}

/// Where what pipelines remember of their keys is kept, if one does.
fn remembered(plan: &Plan) -> String {
    if !plan.pipelines.iter().any(|it| it.keeps_state()) {
        return String::new();
    }
    match &plan.given.state_dir {
        Some(folder) => format!(
            "state      {}, a cache of the topics <p>.feature-state\n",
            folder.display()
        ),
        None => "state      in memory: the next start remembers no record of this one\n".to_owned(),
    }
}

async fn connect(address: &str) -> ResultsServiceClient<Channel> {
    loop {
        match ResultsServiceClient::connect(address.to_owned()).await {
            Ok(client) => return client,
            Err(_) => sleep(CONNECT_EVERY).await,
        }
    }
}

struct View {
    count: i64,
    latest: Vec<StoredPrediction>,
}

/// None while the service is not ready.
async fn look(client: &mut ResultsServiceClient<Channel>, pipeline: &str) -> Option<View> {
    let pipeline = pipeline.to_owned();
    let request = CountPredictionsRequest {
        pipeline: pipeline.clone(),
    };
    let count = client
        .count_predictions(request)
        .await
        .ok()?
        .into_inner()
        .count;
    let request = ListPredictionsRequest {
        pipeline,
        limit: 50,
        ..Default::default()
    };
    let latest = client
        .list_predictions(request)
        .await
        .ok()?
        .into_inner()
        .predictions;
    Some(View { count, latest })
}

/// How often each decision was made.
fn shares(latest: &[StoredPrediction]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for prediction in latest {
        match counts
            .iter_mut()
            .find(|(decision, _)| *decision == prediction.decision)
        {
            Some((_, count)) => *count += 1,
            None => counts.push((&prediction.decision, 1)),
        }
    }
    counts.sort_unstable();
    let shares: Vec<String> = counts
        .iter()
        .map(|(decision, count)| format!("{count} {decision}"))
        .collect();
    if shares.is_empty() {
        "none yet".to_owned()
    } else {
        shares.join(", ")
    }
}

fn row(prediction: &StoredPrediction) -> String {
    let bar = "█".repeat((prediction.probability * 20.0).round().clamp(0.0, 20.0) as usize);
    format!(
        "         {:<24} {:>5.1} %  {bar:<20}  {}\n",
        prediction.id,
        prediction.probability * 100.0,
        prediction.decision
    )
}
