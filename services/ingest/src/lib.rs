//! Records in: the Kafka inbox, HTTP and gRPC, all read by the pipeline file's rules.
//!
//! It knows no feature and no model. An acknowledgement means that Kafka confirmed the record.
#![forbid(unsafe_code)]

mod args;
mod grpc;
mod http;
mod intake;
mod source;
mod stage;
#[cfg(test)]
mod toy;

use std::sync::Arc;

use quadrille_proto::v1::ingest_service_server::IngestServiceServer;
use quadrille_service::{Assembly, Boxed, Calls, Context, Error, MessageMax, Requests};

use intake::{Intake, Intakes};

pub use args::Cli;
pub use intake::Bounds;
pub use stage::InboxHandler;

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    pub bounds: Bounds,
}

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
    let bounds = config.bounds;
    let http = &config.service.http;
    http.check_body("QUADRILLE_BODY_BYTES", bounds.body_bytes_max)?;
    quadrille_service::run(config.service, shutdown, |context| {
        assemble(context, bounds)
    })
    .await
}

async fn assemble(context: Context, bounds: Bounds) -> Result<Assembly, Error> {
    let intakes = open(&context, bounds).await?;
    let pushes = intakes.clone();
    context.check("pushes", move || pushes.ready());
    let message_max = MessageMax {
        bytes: bounds
            .body_bytes_max
            .max(bounds.record_bytes_max.saturating_mul(2)),
        setting: Some("QUADRILLE_BODY_BYTES"),
    };
    let service = IngestServiceServer::new(grpc::Ingest {
        intakes: intakes.clone(),
    })
    .max_decoding_message_size(message_max.bytes);
    Ok(Assembly {
        http: http::router(intakes, bounds),
        grpc: Calls::default().with(service),
        message_max,
        requests: Requests::NeedKafka,
    })
}

/// Starts the stages that read the inboxes, and opens the ways in beside them.
async fn open(context: &Context, bounds: Bounds) -> Result<Intakes, Error> {
    let mut intakes = Vec::new();
    for pipeline in &context.config.pipelines {
        let stage = context.stage(pipeline).await?;
        let intake = Intake::open(
            Arc::clone(pipeline),
            &stage.config,
            &stage.topics,
            bounds,
            context.tracing.clone(),
        )
        .map_err(|error| Error::Failed(error.to_string()))?;
        intakes.push(intake);
        let identity = stage.topics.identity.clone();
        context.run(stage, |_| {
            InboxHandler::new(Arc::clone(pipeline), bounds, identity.clone())
        })?;
    }
    Ok(intakes.into_iter().collect())
}
