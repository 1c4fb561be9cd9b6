//! Predictions into SQL, and the ways to read them: gRPC, REST and a page.
//!
//! Everything but the stage itself is free of Kafka: [`store`] knows rows and offsets but not who
//! consumed them, [`reader`] knows questions but no protocol, and [`grpc`] and [`rest`] know their
//! protocol but no SQL. Prost types do not pass [`wire`] and [`grpc`].

pub mod domain;
pub mod grpc;
mod page;
pub mod page_token;
pub mod reader;
pub mod rest;
mod stage;
pub mod store;
pub mod wire;

use std::{sync::Arc, time::Duration};

use quadrille_choreography::{Backoff, Delivery, ResumeFn, Stage as Running, StageOptions};
use quadrille_proto::v1::results_service_server::SERVICE_NAME;
use quadrille_service::{Assembly, Context, Error, Requests};
use tonic::service::Routes;

use crate::{
    stage::{Offsets, ResultsHandler},
    store::{AnyStore, Store, TopicIdentity},
};

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    /// `sqlite:` or `postgres:`.
    pub database_url: String,
}

/// Runs the service until `shutdown`, then drains it.
///
/// # Errors
/// A setting turned out wrong, the database belongs to another Kafka, or the service cannot go on.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let url = config.database_url;
    let mut opened = None;
    let store = &mut opened;
    let result = quadrille_service::run(config.service, shutdown, |context| async move {
        let database = open(&url).await?;
        *store = Some(database.clone());
        assemble(context, database).await
    })
    .await;
    if let Some(store) = opened {
        store.close().await;
    }
    result
}

/// Opens the database; waits for it as long as it does not answer.
async fn open(url: &str) -> Result<AnyStore, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match AnyStore::open(url).await {
            Ok(store) => return Ok(store),
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(Error::Config(format!("DATABASE_URL: {error}"))),
        }
    }
}

async fn assemble(context: Context, store: AnyStore) -> Result<Assembly, Error> {
    let mut stages = Vec::new();
    for pipeline in &context.config.pipelines {
        let topics = context.prepare(pipeline).await?;
        let mut config = context.config.stage_config(pipeline);
        // The database's transaction is what makes it exactly once; dead letters are confirmed before it.
        config.delivery = Delivery::AtLeastOnce;
        let identity: TopicIdentity = context.topic_identity(&config.input).await?.into();
        let partitions: Vec<i32> = (0..topics.partitions).collect();
        store
            .claim(&identity, &partitions)
            .await
            .map_err(|error| Error::Config(format!("DATABASE_URL: {error}")))?;
        let offsets = Arc::new(Offsets::new(store.clone(), identity));
        let resume: Arc<ResumeFn> = {
            let offsets = Arc::clone(&offsets);
            Arc::new(move |partitions| offsets.claim(partitions).map_err(|error| error.to_string()))
        };
        let metrics = context.stage_metrics(&config);
        let options = StageOptions {
            config,
            topics,
            metrics,
            tracing: context.tracing.clone(),
            resume: Some(resume),
        };
        stages.push(Running::start(options, |_| {
            ResultsHandler::new(pipeline, context.schemas.clone(), Arc::clone(&offsets))
        })?);
    }
    let names: Vec<String> = context
        .config
        .pipelines
        .iter()
        .map(|pipeline| pipeline.name().to_owned())
        .collect();
    Ok(Assembly {
        stages,
        http: rest::router(store.clone(), names.clone()),
        grpc: Routes::new(grpc::grpc(store, names)),
        services: vec![SERVICE_NAME],
        requests: Requests::OutliveKafka,
        ready: None,
    })
}

impl From<quadrille_choreography::TopicIdentity> for TopicIdentity {
    fn from(identity: quadrille_choreography::TopicIdentity) -> Self {
        TopicIdentity {
            cluster_id: identity.cluster_id,
            topic: identity.topic,
            topic_id: identity.topic_id,
        }
    }
}
