//! `quadrille up`: broker, model, all four services, data and a summary, in one process.

mod broker;
mod replay;
mod summary;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Parser;
use quadrille_choreography::Cluster;
use quadrille_model::{package::Overwrite, train::Algorithm};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use quadrille_service::{Config, Error, log_warnings, shutdown_signal};
use quadrille_telemetry::logs;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};

use crate::{
    kafka::{self, blocking},
    output,
    services::{self, Given},
    training,
};

/// The shipped pipeline and its data, so that the binary runs from any folder.
const DIABETES: (&str, &str) = (
    "diabetes.toml",
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    )),
);
const PIMA: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));
const PIPELINES_DEFAULT: &str = "pipelines";

/// Run all four services in this process.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Start a local Apache Kafka (fetched once with Maven) and keep its data; goes before
    /// --bootstrap-servers, which a shell may have exported.
    #[arg(long)]
    kafka: bool,

    /// With --kafka: only the broker, for services started on their own.
    #[arg(long, requires = "kafka")]
    broker_only: bool,

    /// With --kafka: the broker's port.
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    kafka_port: u16,

    /// An Apache Kafka that runs already [default: an embedded broker, which keeps nothing].
    #[arg(
        long,
        help_heading = kafka::HEADING,
        env = "KAFKA_BOOTSTRAP_SERVERS",
        value_name = "HOST:PORT"
    )]
    bootstrap_servers: Option<String>,

    /// Extra librdkafka settings, key=value, one per line or separated by commas.
    #[arg(
        long,
        help_heading = kafka::HEADING,
        env = "KAFKA_PROPERTIES",
        default_value = "",
        hide_env_values = true,
        value_name = "PROPERTIES"
    )]
    kafka_properties: String,

    /// A pipeline file, or a folder of them.
    #[arg(long, env = "QUADRILLE_PIPELINE", default_value = PIPELINES_DEFAULT, value_name = "PATH")]
    pipeline: PathBuf,

    /// A model package, or a folder of packages named after their pipelines [default: trained on the spot].
    #[arg(long, env = "QUADRILLE_MODEL", value_name = "DIR")]
    model: Option<PathBuf>,

    /// What to train where there is no model.
    #[arg(long, default_value = "random-forest", value_parser = clap::builder::PossibleValuesParser::new(Algorithm::NAMES))]
    algorithm: String,

    /// Where results go [default: SQLite; temporary with the embedded broker].
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Where Kafka's data, models and results are kept.
    #[arg(
        long,
        env = "QUADRILLE_DATA_DIR",
        default_value = ".quadrille",
        value_name = "DIR"
    )]
    data_dir: PathBuf,

    /// A CSV file to train on and to replay [default: the bundled Pima data].
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,

    /// Records replayed a second; 0 replays none.
    #[arg(long, default_value_t = 10.0, value_name = "RECORDS/S")]
    rate: f64,

    /// The first of the four ports: ingest; the others follow.
    #[arg(long, default_value_t = Service::Ingest.port(), value_name = "PORT")]
    port: u16,
}

/// What the services are started with.
struct Plan {
    cluster: Cluster,
    pipelines: Vec<Arc<Pipeline>>,
    given: Given,
    port: u16,
}

/// Brings everything up, keeps it up until Ctrl-C, drains it.
///
/// # Errors
/// A setting is wrong, a port is taken, or a part cannot go on.
pub async fn run(args: Args) -> Result<(), Error> {
    if !(args.rate >= 0.0 && args.rate <= 100_000.0) {
        let rate = args.rate;
        return Err(Error::Config(format!(
            "--rate is {rate}; it must be 0 to 100000"
        )));
    }
    let pipelines = pipelines(&args.pipeline)?;
    let mut shutdown = std::pin::pin!(shutdown_signal());
    let temporary = tempfile::tempdir()
        .map_err(|error| Error::Failed(format!("no temporary folder: {error}")))?;
    let topics = pipelines.iter().flat_map(|it| broker::topics(it)).collect();
    let started = broker::start(&args, topics);
    let broker = tokio::select! {
        broker = started => broker?,
        () = &mut shutdown => return Ok(()),
    };
    if args.broker_only {
        let _ = output::print(format!(
            "Apache Kafka listens on {}; Ctrl-C ends it, its data stays in {}",
            broker.address(),
            args.data_dir.display()
        ))?;
        shutdown.await;
        return Ok(());
    }
    let plan = plan(&args, &broker, &temporary, pipelines).await?;
    services(&args, &plan, &broker, shutdown).await
}

/// The pipelines asked for, or the shipped one where the default folder is not there.
fn pipelines(path: &Path) -> Result<Vec<Arc<Pipeline>>, Error> {
    let found = match path == Path::new(PIPELINES_DEFAULT) && !path.exists() {
        true => Pipeline::parse(DIABETES.0, DIABETES.1).map(|pipeline| vec![pipeline]),
        false => Pipeline::load(path),
    };
    match found {
        Ok(pipelines) => {
            log_warnings(&pipelines);
            Ok(pipelines.into_iter().map(Arc::new).collect())
        }
        Err(error) => Err(Error::Config(format!("QUADRILLE_PIPELINE: {error}"))),
    }
}

async fn plan(
    args: &Args,
    broker: &broker::Broker,
    temporary: &TempDir,
    pipelines: Vec<Arc<Pipeline>>,
) -> Result<Plan, Error> {
    let home = match broker.keeps() {
        true => args.data_dir.clone(),
        false => temporary.path().to_owned(),
    };
    let model = match &args.model {
        Some(model) => model.clone(),
        None => {
            let folder = home.join("models");
            for pipeline in &pipelines {
                train_if_missing(args, pipeline, &folder).await?;
            }
            folder
        }
    };
    let database = home.join("results.db");
    let database_url = args.database_url.clone();
    Ok(Plan {
        cluster: broker.cluster().clone(),
        pipelines,
        given: Given {
            model,
            // A folder of state is of no use without the changelog that it is a cache of.
            state_dir: broker.keeps().then(|| home.join("state")),
            database_url: database_url.unwrap_or_else(|| format!("sqlite:{}", database.display())),
        },
        port: args.port,
    })
}

/// The CSV to train on and to replay: the user's, or Pima for the shipped pipeline.
fn data(args: &Args, pipeline: &Pipeline) -> Result<Option<Vec<u8>>, Error> {
    match &args.data {
        Some(path) => match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(Error::Config(format!("--data {}: {error}", path.display()))),
        },
        None if pipeline.name() == "diabetes" => Ok(Some(PIMA.to_vec())),
        None => Ok(None),
    }
}

async fn train_if_missing(
    args: &Args,
    pipeline: &Arc<Pipeline>,
    folder: &Path,
) -> Result<(), Error> {
    let place = folder.join(pipeline.name());
    if place.join("manifest.json").is_file() {
        return Ok(());
    }
    let Some(csv) = data(args, pipeline)? else {
        let name = pipeline.name();
        return Err(Error::Config(format!(
            "there is no model for pipeline {name}; train one with `quadrille train` and give it with --model, or give --data FILE.csv"
        )));
    };
    let algorithm: Algorithm = args
        .algorithm
        .parse()
        .map_err(|error| Error::Config(format!("--algorithm: {error}")))?;
    let folder = folder.to_owned();
    let pipeline = Arc::clone(pipeline);
    let (line, notes) = blocking(move || {
        std::fs::create_dir_all(&folder).map_err(|error| Error::Failed(error.to_string()))?;
        let options = training::Options::new(&pipeline, algorithm);
        let outcome = training::train(&pipeline, &csv, &options, &mut |_| {})?;
        let package = &outcome.package;
        package
            .save(&place, Overwrite::Refuse)
            .map_err(|error| Error::Failed(error.to_string()))?;
        let training = package.manifest().training.as_ref();
        let evaluated = training.map_or(String::new(), |training| {
            let metrics = &training.evaluation.metrics;
            format!(
                " on {} rows: cross-validated AUC {:.3}, accuracy {:.3}",
                training.rows, metrics.auc, metrics.accuracy
            )
        });
        let line = format!("model      {algorithm} trained{evaluated}");
        Ok((line, outcome.brief()))
    })
    .await?;
    for note in notes {
        // Of the bundled data there is nothing to note.
        let data = args.data.as_deref().unwrap_or(Path::new("the data"));
        output::note(format_args!("{}: {note}", data.display()));
    }
    let _ = output::print(&line)?;
    Ok(())
}

async fn services(
    args: &Args,
    plan: &Plan,
    broker: &broker::Broker,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (stop, stopping) = watch::channel(false);
    // The process's lines are not one service's.
    let logs = logs::Export::from_env("quadrille", "up").map_err(Error::Config)?;
    let mut running = JoinSet::new();
    for service in Service::ALL {
        start(&mut running, service, plan, &stopping)?;
    }
    let mut replay = JoinSet::new();
    for pipeline in &plan.pipelines {
        if args.rate > 0.0
            && let Some(csv) = data(args, pipeline)?
        {
            let pipeline = Arc::clone(pipeline);
            let cluster = plan.cluster.clone();
            replay.spawn(replay::run(cluster, pipeline, csv, args.rate));
        }
    }
    let summary = summary::show(plan, broker);
    let ended = tokio::select! {
        () = shutdown => None,
        ended = running.join_next() => ended,
        error = summary => Some(Ok(error)),
    };
    replay.abort_all();
    let _ = stop.send(true);
    let mut first = outcome(ended);
    while let Some(ended) = running.join_next().await {
        first = first.and(outcome(Some(ended)));
    }
    blocking(move || {
        logs.shutdown();
        Ok(())
    })
    .await?;
    if first.is_ok() {
        let _ = output::print("drained")?;
    }
    first
}

fn outcome(ended: Option<Result<Result<(), Error>, JoinError>>) -> Result<(), Error> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::Failed(format!("a service ended: {error}"))),
    }
}

fn start(
    running: &mut JoinSet<Result<(), Error>>,
    service: Service,
    plan: &Plan,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut stopping = stopping.clone();
    let shutdown = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    running.spawn(services::run(config(service, plan)?, &plan.given, shutdown));
    Ok(())
}

/// A service's own defaults, on this process's cluster and ports.
fn config(service: Service, plan: &Plan) -> Result<Config, Error> {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        args: quadrille_service::Args,
    }
    let defaults = Defaults::try_parse_from(["up"])
        .map_err(|error| Error::Config(error.to_string()))?
        .args;
    let offset = service.port() - Service::Ingest.port();
    let port = plan
        .port
        .checked_add(offset)
        .ok_or_else(|| Error::Config(format!("--port {} leaves no room for four", plan.port)))?;
    defaults.with(
        service,
        plan.cluster.clone(),
        plan.pipelines.clone(),
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    )
}
