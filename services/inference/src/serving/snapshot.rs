//! What serves at one moment. The loader replaces it as a whole; lanes and doors read it.

use std::{cmp::Ordering, sync::Arc};

use quadrille_pipeline::Pipeline;
use quadrille_registry::{Deployment, Pick, Route, Split};
use quadrille_telemetry::metrics::{ServingMetrics, VariantMetrics};
use sha2::{Digest, Sha256};

use super::{Loaded, ModelStatus, Standing};

/// A route with the model behind it.
pub struct Variant {
    pub name: String,
    pub loaded: Arc<Loaded>,
    /// Of a row of its outputs.
    pub width: usize,
    /// SHA-256 of the canonical pipeline and the model package's hash.
    pub config_hash: [u8; 32],
    pub metrics: VariantMetrics,
}

/// A deployment in effect: every route's model is ready.
pub struct Routes {
    pub revision: u64,
    pub split: Split,
    /// In the deployment's order.
    pub variants: Vec<Variant>,
}

impl Routes {
    /// `loaded` are the routes' models, in their order.
    pub(super) fn new(
        pipeline: &Pipeline,
        deployment: &Deployment,
        split: Split,
        loaded: Vec<Arc<Loaded>>,
        metrics: &ServingMetrics,
    ) -> Self {
        let variant = |(route, loaded): (&Route, Arc<Loaded>)| {
            let id = loaded.id();
            Variant {
                name: route.name.clone(),
                config_hash: Sha256::new()
                    .chain_update(pipeline.canonical())
                    .chain_update(loaded.hash())
                    .finalize()
                    .into(),
                width: loaded.model().outputs().width(),
                metrics: metrics.variant(pipeline.name(), &route.name, &id.name, &id.version),
                loaded,
            }
        };
        Routes {
            revision: deployment.revision,
            split,
            variants: deployment.routes.iter().zip(loaded).map(variant).collect(),
        }
    }

    pub fn variant(&self, pick: Pick) -> &Variant {
        // A split is made of the same routes.
        &self.variants[pick.route]
    }
}

/// What serves at one moment.
pub(super) struct Snapshot {
    /// One a pipeline, in their order.
    pub routes: Vec<Option<Arc<Routes>>>,
    /// Every version that is ready, by name, then from the lowest version to the highest.
    pub models: Vec<Arc<Loaded>>,
    pub statuses: Vec<ModelStatus>,
    pub standings: Vec<Standing>,
}

impl Snapshot {
    pub fn empty(pipelines: &[Arc<Pipeline>]) -> Self {
        let standing = |pipeline: &Arc<Pipeline>| Standing {
            pipeline: pipeline.name().to_owned(),
            seen: None,
            serving: None,
            why: Some("the log of deployments was not read yet".to_owned()),
        };
        Snapshot {
            routes: pipelines.iter().map(|_| None).collect(),
            models: Vec::new(),
            statuses: Vec::new(),
            standings: pipelines.iter().map(standing).collect(),
        }
    }
}

/// The order of versions: numbers in them compare as numbers.
pub(super) fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (one, two) = (part(&mut a), part(&mut b));
        let order = match (one, two) {
            ("", "") => return Ordering::Equal,
            (one, two) if one.starts_with(digit) && two.starts_with(digit) => {
                let (short, other) = (one.trim_start_matches('0'), two.trim_start_matches('0'));
                let by_value = short.len().cmp(&other.len()).then(short.cmp(other));
                // Zeros in front are a tie that is told apart, so that the order is total.
                by_value.then(one.len().cmp(&two.len()))
            }
            (one, two) => one.cmp(two),
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// Takes what is of one kind, digits or none, from the front.
fn part<'t>(text: &mut &'t str) -> &'t str {
    let numeric = text.starts_with(digit);
    let end = text.find(|c: char| digit(c) != numeric);
    let (front, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    front
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_versions_compare_as_numbers() {
        let mut versions = ["10", "9", "1.10", "1.9", "v2", "2024-01", "v10", "", "09"];
        versions.sort_by(|a, b| by_version(a, b));
        assert_eq!(
            versions,
            ["", "1.9", "1.10", "9", "09", "10", "2024-01", "v2", "v10"]
        );
    }

    proptest! {
        #[test]
        fn the_order_of_versions_is_total(a in "[0-2a.]{0,4}", b in "[0-2a.]{0,4}", c in "[0-2a.]{0,4}") {
            prop_assert_eq!(by_version(&a, &b), by_version(&b, &a).reverse());
            prop_assert_eq!(by_version(&a, &b).is_eq(), a == b);
            if by_version(&a, &b).is_le() && by_version(&b, &c).is_le() {
                prop_assert!(by_version(&a, &c).is_le());
            }
        }
    }
}
