//! The four services in one process, each by its own `run`.

use std::path::PathBuf;

use quadrille_proto::Service;
use quadrille_service::{Boxed, Config, Error};

/// What some services are given beside the settings that all have.
#[derive(Debug, Clone)]
pub struct Given {
    /// For inference: a model package's directory, or one that holds a package for each pipeline.
    pub model: PathBuf,
    /// For feature: where the state of pipelines that look back is kept; None: in memory alone.
    pub state_dir: Option<PathBuf>,
    /// For results: `sqlite:` or `postgres:`.
    pub database_url: String,
}

/// Runs the service that `config` names until `shutdown`, then drains it; what is not given has its default.
///
/// # Errors
/// As the service's own `run`.
pub fn run(
    config: Config,
    given: &Given,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Boxed<'static, Result<(), Error>> {
    match config.service {
        Service::Ingest => Box::pin(ingest::run(
            ingest::Config {
                service: config,
                bounds: ingest::Bounds::default(),
            },
            shutdown,
        )),
        Service::Feature => Box::pin(feature::run(
            feature::Config {
                service: config,
                state: feature::StateSettings {
                    folder: given.state_dir.clone(),
                    ..feature::StateSettings::default()
                },
            },
            shutdown,
        )),
        Service::Inference => Box::pin(inference::run(
            inference::Config {
                service: config,
                model: Some(given.model.clone()),
                batching: inference::serving::Batching::default(),
                limits: inference::Limits::default(),
            },
            shutdown,
        )),
        Service::Results => Box::pin(results::run(
            results::Config {
                service: config,
                database_url: given.database_url.clone(),
            },
            shutdown,
        )),
    }
}
