//! Predictions out of features: for the stream and for requests, by the same deployments.
//!
//! It knows a model by its trait only, not what it is made of. Adapters stand beside each other on a core that knows no protocol:
//!
//! ```text
//!   stage (Kafka)      oip    tfs    predict
//!     │                 └──────┼────────┘
//!   shadows                transport
//!     │                        │
//!     │                     scoring ──► tensor
//!     └───────────┬────────────┘
//!              serving
//!                 │
//!              engine
//! ```
#![forbid(unsafe_code)]

mod args;
mod engine;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod layers;
mod oip;
mod predict;
mod scoring;
pub mod serving;
mod shadows;
mod stage;
mod tensor;
mod tfs;
mod transport;

use std::{path::PathBuf, sync::Arc, time::Duration};

use quadrille_service::{
    Assembly, Boxed, Calls, Context, Drain, Error, MessageMax, Requests, Task,
};
use quadrille_telemetry::metrics::ServingMetrics;

pub use args::Cli;
use scoring::Scorer;
use serving::{Batching, Loader, Log, Options, Serving, local};
pub use stage::InferenceHandler;
pub use tensor::Limits;
use transport::view_age;

/// How long others may take to hear that this replica has gone: Kafka may be unreachable, or a package on its way.
const LOADER_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    /// A model package's directory, or one that holds a package for each pipeline under its name.
    /// None: what is deployed serves, and nothing else.
    pub model: Option<PathBuf>,
    pub batching: Batching,
    /// Of one request.
    pub limits: Limits,
}

/// Runs the service until `shutdown`, then drains it.
///
/// # Errors
/// The model does not fit its pipeline, a setting turned out wrong, or the service cannot go on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    boxed(config, Box::pin(shutdown)).await
}

fn boxed<'a>(config: Config, shutdown: Boxed<'a, ()>) -> Boxed<'a, Result<(), Error>> {
    Box::pin(serve(config, shutdown))
}

async fn serve(config: Config, shutdown: Boxed<'_, ()>) -> Result<(), Error> {
    let http = &config.service.http;
    http.check_body("QUADRILLE_REQUEST_BYTES", config.limits.bytes_max)?;
    let pipelines = config.service.pipelines.clone();
    let batching = config.batching;
    let limits = config.limits;
    quadrille_proto::allow_elements(limits.values_max);
    let local = match &config.model {
        Some(path) => local::load(&pipelines, path)?,
        None => pipelines.iter().map(|_| None).collect(),
    };
    quadrille_service::run(config.service, shutdown, |context| async move {
        let config = &context.config;
        let log = Log::follow(&config.cluster, config.service.name(), &config.instance())?;
        let loader = Loader::new(Options {
            pipelines,
            local,
            source: Arc::new(log),
            metrics: ServingMetrics::register(&context.registry),
            batching,
        })
        .map_err(|error| Error::Failed(format!("models: {error}")))?;
        let serving = loader.serving();
        let ready = serving.clone();
        // Lanes and requests are answered by its models, so it ends after them.
        let task = Task::new("models", Drain::AfterRequests, LOADER_ENDS_WITHIN)
            .ready(move || ready.ready());
        let loader = loader.spawn();
        let loader = loader.map_err(|error| Error::Failed(format!("loader: {error}")))?;
        context.spawn(task, |stop| loader.until(stop));
        assemble(context, serving, limits).await
    })
    .await
}

async fn assemble(context: Context, serving: Serving, limits: Limits) -> Result<Assembly, Error> {
    for (place, pipeline) in serving.pipelines().iter().enumerate() {
        let stage = context.stage(pipeline).await?;
        context.run(stage, |_| {
            InferenceHandler::new(serving.clone(), place, context.schemas.clone())
        })?;
    }
    let aged = serving.clone();
    let scorer = Scorer {
        serving,
        limits,
        tracing: context.tracing.clone(),
    };
    Ok(Assembly {
        http: view_age::with_view_age(
            oip::rest::router(scorer.clone()).merge(tfs::router(scorer.clone())),
            aged.clone(),
        ),
        grpc: Calls::default()
            .with(predict::service(scorer.clone()))
            .with(oip::grpc::service(scorer))
            .with_response_headers(move |headers| view_age::insert_view_age(headers, &aged)),
        message_max: MessageMax {
            bytes: limits.bytes_max,
            setting: Some("QUADRILLE_REQUEST_BYTES"),
        },
        requests: Requests::OutliveKafka,
    })
}
