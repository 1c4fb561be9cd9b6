//! Packages on this machine: what serves a pipeline until there is a deployment of it.

use std::{path::Path, sync::Arc};

use quadrille_model::{Package, package::MANIFEST_FILE};
use quadrille_pipeline::Pipeline;
use quadrille_registry::{Action, Deployment, ModelId, Role, Route};
use quadrille_service::Error;

use super::fit::check;

/// The variant of what serves without a deployment.
pub const LOCAL: &str = "local";

/// Loads each pipeline's package: the one named after it below `path`, or the one that `path` is. None where a
/// folder of packages has none for it.
///
/// # Errors
/// There is no package at all, one is damaged, or it does not fit its pipeline; the message names the difference.
pub fn load(pipelines: &[Arc<Pipeline>], path: &Path) -> Result<Vec<Option<Package>>, Error> {
    let packages = pipelines
        .iter()
        .map(|pipeline| of(pipeline, path))
        .collect::<Result<Vec<_>, _>>()?;
    if packages.iter().all(Option::is_none) {
        return Err(Error::Config(format!(
            "QUADRILLE_MODEL {}: there is no model package, and none in a folder named after a pipeline; `quadrille train` writes one",
            path.display()
        )));
    }
    Ok(packages)
}

fn of(pipeline: &Pipeline, path: &Path) -> Result<Option<Package>, Error> {
    let dirs = [path.join(pipeline.name()), path.to_owned()];
    let Some(dir) = dirs.iter().find(|dir| dir.join(MANIFEST_FILE).is_file()) else {
        return Ok(None);
    };
    let package = Package::load(dir).map_err(|error| {
        Error::Config(format!(
            "QUADRILLE_MODEL {}: {error}; `quadrille train` writes a model package",
            dir.display()
        ))
    })?;
    check(pipeline, &*package.model()).map_err(|difference| {
        Error::Config(format!(
            "QUADRILLE_MODEL does not fit pipeline {}: {difference}",
            pipeline.name()
        ))
    })?;
    Ok(Some(package))
}

/// A deployment of the one local model, before any that is on the log.
pub(super) fn deployment(pipeline: &str, model: ModelId) -> Deployment {
    Deployment {
        pipeline: pipeline.to_owned(),
        revision: 0,
        routes: vec![Route {
            name: LOCAL.to_owned(),
            model,
            role: Role::Live { weight: 1 },
        }],
        ranges: None,
        action: Action::Set,
        by: LOCAL.to_owned(),
        at_ms: 0,
        reason: "QUADRILLE_MODEL".to_owned(),
    }
}
