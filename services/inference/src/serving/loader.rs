//! Brings model versions into service: fetch, verify, load, check, warm up, swap, drain, drop.
//!
//! One thread decides. It looks at the whole log each time something changes or a version has been loaded, and makes what
//! serves follow it, so it has no state that could contradict the log: what was rolled back while it was loaded does not
//! go live. Versions are loaded beside each other on threads of their own ([`loads`]), so that no deployment waits for
//! another one's download. What fails leaves what serves as it is, and says why.

mod loads;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use loads::{Finished, Loads, Unloaded};
use quadrille_choreography::Backoff;
use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_registry::{Action, Deployment, ModelId, REPORT_EVERY, Split, compare_versions};
use quadrille_telemetry::metrics::{self, ServingMetrics};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    Batching, ModelState, ModelStatus, Serving, Standing,
    loaded::{Failed, Loaded, Step, check},
    local,
    snapshot::{Routes, Snapshot},
    source::{Report, Source, View},
};

/// How often the log is asked at the start whether it was read to its end, and old models whether they are free.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between attempts at a package that could not be fetched.
const FETCH_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long who stops waits for the thread.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the loader works with.
pub struct Options {
    pub pipelines: Vec<Arc<Pipeline>>,
    /// One a pipeline, in their order: what serves it until it has a deployment.
    pub local: Vec<Option<Package>>,
    pub source: Arc<dyn Source>,
    pub metrics: ServingMetrics,
    pub batching: Batching,
}

/// A loader at work; ends when this is dropped.
pub struct Running {
    stop: watch::Sender<()>,
    /// Closed when the thread ends.
    ended: oneshot::Receiver<()>,
}

impl Running {
    /// Ends it, and waits until others know that this replica has gone. Not for long: a package may be on its way.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(STOP_WITHIN, self.ended).await;
    }
}

/// A wanted version.
enum Version {
    Wanted,
    Loading {
        backoff: Backoff,
    },
    Ready(Arc<Loaded>),
    Failed {
        failed: Failed,
        /// None: when the log changes.
        again_at: Option<Instant>,
        backoff: Backoff,
    },
}

/// What a pipeline should be served by.
struct Plan {
    deployment: Deployment,
    /// Why it cannot be, whatever is loaded.
    split: Result<Split, String>,
    /// What serves meanwhile, where nothing does and this one has failed: an earlier one.
    instead: Option<Box<Plan>>,
}

impl Plan {
    fn is_local(&self) -> bool {
        self.deployment.revision == 0
    }

    fn new(deployment: Deployment) -> Self {
        let split = match deployment.action {
            // What serves goes on, so that no record is without an answer; a replica that starts has nothing to serve, not its local model
            // either, which others would not have.
            Action::Unset => Err(format!(
                "the pipeline's deployment was removed by {}; deploy a version",
                deployment.by
            )),
            _ => Split::of(&deployment).map_err(|error| error.to_string()),
        };
        Plan {
            split,
            deployment,
            instead: None,
        }
    }

    /// The versions to be had from the log for itself.
    fn routes_want(&self) -> impl Iterator<Item = &ModelId> {
        let wanted = self.split.is_ok() && !self.is_local();
        let routes = self.deployment.routes.iter().filter(move |_| wanted);
        routes.map(|route| &route.model)
    }

    /// The versions to be had from the log.
    fn wants(&self) -> impl Iterator<Item = &ModelId> {
        let instead = self.instead.iter().flat_map(|plan| plan.routes_want());
        self.routes_want().chain(instead)
    }
}

/// Makes what serves follow the log.
pub struct Loader {
    pipelines: Vec<Arc<Pipeline>>,
    source: Arc<dyn Source>,
    metrics: ServingMetrics,
    loads: Loads,
    serving: Serving,
    local: Vec<Option<Arc<Loaded>>>,
    versions: BTreeMap<ModelId, Version>,
    routes: Vec<Option<Arc<Routes>>>,
    standings: Vec<Standing>,
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
    /// The system refuses a dear model's threads.
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
            versions: BTreeMap::new(),
            routes: pipelines.iter().map(|_| None).collect(),
            standings: Snapshot::empty(&pipelines).standings,
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

    /// Runs on a thread of its own until it is stopped. To be called within a runtime, whose timer it uses.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn(mut self) -> std::io::Result<Running> {
        let (stop, mut stopped) = watch::channel(());
        let (end, ended) = oneshot::channel::<()>();
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("loader".to_owned());
        let loaded = self.loads.finished();
        thread.spawn(move || {
            let mut changed = self.source.changed();
            loop {
                changed.mark_unchanged();
                let again_at = self.step(Instant::now());
                let over = runtime.block_on(async {
                    tokio::select! {
                        Ok(()) = changed.changed() => false,
                        () = loaded.notified() => false,
                        _ = stopped.changed() => true,
                        () = tokio::time::sleep_until(again_at.into()) => false,
                    }
                });
                if over {
                    self.source.withdraw();
                    drop(end);
                    return;
                }
            }
        })?;
        Ok(Running { stop, ended })
    }

    /// Makes what serves follow the log, waiting for all that can be loaded now; returns when to look again if nothing changes.
    pub fn turn(&mut self, now: Instant) -> Instant {
        loop {
            let again_at = self.step(now);
            if !self.loads.wait() {
                return again_at;
            }
        }
    }

    /// Makes what serves follow the log as far as versions are loaded, and begins to load others; never waits for one. Returns when to
    /// look again if nothing changes and nothing has been loaded.
    pub fn step(&mut self, now: Instant) -> Instant {
        if !self.begun {
            if let Err(why) = self.source.caught_up() {
                self.standings
                    .iter_mut()
                    .for_each(|it| it.why = Some(why.clone()));
                self.publish(now);
                return now + LOOK_EVERY;
            }
            self.begun = true;
        }
        // The count first: what changes after it is seen again.
        let count = *self.source.changed().borrow();
        let mut news = self.seen.replace(count) != Some(count);
        if news {
            self.forget_failures();
        }
        let view = self.source.view();
        let finished = self.loads.take();
        let mut plans = self.plans(&view);
        for finished in finished {
            self.finish(finished, &view, &plans, now);
        }
        loop {
            // What has failed may call for an earlier deployment.
            plans = self.plans(&view);
            self.want(&plans, &view, std::mem::take(&mut news));
            self.take_effect(&plans, &view);
            if !self.begin_loads(&view, now) {
                break;
            }
        }
        self.forget(&plans);
        self.publish(now);
        self.metrics.view_age(self.source.age());
        // The snapshot before this one is gone, unless somebody looks at it.
        self.draining.retain(|loaded| Arc::strong_count(loaded) > 1);
        self.again_at(now)
    }

    fn plans(&self, view: &View) -> Vec<Option<Plan>> {
        let places = self.pipelines.iter().zip(&self.local).enumerate();
        let plan = |(place, (pipeline, local)): (usize, (&Arc<Pipeline>, &Option<Arc<Loaded>>))| {
            let name = pipeline.name();
            let Some((newest, earlier)) =
                view.deployments.get(name).and_then(|it| it.split_first())
            else {
                let local = local.as_ref()?;
                return Some(Plan::new(local::deployment(name, local.id().clone())));
            };
            let mut plan = Plan::new(newest.clone());
            let is_set = plan.deployment.action != Action::Unset;
            if is_set && self.routes[place].is_none() && self.is_hopeless(place, &plan) {
                let mut earlier = earlier.iter().map(|it| Plan::new(it.clone()));
                let instead = earlier.find(|plan| !self.is_hopeless(place, plan));
                plan.instead = instead.map(Box::new);
            }
            Some(plan)
        };
        places.map(plan).collect()
    }

    /// Whether a plan cannot come into effect before the log changes.
    fn is_hopeless(&self, place: usize, plan: &Plan) -> bool {
        let fails = |id| match self.versions.get(id) {
            Some(Version::Failed { again_at, .. }) => again_at.is_none(),
            Some(Version::Ready(loaded)) => {
                check(&self.pipelines[place], &**loaded.model()).is_err()
            }
            _ => false,
        };
        plan.split.is_err() || plan.routes_want().any(fails)
    }

    /// Notes versions that are new, those that were deleted and pushed again with other content, and those that failed before the log
    /// changed.
    fn want(&mut self, plans: &[Option<Plan>], view: &View, news: bool) {
        for id in plans.iter().flatten().flat_map(Plan::wants) {
            match self.versions.get(id) {
                None => self.set(id, Version::Wanted),
                Some(Version::Ready(loaded)) if is_outdated(loaded, view) => {
                    // It may serve until the other one is ready.
                    self.draining.push(Arc::clone(loaded));
                    self.set(id, Version::Wanted);
                }
                Some(Version::Failed { .. }) if news => self.set(id, Version::Wanted),
                Some(_) => {}
            }
        }
    }

    /// The versions to be loaded now.
    fn due(&self, now: Instant) -> Vec<ModelId> {
        let due = |version: &Version| match version {
            Version::Wanted => true,
            Version::Failed { again_at, .. } => again_at.is_some_and(|at| at <= now),
            Version::Loading { .. } | Version::Ready(_) => false,
        };
        let due = self.versions.iter().filter(|(_, version)| due(version));
        due.map(|(id, _)| id.clone()).collect()
    }

    /// Begins to load what is due, as far as there is room. Whether something failed at once.
    fn begin_loads(&mut self, view: &View, now: Instant) -> bool {
        let mut failed = false;
        for id in self.due(now) {
            let backoff = || Backoff::new(FETCH_AGAIN.0, FETCH_AGAIN.1);
            let Some(hash) = view.models.get(&id) else {
                let why = "there is no such version; push it, or deploy another";
                let why = Unloaded::Failed(Failed::at(Step::Fetch, why));
                let version = self.failed(&id, why, backoff(), now);
                self.set(&id, version);
                failed = true;
                continue;
            };
            if !self.loads.begin(&id, hash) {
                continue;
            }
            let backoff = match self.versions.remove(&id) {
                Some(Version::Failed { backoff, .. }) => backoff,
                _ => backoff(),
            };
            self.set(&id, Version::Loading { backoff });
        }
        failed
    }

    /// Takes what a load came to, if it is wanted still.
    fn finish(&mut self, finished: Finished, view: &View, plans: &[Option<Plan>], now: Instant) {
        let Finished { id, result, took } = finished;
        let backoff = match self.versions.remove(&id) {
            Some(Version::Loading { backoff }) => backoff,
            other => {
                // Nobody wants it any more, or not this one.
                self.versions.extend(other.map(|version| (id, version)));
                return;
            }
        };
        let version = match result {
            // Deleted, or another one, while it was loaded: the log says what to load.
            Ok(loaded) if view.models.get(&id) != Some(loaded.hash()) => Version::Wanted,
            Ok(loaded) => match self.fits(&loaded, plans) {
                Ok(()) => {
                    self.metrics.loaded(took);
                    Version::Ready(Arc::new(loaded))
                }
                Err(failed) => self.failed(&id, Unloaded::Failed(failed), backoff, now),
            },
            Err(why) => self.failed(&id, why, backoff, now),
        };
        self.set(&id, version);
    }

    fn failed(&self, id: &ModelId, why: Unloaded, mut backoff: Backoff, now: Instant) -> Version {
        let (failed, again_at) = match why {
            Unloaded::Away(why) => {
                let again_at = now + backoff.next_wait();
                (Failed::at(Step::Fetch, why), Some(again_at))
            }
            Unloaded::Failed(failed) => (failed, None),
        };
        self.metrics.load_failed(failed.step.name());
        tracing::warn!(
            model = id.name,
            version = id.version,
            step = failed.step.name(),
            why = failed.why,
            "model version not taken into service"
        );
        Version::Failed {
            failed,
            again_at,
            backoff,
        }
    }

    /// One that fits none of those who want it is not kept; whom it does not fit says so for itself.
    fn fits(&self, loaded: &Loaded, plans: &[Option<Plan>]) -> Result<(), Failed> {
        let mut unfit = Ok(());
        for (pipeline, plan) in self.pipelines.iter().zip(plans) {
            let mut wants = plan.iter().flat_map(Plan::wants);
            if wants.any(|wanted| wanted == loaded.id()) {
                match check(pipeline, &**loaded.model()) {
                    Ok(()) => return Ok(()),
                    Err(why) => unfit = Err(format!("pipeline {}: {why}", pipeline.name())),
                }
            }
        }
        unfit.map_err(|why| Failed::at(Step::Check, why))
    }

    /// Swaps in the deployments of which everything is ready.
    fn take_effect(&mut self, plans: &[Option<Plan>], view: &View) {
        for (place, plan) in plans.iter().enumerate() {
            let Some(plan) = plan else {
                self.standings[place].why =
                    Some("there is no deployment of it, and no local model".to_owned());
                continue;
            };
            let revision = plan.deployment.revision;
            self.standings[place].seen = Some(revision);
            let ready = match self.is_in_effect(place, plan, view) {
                true => Ok(()),
                false => self
                    .ready(place, plan)
                    .map(|routes| self.swap(place, routes, plan)),
            };
            if let (Err(why), Some(instead)) = (&ready, &plan.instead)
                && let Ok(routes) = self.ready(place, instead)
            {
                tracing::warn!(
                    pipeline = plan.deployment.pipeline,
                    revision,
                    why,
                    instead = instead.deployment.revision,
                    "an earlier deployment serves"
                );
                self.swap(place, routes, instead);
            }
            self.standings[place].why =
                ready.err().map(|why| format!("revision {revision}: {why}"));
        }
    }

    /// Whether a plan is what serves: the whole deployment, as the revisions of a log that is made anew begin again, with the models that
    /// the log has.
    fn is_in_effect(&self, place: usize, plan: &Plan, view: &View) -> bool {
        self.routes[place].as_ref().is_some_and(|routes| {
            let mut models = routes.variants.iter().map(|variant| &variant.loaded);
            routes.deployment == plan.deployment
                && (plan.is_local() || !models.any(|loaded| is_outdated(loaded, view)))
        })
    }

    /// A plan's routes, if everything is ready.
    fn ready(&self, place: usize, plan: &Plan) -> Result<Routes, String> {
        let pipeline = &self.pipelines[place];
        let split = plan.split.clone()?;
        let mut models = Vec::with_capacity(plan.deployment.routes.len());
        for route in &plan.deployment.routes {
            let id = &route.model;
            let loaded = match (&self.local[place], self.versions.get(id)) {
                (Some(local), _) if plan.is_local() => local,
                (_, Some(Version::Ready(loaded))) => loaded,
                (_, Some(Version::Failed { failed, .. })) => {
                    return Err(format!("model {} {}: {failed}", id.name, id.version));
                }
                _ => return Err(format!("model {} {} is being loaded", id.name, id.version)),
            };
            check(pipeline, &**loaded.model())
                .map_err(|why| format!("model {} {}: check: {why}", id.name, id.version))?;
            models.push(Arc::clone(loaded));
        }
        let deployment = &plan.deployment;
        let metrics = &self.metrics;
        Ok(Routes::new(pipeline, deployment, split, models, metrics))
    }

    fn swap(&mut self, place: usize, routes: Routes, plan: &Plan) {
        let deployment = &plan.deployment;
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
                let same_model = |it: &&super::Variant| it.loaded.id() == variant.loaded.id();
                let mut models = routes.variants.iter().filter(same_model);
                let same_route = models.clone().any(|it| it.name == variant.name);
                if !same_route {
                    self.metrics
                        .forget(&variant.metrics, models.next().is_none());
                }
            }
        }
        self.standings[place].serving = Some(deployment.revision);
        self.routes[place] = Some(Arc::new(routes));
    }

    /// When the log has changed, what failed may succeed.
    fn forget_failures(&mut self) {
        let metrics = &self.metrics;
        self.versions.retain(|id, version| {
            let keeps = !matches!(version, Version::Failed { again_at: None, .. });
            if !keeps {
                metrics.state(&id.name, &id.version, None);
            }
            keeps
        });
    }

    /// Lets go of versions that neither serve nor should.
    fn forget(&mut self, plans: &[Option<Plan>]) {
        for (local, routes) in self.local.iter_mut().zip(&self.routes) {
            let deployed = routes.as_ref().is_some_and(|routes| routes.revision > 0);
            if deployed && let Some(local) = local.take() {
                let id = local.id();
                if !self.versions.contains_key(id) {
                    self.metrics.state(&id.name, &id.version, None);
                }
                self.draining.push(local);
            }
        }
        let wanted: BTreeSet<&ModelId> = plans.iter().flatten().flat_map(Plan::wants).collect();
        let in_effect = |id: &ModelId| {
            let mut routes = self.routes.iter().flatten();
            routes.any(|routes| {
                routes.revision > 0 && routes.variants.iter().any(|it| it.loaded.id() == id)
            })
        };
        // Where nothing serves yet, a failure says that its deployment need not be tried again: forgotten, it would be, in
        // turn with the next earlier one, for ever.
        let searching = (plans.iter().zip(&self.routes))
            .any(|(plan, routes)| plan.is_some() && routes.is_none());
        let excludes = |version: &Version| {
            searching && matches!(version, Version::Failed { again_at: None, .. })
        };
        let gone: Vec<ModelId> = (self.versions.iter())
            .filter(|(id, version)| !wanted.contains(id) && !in_effect(id) && !excludes(version))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.metrics.state(&id.name, &id.version, None);
            if let Some(Version::Ready(loaded)) = self.versions.remove(&id) {
                self.draining.push(loaded);
            }
        }
    }

    fn set(&mut self, id: &ModelId, version: Version) {
        let state = match &version {
            Version::Wanted => metrics::ModelState::Wanted,
            Version::Loading { .. } => metrics::ModelState::Loading,
            Version::Ready(_) => metrics::ModelState::Ready,
            Version::Failed { .. } => metrics::ModelState::Failed,
        };
        self.metrics.state(&id.name, &id.version, Some(state));
        self.versions.insert(id.clone(), version);
    }

    /// Replaces the snapshot, and tells others where something changed.
    fn publish(&mut self, now: Instant) {
        let mut models: Vec<Arc<Loaded>> = Vec::new();
        let mut statuses = Vec::new();
        for local in self.local.iter().flatten() {
            statuses.push(status(local.id(), ModelState::Ready, Some(local)));
            models.push(Arc::clone(local));
        }
        for (id, version) in &self.versions {
            statuses.push(match version {
                Version::Wanted => status(id, ModelState::Wanted, None),
                Version::Loading { .. } => status(id, ModelState::Loading, None),
                Version::Failed { failed, .. } => {
                    let why = failed.to_string();
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
            standings: self.standings.clone(),
        });
    }

    fn report(&mut self, statuses: &[ModelStatus], now: Instant) {
        let report = Report {
            models: statuses.to_vec(),
            pipelines: self.standings.clone(),
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
        // What is due and not begun waits for a load to end, which is news by itself.
        let again = self.versions.values().filter_map(|version| match version {
            Version::Failed { again_at, .. } => again_at.filter(|at| *at > now),
            _ => None,
        });
        let drained = (!self.draining.is_empty()).then(|| now + LOOK_EVERY);
        let reported = self.reported.as_ref().map_or(now, |(_, at)| *at) + REPORT_EVERY;
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
