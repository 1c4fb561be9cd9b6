//! The versions that are wanted, and how far each is; metrics show the same.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_choreography::Backoff;
use quadrille_registry::ModelId;
use quadrille_telemetry::metrics::{self, ServingMetrics};

use super::loads;
use crate::{
    engine::Loaded,
    serving::load::{self, Step},
};

/// Between attempts at a package that could not be fetched.
const FETCH_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A wanted version.
pub(super) enum Version {
    Wanted,
    Loading {
        backoff: Backoff,
    },
    Ready(Arc<Loaded>),
    Failed {
        error: load::Error,
        /// None: when the log changes.
        again_at: Option<Instant>,
        backoff: Backoff,
    },
}

impl Version {
    fn state(&self) -> metrics::ModelState {
        match self {
            Version::Wanted => metrics::ModelState::Wanted,
            Version::Loading { .. } => metrics::ModelState::Loading,
            Version::Ready(_) => metrics::ModelState::Ready,
            Version::Failed { .. } => metrics::ModelState::Failed,
        }
    }

    /// Whether it has failed and is not tried again before the log changes.
    pub fn is_hopeless(&self) -> bool {
        matches!(self, Version::Failed { again_at: None, .. })
    }
}

pub(super) fn first_backoff() -> Backoff {
    Backoff::new(FETCH_AGAIN.0, FETCH_AGAIN.1)
}

pub(super) struct Versions {
    versions: BTreeMap<ModelId, Version>,
    metrics: ServingMetrics,
}

impl Versions {
    pub fn new(metrics: ServingMetrics) -> Self {
        Versions {
            versions: BTreeMap::new(),
            metrics,
        }
    }

    pub fn get(&self, id: &ModelId) -> Option<&Version> {
        self.versions.get(id)
    }

    pub fn iter(&self) -> btree_map::Iter<'_, ModelId, Version> {
        self.versions.iter()
    }

    pub fn set(&mut self, id: &ModelId, version: Version) {
        let state = Some(version.state());
        self.metrics.state(&id.name, &id.version, state);
        self.versions.insert(id.clone(), version);
    }

    /// The versions to be loaded now.
    pub fn due(&self, now: Instant) -> Vec<ModelId> {
        let due = |version: &Version| match version {
            Version::Wanted => true,
            Version::Failed { again_at, .. } => again_at.is_some_and(|at| at <= now),
            Version::Loading { .. } | Version::Ready(_) => false,
        };
        let due = self.versions.iter().filter(|(_, version)| due(version));
        due.map(|(id, _)| id.clone()).collect()
    }

    /// A version is being loaded; one that has failed goes on with its backoff.
    pub fn loading(&mut self, id: &ModelId) {
        let backoff = match self.versions.remove(id) {
            Some(Version::Failed { backoff, .. }) => backoff,
            _ => first_backoff(),
        };
        self.set(id, Version::Loading { backoff });
    }

    /// The backoff of a version that is being loaded; None for any other, which stays as it is. What the load came to is to be set.
    pub fn loaded(&mut self, id: &ModelId) -> Option<Backoff> {
        match self.versions.remove(id) {
            Some(Version::Loading { backoff }) => Some(backoff),
            other => {
                let kept = other.map(|version| (id.clone(), version));
                self.versions.extend(kept);
                None
            }
        }
    }

    pub fn failed(
        &mut self,
        id: &ModelId,
        error: loads::Error,
        mut backoff: Backoff,
        now: Instant,
    ) {
        let (error, again_at) = match error {
            loads::Error::Unreachable(why) => {
                let again_at = now + backoff.next_wait();
                (load::Error::at(Step::Fetch, why), Some(again_at))
            }
            loads::Error::Failed(error) => (error, None),
        };
        self.metrics.load_failed(error.step.name());
        tracing::warn!(
            model = id.name,
            version = id.version,
            step = error.step.name(),
            why = error.why,
            "model version not taken into service"
        );
        let version = Version::Failed {
            error,
            again_at,
            backoff,
        };
        self.set(id, version);
    }

    /// When the log has changed, what failed may succeed.
    pub fn forget_failures(&mut self) {
        let metrics = &self.metrics;
        self.versions.retain(|id, version| {
            let keeps = !version.is_hopeless();
            if !keeps {
                metrics.state(&id.name, &id.version, None);
            }
            keeps
        });
    }

    /// Lets go of a version; what was loaded is to be drained.
    pub fn release(&mut self, id: &ModelId) -> Option<Arc<Loaded>> {
        self.metrics.state(&id.name, &id.version, None);
        match self.versions.remove(id) {
            Some(Version::Ready(loaded)) => Some(loaded),
            _ => None,
        }
    }

    /// When failed versions are to be tried again. What is due and not begun waits for a load to end, which is news by itself.
    pub fn again_at(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.versions
            .values()
            .filter_map(move |version| match version {
                Version::Failed { again_at, .. } => again_at.filter(|at| *at > now),
                _ => None,
            })
    }
}
