//! Predictions out of features: the stream's stage and `PredictService`, by one scorer.
//!
//! It knows a model by its trait only, not what it is made of.
#![forbid(unsafe_code)]

mod grpc;
mod rest;
mod scorer;
mod stage;

use std::{path::PathBuf, sync::Arc};

use quadrille_choreography::{Stage as Running, StageOptions};
use quadrille_proto::v1::predict_service_server::{PredictServiceServer, SERVICE_NAME};
use quadrille_service::{Assembly, Context, Error};
use quadrille_telemetry::metrics::ModelMetrics;
use tonic::service::Routes;

pub use scorer::Scorer;
pub use stage::InferenceHandler;

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    /// A model package's directory, or one that holds a package for each pipeline under its name.
    pub model: PathBuf,
}

/// Runs the service until `shutdown`, then drains it.
///
/// # Errors
/// The model does not fit its pipeline, a setting turned out wrong, or the service cannot go on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let scorers: Vec<Arc<Scorer>> = config
        .service
        .pipelines
        .iter()
        .map(|pipeline| Scorer::load(Arc::clone(pipeline), &config.model).map(Arc::new))
        .collect::<Result<_, _>>()?;
    quadrille_service::run(config.service, shutdown, |context| {
        assemble(context, scorers)
    })
    .await
}

async fn assemble(context: Context, scorers: Vec<Arc<Scorer>>) -> Result<Assembly, Error> {
    let models = ModelMetrics::register(&context.registry);
    let scorers: Vec<_> = scorers
        .into_iter()
        .map(|scorer| {
            let times = models.of(scorer.pipeline().name(), scorer.model(), scorer.version());
            (scorer, times)
        })
        .collect();
    let mut stages = Vec::new();
    for (scorer, times) in &scorers {
        let pipeline = scorer.pipeline();
        let topics = context.prepare(pipeline).await?;
        context.publish(pipeline.prediction_schema()).await?;
        let config = context.config.stage_config(pipeline);
        let metrics = context.stage_metrics(&config);
        let options = StageOptions {
            config,
            topics,
            metrics,
            tracing: context.tracing.clone(),
            resume: None,
        };
        stages.push(Running::start(options, |_| {
            InferenceHandler::new(Arc::clone(scorer), times.clone(), context.schemas.clone())
        })?);
    }
    let pipelines = context.config.pipelines.clone();
    Ok(Assembly {
        stages,
        http: rest::router(&scorers),
        grpc: Routes::new(PredictServiceServer::new(grpc::Predict {
            pipelines,
            scorers,
            tracing: context.tracing.clone(),
        })),
        services: vec![SERVICE_NAME],
        ready: None,
    })
}
