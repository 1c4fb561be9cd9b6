//! Features out of records: the stream's stage, and the same features on request over gRPC.
//!
//! It knows no model: a feature vector serves every model that reads its pipeline.
#![forbid(unsafe_code)]

mod args;
mod grpc;
mod stage;

use std::sync::Arc;

use quadrille_proto::v1::feature_service_server::FeatureServiceServer;
use quadrille_service::{Assembly, Boxed, Calls, Config, Context, Error, MessageMax, Requests};

pub use args::Cli;
pub use stage::FeatureHandler;

/// Runs the service until `shutdown`, then drains it.
///
/// # Errors
/// A setting turned out wrong, or the service cannot go on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    boxed(config, Box::pin(shutdown)).await
}

fn boxed<'a>(config: Config, shutdown: Boxed<'a, ()>) -> Boxed<'a, Result<(), Error>> {
    Box::pin(serve(config, shutdown))
}

async fn serve(config: Config, shutdown: Boxed<'_, ()>) -> Result<(), Error> {
    quadrille_service::run(config, shutdown, assemble).await
}

async fn assemble(context: Context) -> Result<Assembly, Error> {
    for pipeline in &context.config.pipelines {
        let stage = context.stage(pipeline).await?;
        context.run(stage, |_| {
            FeatureHandler::new(Arc::clone(pipeline), context.schemas.clone())
        })?;
    }
    let service = grpc::Features {
        pipelines: context.config.pipelines.clone(),
        tracing: context.tracing.clone(),
    };
    Ok(Assembly {
        http: axum::Router::new(),
        grpc: Calls::default().with(FeatureServiceServer::new(service)),
        message_max: MessageMax::default(),
        requests: Requests::OutliveKafka,
    })
}
