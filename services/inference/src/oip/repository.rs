//! The extension for the repository of models: what there is, and whether it is loaded. What is to be loaded is for deployments to say.

use quadrille_pipeline::quote::quote;
use quadrille_proto::oip::repository_index_response::ModelIndex;

use crate::{
    scoring::{Error, Scorer},
    serving::ModelState,
};

/// Models and pipelines, and how far each is.
///
/// # Errors
/// There is no such repository.
pub(super) fn index(
    scorer: &Scorer,
    repository: &str,
    ready: bool,
) -> Result<Vec<ModelIndex>, Error> {
    one_repository(repository)?;
    let models = scorer.serving.models().into_iter().map(|model| {
        let (state, reason) = match model.state {
            ModelState::Ready => ("READY", String::new()),
            ModelState::Loading => ("LOADING", String::new()),
            ModelState::Wanted => ("UNAVAILABLE", "waits to be loaded".to_owned()),
            ModelState::Failed { why } => ("UNAVAILABLE", why),
        };
        entry(model.id.name, model.id.version, state, reason)
    });
    let pipelines = scorer.serving.pipelines().iter().map(|pipeline| {
        let name = pipeline.name().to_owned();
        match scorer.serving.choose(&name, None, None) {
            Ok(_) => entry(name, String::new(), "READY", String::new()),
            Err(error) => entry(name, String::new(), "UNAVAILABLE", error.to_string()),
        }
    });
    let all = models.chain(pipelines);
    Ok(all.filter(|it| !ready || it.state == "READY").collect())
}

/// Says whether a model is loaded.
///
/// # Errors
/// It is not, and how it will be.
pub(super) fn load(
    scorer: &Scorer,
    repository: &str,
    name: &str,
    parameters: bool,
) -> Result<(), Error> {
    one_repository(repository)?;
    if parameters {
        return Err(Error::invalid(
            "a model's configuration is in its package; push a package with `quadrille model push`, and send no parameters",
        ));
    }
    scorer.ready(name, "").map_err(|error| match error {
        Error::Unknown(message) => Error::Unknown(format!(
            "{message}; a replica loads what its deployments need: `quadrille model push`, then `quadrille deploy set`"
        )),
        other => other,
    })
}

/// Says whether a model is gone.
///
/// # Errors
/// It is not, and how it goes.
pub(super) fn unload(scorer: &Scorer, repository: &str, name: &str) -> Result<(), Error> {
    one_repository(repository)?;
    match scorer.target(name, "") {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::Conflict(format!(
            "{name:?} serves; a model is unloaded once no deployment routes to it: `quadrille deploy set`"
        ))),
    }
}

fn one_repository(name: &str) -> Result<(), Error> {
    match name {
        "" => Ok(()),
        _ => Err(Error::Unknown(format!(
            "no repository {}; there is one, without a name",
            quote(name)
        ))),
    }
}

fn entry(name: String, version: String, state: &str, reason: String) -> ModelIndex {
    ModelIndex {
        name,
        version,
        state: state.to_owned(),
        reason,
    }
}
