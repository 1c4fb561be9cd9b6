//! Features out of records: the stream's stage, and the same features on request over gRPC.
//!
//! It knows no model: a feature vector serves every model that reads its pipeline.
#![forbid(unsafe_code)]

mod args;
mod grpc;
mod handlers;
mod ownership;
mod query;
mod stage;
mod state;
mod usage;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use quadrille_choreography::{ChangelogFollower, ChangelogReader, changelog::TOMBSTONES_KEPT};
use quadrille_pipeline::Pipeline;
use quadrille_proto::v1::feature_service_server::FeatureServiceServer;
use quadrille_service::{
    Assembly, Boxed, Calls, Context, Drain, Error, MessageMax, Requests, Task, fields::now_ms,
};
use quadrille_state::{Identity, Settings, Stores};
use quadrille_telemetry::metrics::{FeatureMetrics, StandbysMetrics, StateMetrics};
use tokio::sync::{oneshot, watch};

use crate::{
    query::{Query, Reads, Reports, Served, Vectors},
    state::{CHANGELOG, Following, Opener, Options, Shared, Standbys},
};

pub use args::Cli;
pub use handlers::Handlers;
pub use stage::FeatureHandler;
pub use state::Standby;

/// Of the memory for state, the part that is for histories in use; the rest is the stores'.
const CACHE_SHARE: usize = 2;

/// The layout of the changelog's rows: stores of another one are not read. What the rows mean is told by their epoch.
const LAYOUT: [u8; 8] = *b"epochs-1";

/// How long the store of a partition that moved away is kept.
const STORES_KEPT: Duration = Duration::from_hours(24);
const HOUSE_KEPT_EVERY: Duration = Duration::from_mins(10);
const HOUSE_KEPT_WITHIN: Duration = Duration::from_secs(2);
/// What standbys have in memory is written to disk before they end; where that takes longer it is read again.
const STANDBYS_END_WITHIN: Duration = Duration::from_secs(3);

/// The service's settings.
#[derive(Debug)]
pub struct Config {
    pub service: quadrille_service::Config,
    pub state: StateSettings,
}

/// How the state of pipelines that look back is kept.
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// None: in memory alone.
    pub folder: Option<PathBuf>,
    /// Of all pipelines and partitions together.
    pub memory_bytes: usize,
    pub standby: Standby,
}

impl Default for StateSettings {
    fn default() -> Self {
        StateSettings {
            folder: None,
            memory_bytes: 256 << 20,
            standby: Standby::None,
        }
    }
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
    let state = config.state;
    quadrille_service::run(config.service, shutdown, |context| assemble(context, state)).await
}

async fn assemble(context: Context, state: StateSettings) -> Result<Assembly, Error> {
    let pipelines = context.config.pipelines.iter();
    let looking_back = pipelines.filter(|it| it.keeps_state()).count();
    let metrics = FeatureMetrics::register(&context.registry);
    let common = Common {
        standby: state.standby,
        stores: match &state.folder {
            Some(folder) if looking_back > 0 => {
                Some(open_folder(folder, state.memory_bytes).await?)
            }
            _ => None,
        },
        reports: match looking_back {
            0 => None,
            _ => Some(ownership::follow(&context.config.cluster)?),
        },
        cache_bytes: state.memory_bytes / CACHE_SHARE / looking_back.max(1),
        metrics: StateMetrics::register(&context.registry),
        standbys: (state.standby == Standby::All && looking_back > 0)
            .then(|| StandbysMetrics::register(&context.registry)),
    };
    let changes = watch::Sender::new(0);
    let mut served = Vec::new();
    for pipeline in &context.config.pipelines {
        metrics.begin(pipeline.name());
        let shared = Shared::new(state.standby, changes.clone());
        served.push(run_stage(&context, pipeline, shared, &common).await?);
    }
    if let Some(stores) = common.stores {
        let with_state = context
            .config
            .pipelines
            .iter()
            .filter(|it| it.keeps_state());
        let names = with_state.map(|it| it.name().to_owned());
        let metrics = names.map(|name| (name.clone(), common.metrics.pipeline(&name)));
        let metrics: BTreeMap<_, _> = metrics.collect();
        usage::check(&context, state.memory_bytes, metrics.clone());
        usage::show(&context, stores.clone(), metrics);
        keep_house(&context, stores);
    }
    let start = |reports| ownership::start(&context, &served, changes.subscribe(), reports);
    let siblings = common.reports.map(start).transpose()?;
    let service = grpc::Features {
        pipelines: context.config.pipelines.clone(),
        query: Query {
            served,
            instance: context.config.instance(),
            siblings,
            reads: Reads::default(),
            vectors: Vectors::new(context.config.cluster.clone(), context.schemas.clone()),
            tracing: context.tracing.clone(),
        },
        metrics,
    };
    Ok(Assembly {
        http: axum::Router::new(),
        grpc: Calls::default().with(FeatureServiceServer::new(service)),
        message_max: MessageMax::default(),
        requests: Requests::OutliveKafka,
    })
}

/// Opens the folder of all stores of this replica.
async fn open_folder(folder: &Path, memory_bytes: usize) -> Result<Stores, Error> {
    let mut settings = Settings::new(folder, memory_bytes - memory_bytes / CACHE_SHARE);
    // What is older may lack deletions that the changelog does not tell any more.
    settings.age_max = TOMBSTONES_KEPT.saturating_sub(Duration::from_hours(24));
    let opened = tokio::task::spawn_blocking(|| Stores::open_folder(settings)).await;
    let opened = opened.map_err(|error| Error::Failed(error.to_string()))?;
    opened.map_err(|error| Error::Config(format!("QUADRILLE_STATE_DIR: {error}")))
}

/// Deletes the stores of partitions that moved away long ago.
fn keep_house(context: &Context, stores: Stores) {
    let task = Task::new("state", Drain::AfterStages, HOUSE_KEPT_WITHIN);
    context.spawn(task, |mut stop| async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(HOUSE_KEPT_EVERY) => {}
                () = stop.requested() => return Ok(()),
            }
            let stores = stores.clone();
            let swept = tokio::task::spawn_blocking(move || stores.sweep(STORES_KEPT, now_ms()));
            match swept.await {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => {
                    tracing::info!(count, "deleted state of partitions that moved away")
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "state of partitions that moved away not deleted")
                }
                Err(error) => return Err(Error::Failed(error.to_string())),
            }
        }
    });
}

/// What the pipelines that look back have in common.
struct Common {
    standby: Standby,
    /// None: rows are kept in memory.
    stores: Option<Stores>,
    /// There where any looks back.
    reports: Option<Reports>,
    /// Of histories in use, for each pipeline.
    cache_bytes: usize,
    metrics: StateMetrics,
    /// There where anything is kept up with.
    standbys: Option<StandbysMetrics>,
}

async fn run_stage(
    context: &Context,
    pipeline: &Arc<Pipeline>,
    shared: Shared,
    common: &Common,
) -> Result<Served, Error> {
    let stage = context.stage(pipeline).await?;
    let served = Served {
        pipeline: Arc::clone(pipeline),
        partitions: stage.topics.partitions,
        shared: shared.clone(),
    };
    let schemas = context.schemas.clone();
    let changelog = stage.config.outputs.iter().find(|it| it.name == CHANGELOG);
    let Some(changelog) = changelog.map(|it| it.topic.clone()) else {
        context.run(stage, |_| {
            FeatureHandler::new(Arc::clone(pipeline), schemas.clone())
        })?;
        return Ok(served);
    };
    let cluster = context.config.cluster.clone();
    let opener = opener(context, pipeline, &changelog, common.stores.as_ref()).await?;
    let standbys = Standbys::new(common.standby, opener, shared, stage.topics.partitions);
    if let (Some(metrics), Some(state)) = (&common.standbys, pipeline.state()) {
        let following = Following::new(
            standbys.clone(),
            state.fingerprint(),
            ChangelogFollower::new(&cluster, &changelog),
            (
                metrics.pipeline(pipeline.name()),
                common.metrics.pipeline(pipeline.name()),
            ),
        );
        stand_by(context, pipeline, following);
    }
    let options = Options {
        pipeline: Arc::clone(pipeline),
        standbys,
        claimants: match &common.reports {
            Some(reports) => ownership::claimants(Arc::clone(reports), pipeline.name()),
            None => Arc::new(|_| Vec::new()),
        },
        session: cluster.session_timeout(),
        cache_bytes: common.cache_bytes / stage.config.lanes.max(1),
        metrics: common.metrics.pipeline(pipeline.name()),
    };
    context.run(stage, |lane| {
        let reader = ChangelogReader::new(&cluster, &changelog);
        FeatureHandler::with_state(options.clone(), lane, reader, schemas.clone())
    })?;
    Ok(served)
}

/// Keeps up with what other replicas own, on a thread of its own.
fn stand_by(context: &Context, pipeline: &Pipeline, following: Following) {
    let (stop, stopped) = mpsc::channel::<()>();
    let (ended, end) = oneshot::channel::<()>();
    let name = format!("standby-{}", pipeline.name());
    let thread = thread::Builder::new().name(name).spawn(move || {
        following.run(&stopped);
        let _ = ended.send(());
    });
    let pipeline = pipeline.name().to_owned();
    // Lanes give their partitions back first.
    let task = Task::new("standby", Drain::AfterStages, STANDBYS_END_WITHIN);
    context.spawn(task, |mut asked| async move {
        let mut end = end;
        tokio::select! {
            _ = &mut end => {
                let failure = thread.err().map(|error| error.to_string());
                tracing::error!(
                    pipeline,
                    failure,
                    "the standby has ended; partitions that move are restored without it"
                );
                asked.requested().await;
            }
            () = asked.requested() => {
                drop(stop);
                let _ = (&mut end).await;
            }
        }
        Ok(())
    });
}

/// Where the rows of a pipeline's partitions are kept.
async fn opener(
    context: &Context,
    pipeline: &Pipeline,
    changelog: &str,
    stores: Option<&Stores>,
) -> Result<Opener, Error> {
    let Some(stores) = stores else {
        return Ok(Opener::Memory);
    };
    let topic = context.topic_identity(changelog).await?;
    let Some(topic_id) = topic.topic_id else {
        // A topic that was deleted and made again could not be told from the one that the rows on disk are of.
        tracing::warn!(
            topic = changelog,
            "the broker gives topics no ids: state is kept in memory alone"
        );
        return Ok(Opener::Memory);
    };
    Ok(Opener::Disk {
        stores: stores.clone(),
        identity: Arc::new(Identity {
            pipeline: pipeline.name().to_owned(),
            cluster: topic.cluster_id,
            topic_id,
            definition: LAYOUT,
        }),
    })
}
