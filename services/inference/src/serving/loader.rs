//! Brings model versions into service: fetch, verify, load, check, warm up, swap, drain, drop.
//!
//! One thread decides. It looks at the whole log each time something changes or a version has been loaded, and makes what
//! serves follow it, so it has no state that could contradict the log: what was rolled back while it was loaded does not
//! go live. Versions are loaded beside each other on threads of their own ([`loads`]), so that no deployment waits for
//! another one's download. What fails leaves what serves as it is, and says why.

mod desired;
mod loads;
mod versions;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_registry::{Action, ModelId, REPORT_EVERY, compare_versions};
use quadrille_telemetry::metrics::{self, ServingMetrics};
use tokio::sync::Notify;

use self::{
    desired::Desired,
    loads::{Finished, Loads},
    versions::{Version, Versions, first_backoff},
};
use super::{
    current::Serving,
    fit,
    load::{self, Step},
    local,
    snapshot::{Routes, Snapshot, Variant},
    source::{Report, Source, View},
    status::{ModelState, ModelStatus, PipelineStatus},
};
use crate::engine::{Batching, Loaded};

/// How often the log is asked at the start whether it was read to its end, and old models whether they are free.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What the loader works with.
pub struct Options {
    pub pipelines: Vec<Arc<Pipeline>>,
    /// One for each pipeline, in their order: what serves it until it has a deployment.
    pub local: Vec<Option<Package>>,
    pub source: Arc<dyn Source>,
    pub metrics: ServingMetrics,
    pub batching: Batching,
}

/// Makes what serves follow the log.
pub struct Loader {
    pipelines: Vec<Arc<Pipeline>>,
    source: Arc<dyn Source>,
    metrics: ServingMetrics,
    loads: Loads,
    serving: Serving,
    local: Vec<Option<Arc<Loaded>>>,
    versions: Versions,
    routes: Vec<Option<Arc<Routes>>>,
    statuses: Vec<PipelineStatus>,
    /// Out of service; dropped here, not by the lane that lets go of them last.
    draining: Vec<Arc<Loaded>>,
    /// The log's count of changes at the last look.
    seen: Option<u64>,
    /// Whether the log was read to its end once: before that its newest deployment is an old one.
    begun: bool,
    reported: Option<(Report, Instant)>,
}

impl Loader {
    /// # Errors
    /// The system refuses an expensive model's threads.
    pub fn new(options: Options) -> std::io::Result<Self> {
        let Options {
            pipelines,
            local,
            source,
            metrics,
            batching,
        } = options;
        let loaded = |package: &Package| {
            let loaded = Arc::new(Loaded::new(package, &batching, &metrics)?);
            let ModelId { name, version } = loaded.id();
            metrics.state(name, version, Some(metrics::ModelState::Ready));
            Ok(loaded)
        };
        let local = local.iter().map(|it| it.as_ref().map(loaded).transpose());
        let local = local.collect::<std::io::Result<_>>()?;
        Ok(Loader {
            serving: Serving::new(pipelines.clone(), Arc::clone(&source)),
            local,
            versions: Versions::new(metrics.clone()),
            routes: pipelines.iter().map(|_| None).collect(),
            statuses: Snapshot::empty(&pipelines).pipelines,
            draining: Vec::new(),
            seen: None,
            begun: false,
            reported: None,
            loads: Loads::new(Arc::clone(&source), batching, metrics.clone()),
            pipelines,
            source,
            metrics,
        })
    }

    /// What it brings into service.
    pub fn serving(&self) -> Serving {
        self.serving.clone()
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source)
    }

    /// Notified whenever a load is over.
    pub(super) fn loads_finished(&self) -> Arc<Notify> {
        self.loads.finished()
    }

    /// Makes what serves follow the log, waiting for all that can be loaded now; returns when to look again if nothing changes.
    pub fn settle(&mut self, now: Instant) -> Instant {
        loop {
            let again_at = self.reconcile(now);
            if !self.loads.wait() {
                return again_at;
            }
        }
    }

    /// Makes what serves follow the log as far as versions are loaded, and begins to load others; never waits for one. Returns when to
    /// look again if nothing changes and nothing has been loaded.
    pub fn reconcile(&mut self, now: Instant) -> Instant {
        if !self.begun {
            if let Err(why) = self.source.caught_up() {
                for status in &mut self.statuses {
                    status.why = Some(why.clone());
                }
                self.publish(now);
                return now + LOOK_EVERY;
            }
            self.begun = true;
        }
        // The count first: what changes after it is seen again.
        let count = *self.source.changed().borrow();
        let mut news = self.seen.replace(count) != Some(count);
        if news {
            self.versions.forget_failures();
        }
        let view = self.source.view();
        let finished = self.loads.take();
        let mut desired = self.desired(&view);
        for finished in finished {
            self.finish(finished, &view, &desired, now);
        }
        loop {
            // What has failed may call for an earlier deployment.
            desired = self.desired(&view);
            self.want(&desired, &view, std::mem::take(&mut news));
            self.take_effect(&desired, &view);
            if !self.begin_loads(&view, now) {
                break;
            }
        }
        self.forget(&desired);
        self.publish(now);
        self.metrics.view_age(self.source.age());
        // The snapshot before this one is gone, unless somebody looks at it.
        self.draining.retain(|loaded| Arc::strong_count(loaded) > 1);
        self.again_at(now)
    }

    /// What each pipeline should be served by; None: nothing is deployed, and there is no local model.
    fn desired(&self, view: &View) -> Vec<Option<Desired>> {
        let places = self.pipelines.iter().zip(&self.local).enumerate();
        let one = |(place, (pipeline, local)): (usize, (&Arc<Pipeline>, &Option<Arc<Loaded>>))| {
            let name = pipeline.name();
            let Some((newest, earlier)) =
                view.deployments.get(name).and_then(|it| it.split_first())
            else {
                let local = local.as_ref()?;
                return Some(Desired::new(local::deployment(name, local.id().clone())));
            };
            let mut desired = Desired::new(newest.clone());
            let is_set = desired.deployment.action != Action::Unset;
            if is_set && self.routes[place].is_none() && self.is_hopeless(place, &desired) {
                let mut earlier = earlier.iter().map(|it| Desired::new(it.clone()));
                let fallback = earlier.find(|it| !self.is_hopeless(place, it));
                desired.fallback = fallback.map(Box::new);
            }
            Some(desired)
        };
        places.map(one).collect()
    }

    /// Whether a deployment cannot come into effect before the log changes.
    fn is_hopeless(&self, place: usize, desired: &Desired) -> bool {
        let fails = |id| match self.versions.get(id) {
            Some(Version::Ready(loaded)) => {
                fit::check(&self.pipelines[place], &**loaded.model()).is_err()
            }
            version => version.is_some_and(Version::is_hopeless),
        };
        desired.split.is_err() || desired.own_models().any(fails)
    }

    /// Notes versions that are new, those that were deleted and pushed again with other content, and those that failed before the log
    /// changed.
    fn want(&mut self, desired: &[Option<Desired>], view: &View, news: bool) {
        for id in desired.iter().flatten().flat_map(Desired::models) {
            match self.versions.get(id) {
                None => self.versions.set(id, Version::Wanted),
                Some(Version::Ready(loaded)) if is_outdated(loaded, view) => {
                    // It may serve until the other one is ready.
                    self.draining.push(Arc::clone(loaded));
                    self.versions.set(id, Version::Wanted);
                }
                Some(Version::Failed { .. }) if news => self.versions.set(id, Version::Wanted),
                Some(_) => {}
            }
        }
    }

    /// Begins to load what is due, as far as there is room. Whether something failed at once.
    fn begin_loads(&mut self, view: &View, now: Instant) -> bool {
        let mut failed = false;
        for id in self.versions.due(now) {
            let Some(hash) = view.models.get(&id) else {
                let why = "there is no such version; push it, or deploy another";
                let error = load::Error::at(Step::Fetch, why).into();
                self.versions.failed(&id, error, first_backoff(), now);
                failed = true;
                continue;
            };
            if self.loads.begin(&id, hash) {
                self.versions.loading(&id);
            }
        }
        failed
    }

    /// Takes what a load came to, if it is wanted still.
    fn finish(
        &mut self,
        finished: Finished,
        view: &View,
        desired: &[Option<Desired>],
        now: Instant,
    ) {
        let Finished { id, result, took } = finished;
        let Some(backoff) = self.versions.loaded(&id) else {
            // Nobody wants it any more, or not this one.
            return;
        };
        let version = match result {
            // Deleted, or another one, while it was loaded: the log says what to load.
            Ok(loaded) if view.models.get(&id) != Some(loaded.hash()) => Ok(Version::Wanted),
            Ok(loaded) => match self.fits(&loaded, desired) {
                Ok(()) => {
                    self.metrics.loaded(took);
                    Ok(Version::Ready(Arc::new(loaded)))
                }
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        match version {
            Ok(version) => self.versions.set(&id, version),
            Err(error) => self.versions.failed(&id, error, backoff, now),
        }
    }

    /// One that fits none of those who want it is not kept; whom it does not fit says so for itself.
    fn fits(&self, loaded: &Loaded, desired: &[Option<Desired>]) -> Result<(), load::Error> {
        let mut unfit = Ok(());
        for (pipeline, desired) in self.pipelines.iter().zip(desired) {
            let mut models = desired.iter().flat_map(Desired::models);
            if models.any(|wanted| wanted == loaded.id()) {
                match fit::check(pipeline, &**loaded.model()) {
                    Ok(()) => return Ok(()),
                    Err(why) => unfit = Err(format!("pipeline {}: {why}", pipeline.name())),
                }
            }
        }
        unfit.map_err(|why| load::Error::at(Step::Check, why))
    }

    /// Swaps in the deployments of which everything is ready.
    fn take_effect(&mut self, desired: &[Option<Desired>], view: &View) {
        for (place, desired) in desired.iter().enumerate() {
            let Some(desired) = desired else {
                self.statuses[place].why =
                    Some("there is no deployment of it, and no local model".to_owned());
                continue;
            };
            let revision = desired.deployment.revision;
            self.statuses[place].seen = Some(revision);
            let ready = match self.is_in_effect(place, desired, view) {
                true => Ok(()),
                false => self
                    .ready(place, desired)
                    .map(|routes| self.swap(place, routes, desired)),
            };
            if let (Err(why), Some(fallback)) = (&ready, &desired.fallback)
                && let Ok(routes) = self.ready(place, fallback)
            {
                tracing::warn!(
                    pipeline = desired.deployment.pipeline,
                    revision,
                    why,
                    instead = fallback.deployment.revision,
                    "an earlier deployment serves"
                );
                self.swap(place, routes, fallback);
            }
            self.statuses[place].why = ready.err().map(|why| format!("revision {revision}: {why}"));
        }
    }

    /// Whether it is what serves: the whole deployment, as the revisions of a log that is made anew begin again, with the models that
    /// the log has.
    fn is_in_effect(&self, place: usize, desired: &Desired, view: &View) -> bool {
        self.routes[place].as_ref().is_some_and(|routes| {
            let mut models = routes.variants.iter().map(|variant| &variant.loaded);
            routes.deployment == desired.deployment
                && (desired.is_local() || !models.any(|loaded| is_outdated(loaded, view)))
        })
    }

    /// A deployment's routes, if everything is ready.
    fn ready(&self, place: usize, desired: &Desired) -> Result<Routes, String> {
        let pipeline = &self.pipelines[place];
        let split = desired.split.clone()?;
        let deployment = &desired.deployment;
        let mut models = Vec::with_capacity(deployment.routes.len());
        for route in &deployment.routes {
            let id = &route.model;
            let loaded = match (&self.local[place], self.versions.get(id)) {
                (Some(local), _) if desired.is_local() => local,
                (_, Some(Version::Ready(loaded))) => loaded,
                (_, Some(Version::Failed { error, .. })) => {
                    return Err(format!("model {} {}: {error}", id.name, id.version));
                }
                _ => return Err(format!("model {} {} is being loaded", id.name, id.version)),
            };
            fit::check(pipeline, &**loaded.model())
                .map_err(|why| format!("model {} {}: check: {why}", id.name, id.version))?;
            models.push(Arc::clone(loaded));
        }
        let metrics = &self.metrics;
        Ok(Routes::new(pipeline, deployment, split, models, metrics))
    }

    fn swap(&mut self, place: usize, routes: Routes, desired: &Desired) {
        let deployment = &desired.deployment;
        let to: Vec<String> = deployment
            .routes
            .iter()
            .map(|route| {
                format!(
                    "{} {} {}",
                    route.name, route.model.name, route.model.version
                )
            })
            .collect();
        tracing::info!(
            pipeline = deployment.pipeline,
            revision = deployment.revision,
            routes = to.join(", "),
            by = deployment.by,
            reason = deployment.reason,
            "deployment takes effect"
        );
        self.metrics
            .swapped(&deployment.pipeline, deployment.revision);
        if let Some(old) = self.routes[place].take() {
            for variant in &old.variants {
                let same_model = |it: &&Variant| it.loaded.id() == variant.loaded.id();
                let mut models = routes.variants.iter().filter(same_model);
                let same_route = models.clone().any(|it| it.name == variant.name);
                if !same_route {
                    self.metrics
                        .forget(&variant.metrics, models.next().is_none());
                }
            }
        }
        self.statuses[place].serving = Some(deployment.revision);
        self.routes[place] = Some(Arc::new(routes));
    }

    /// Lets go of versions that neither serve nor should.
    fn forget(&mut self, desired: &[Option<Desired>]) {
        for (local, routes) in self.local.iter_mut().zip(&self.routes) {
            let deployed = routes.as_ref().is_some_and(|routes| routes.revision > 0);
            if deployed && let Some(local) = local.take() {
                let id = local.id();
                if self.versions.get(id).is_none() {
                    self.metrics.state(&id.name, &id.version, None);
                }
                self.draining.push(local);
            }
        }
        let wanted: BTreeSet<&ModelId> =
            desired.iter().flatten().flat_map(Desired::models).collect();
        let in_effect = |id: &ModelId| {
            let mut routes = self.routes.iter().flatten();
            routes.any(|routes| {
                routes.revision > 0 && routes.variants.iter().any(|it| it.loaded.id() == id)
            })
        };
        // Where nothing serves yet, a failure says that its deployment need not be tried again: forgotten, it would be, in
        // turn with the next earlier one, for ever.
        let searching = (desired.iter().zip(&self.routes))
            .any(|(desired, routes)| desired.is_some() && routes.is_none());
        let excludes = |version: &Version| searching && version.is_hopeless();
        let gone: Vec<ModelId> = (self.versions.iter())
            .filter(|(id, version)| !wanted.contains(id) && !in_effect(id) && !excludes(version))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.draining.extend(self.versions.release(&id));
        }
    }

    /// Replaces the snapshot, and reports where something changed.
    fn publish(&mut self, now: Instant) {
        let mut models: Vec<Arc<Loaded>> = Vec::new();
        let mut statuses = Vec::new();
        for local in self.local.iter().flatten() {
            statuses.push(status(local.id(), ModelState::Ready, Some(local)));
            models.push(Arc::clone(local));
        }
        for (id, version) in self.versions.iter() {
            statuses.push(match version {
                Version::Wanted => status(id, ModelState::Wanted, None),
                Version::Loading { .. } => status(id, ModelState::Loading, None),
                Version::Failed { error, .. } => {
                    let why = error.to_string();
                    status(id, ModelState::Failed { why }, None)
                }
                Version::Ready(loaded) => {
                    models.push(Arc::clone(loaded));
                    status(id, ModelState::Ready, Some(loaded))
                }
            });
        }
        models.sort_by(|a, b| {
            let (a, b) = (a.id(), b.id());
            a.name
                .cmp(&b.name)
                .then_with(|| compare_versions(&a.version, &b.version))
        });
        // Pipelines may have the same local package.
        models.dedup_by(|a, b| a.id() == b.id());
        statuses.sort_by(|a, b| a.id.cmp(&b.id));
        statuses.dedup();
        self.report(&statuses, now);
        self.serving.replace(Snapshot {
            begun: self.begun,
            routes: self.routes.clone(),
            models,
            statuses,
            pipelines: self.statuses.clone(),
        });
    }

    fn report(&mut self, statuses: &[ModelStatus], now: Instant) {
        let report = Report {
            models: statuses.to_vec(),
            pipelines: self.statuses.clone(),
        };
        let known = |(before, at): &(Report, Instant)| {
            *before == report && now.saturating_duration_since(*at) < REPORT_EVERY
        };
        if !self.reported.as_ref().is_some_and(known) {
            self.source.report(&report);
            self.reported = Some((report, now));
        }
    }

    fn again_at(&self, now: Instant) -> Instant {
        let drained = (!self.draining.is_empty()).then(|| now + LOOK_EVERY);
        let reported = self.reported.as_ref().map_or(now, |(_, at)| *at) + REPORT_EVERY;
        let again = self.versions.again_at(now);
        again.chain(drained).fold(reported, Instant::min)
    }
}

/// Whether the log has other content under a loaded version's name; one that the log no longer has stays what it was.
fn is_outdated(loaded: &Loaded, view: &View) -> bool {
    let hash = view.models.get(loaded.id());
    hash.is_some_and(|hash| hash != loaded.hash())
}

fn status(id: &ModelId, state: ModelState, loaded: Option<&Arc<Loaded>>) -> ModelStatus {
    ModelStatus {
        id: id.clone(),
        state,
        platform: loaded.map(|loaded| loaded.platform()),
    }
}
