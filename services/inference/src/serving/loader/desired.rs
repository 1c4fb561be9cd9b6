//! What a pipeline should be served by.

use quadrille_registry::{Action, Deployment, ModelId, Split};

/// A deployment to bring into effect.
pub(super) struct Desired {
    pub deployment: Deployment,
    /// Why it cannot be, whatever is loaded.
    pub split: Result<Split, String>,
    /// An earlier one that serves meanwhile, where nothing does and this one has failed.
    pub fallback: Option<Box<Desired>>,
}

impl Desired {
    pub fn new(deployment: Deployment) -> Self {
        let split = match deployment.action {
            // What serves goes on, so that no record is without an answer; a replica that starts has nothing to serve, not its local model
            // either, which others would not have.
            Action::Unset => Err(format!(
                "the pipeline's deployment was removed by {}; deploy a version",
                deployment.by
            )),
            _ => Split::of(&deployment).map_err(|error| error.to_string()),
        };
        Desired {
            split,
            deployment,
            fallback: None,
        }
    }

    pub fn is_local(&self) -> bool {
        self.deployment.revision == 0
    }

    /// The versions to be had from the log for itself.
    pub fn own_models(&self) -> impl Iterator<Item = &ModelId> {
        let wanted = self.split.is_ok() && !self.is_local();
        let routes = self.deployment.routes.iter().filter(move |_| wanted);
        routes.map(|route| &route.model)
    }

    /// The versions to be had from the log.
    pub fn models(&self) -> impl Iterator<Item = &ModelId> {
        let fallback = self.fallback.iter().flat_map(|it| it.own_models());
        self.own_models().chain(fallback)
    }
}
