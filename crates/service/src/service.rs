//! A service's life: bind, wait for Kafka, assemble, serve, drain.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{Router, middleware};
use prost_types::FileDescriptorSet;
use quadrille_choreography::{
    Admin, AdminError, Backoff, Cluster, ConfigError, Delivery, Limits, OutputTopic, Part,
    RunningStage, Schemas, Stage, StageConfig, StageError, StageTopics, TopicIdentity, TopicSpec,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Schema, Service};
use quadrille_telemetry::{
    Registry, Tracing, logs,
    metrics::{LoopMetrics, PortMetrics, RequestMetrics},
    push::Push,
};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    args::default_instance,
    calls::Calls,
    edge::{self, Edge, limits::HttpConfig},
    evolution,
    front::{Front, Mounted, Routed},
    health::{Probe, ReadyFn, Requests},
    methods::{Methods, served},
    server,
    spans::{self, Telling},
};

/// How long running requests may take to end once the lanes have drained.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(5);
/// Brokers learn of a new topic one after another.
const TOPICS_APPEAR_WITHIN: Duration = Duration::from_secs(2);
/// How long a port that is taken is tried again.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(2);
/// How often the lanes are looked after.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// `max.message.bytes` of topics created with `--create-topics`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// Why a service ended otherwise than by draining.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be; the message names it and the fix. Exit code 64.
    #[error("{0}")]
    Config(String),
    /// Anything else. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::Config(error.to_string())
    }
}

impl From<StageError> for Error {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Config(error) => error.into(),
            StageError::Topics(error) => error.into(),
            error => Error::Failed(error.to_string()),
        }
    }
}

impl From<AdminError> for Error {
    fn from(error: AdminError) -> Self {
        match error.is_retriable() {
            true => Error::Failed(error.to_string()),
            false => Error::Config(error.to_string()),
        }
    }
}

/// A service's settings, checked.
#[derive(Debug)]
pub struct Config {
    pub stage: Service,
    pub cluster: Cluster,
    pub pipelines: Vec<Arc<Pipeline>>,
    pub listen: SocketAddr,
    /// Bound already, where the caller wants to know the port.
    pub listener: Option<TcpListener>,
    /// Stable name of this replica; by default host name and port.
    pub instance: Option<String>,
    pub lanes: usize,
    pub delivery: Delivery,
    pub limits: Limits,
    /// Partitions of topics to be created where they are missing.
    pub create_topics: Option<i32>,
    /// How long requests are answered after the service has said that it is not ready any more.
    pub drain_delay: Duration,
    /// What the port takes at once, and from whom.
    pub http: HttpConfig,
}

impl Config {
    /// The loop's settings for one pipeline.
    pub fn stage_config(&self, pipeline: &Pipeline) -> StageConfig {
        let name = pipeline.name();
        StageConfig {
            cluster: self.cluster.clone(),
            service: self.stage.name(),
            pipeline: name.to_owned(),
            group: self.stage.group(name),
            input: self.stage.input(name),
            outputs: self
                .stage
                .outputs(name)
                .into_iter()
                .map(|(name, topic)| OutputTopic { name, topic })
                .collect(),
            instance: self.instance(),
            lanes: self.lanes,
            commit: self.delivery.into(),
            limits: self.limits.clone(),
            latency_objective: pipeline
                .latency_objective_ms()
                .map(|ms| Duration::from_millis(ms.unsigned_abs())),
        }
    }

    /// The name of this replica.
    pub fn instance(&self) -> String {
        let instance = self.instance.clone();
        instance.unwrap_or_else(|| default_instance(self.listen))
    }

    fn bind(&mut self) -> Result<tokio::net::TcpListener, Error> {
        let wanted = self.listen;
        let refused = |error: std::io::Error| {
            Error::Config(format!(
                "QUADRILLE_LISTEN {wanted}: {error}; choose another address"
            ))
        };
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind_patiently(self.listen).map_err(refused)?,
        };
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        self.listen = address;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
        tracing::info!(service = self.stage.name(), %address, "listening");
        Ok(listener)
    }
}

/// A predecessor that was killed a moment ago may still hold the port.
fn bind_patiently(address: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + PORT_FREE_WITHIN;
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// What a service is assembled from.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub registry: Registry,
    pub metrics: LoopMetrics,
    pub tracing: Tracing,
    pub schemas: Schemas,
    stopping: watch::Receiver<bool>,
}

impl Context {
    /// This service's stage of a pipeline, ready to run: its topics are checked, and the schema of what it writes is
    /// published. Waits for Kafka as long as it does not answer.
    ///
    /// # Errors
    /// The topics cannot be used as they are, the pipeline file contradicts a published schema, or the service is
    /// stopping.
    pub async fn stage(&self, pipeline: &Arc<Pipeline>) -> Result<Stage, Error> {
        let topics = self.prepare(pipeline).await?;
        let written = match self.config.stage {
            Service::Ingest => Some(pipeline.record_schema()),
            Service::Feature => Some(pipeline.feature_schema()),
            Service::Inference => Some(pipeline.prediction_schema()),
            Service::Results => None,
        };
        if let Some(schema) = written {
            self.publish(schema).await?;
        }
        let config = self.config.stage_config(pipeline);
        Ok(Stage {
            metrics: self
                .metrics
                .stage(&config.pipeline, &config.group, &config.input),
            config,
            topics,
            tracing: self.tracing.clone(),
        })
    }

    /// Checks the topics of a pipeline's stage; waits for Kafka as long as it does not answer.
    ///
    /// # Errors
    /// The topics cannot be used as they are.
    async fn prepare(&self, pipeline: &Arc<Pipeline>) -> Result<StageTopics, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let (started, checked) = (Instant::now(), Arc::clone(pipeline));
        loop {
            let (config, pipeline) = (Arc::clone(&self.config), Arc::clone(pipeline));
            let result = blocking(move || prepare(&config, &pipeline)).await?;
            match result {
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "waiting for Kafka");
                    self.sleep(backoff.next_wait()).await?;
                }
                // A broker may also have an old view of a topic that was changed just now.
                Err(error)
                    if (error.is_missing() || error.is_changed())
                        && started.elapsed() < TOPICS_APPEAR_WITHIN =>
                {
                    self.sleep(WATCH_EVERY).await?;
                }
                result => {
                    let topics = result?;
                    self.agree(&checked).await?;
                    return Ok(topics);
                }
            }
        }
    }

    /// Checks that the pipeline file goes on from what was published before.
    ///
    /// # Errors
    /// It contradicts a published schema: records of this replica would be dead letters for the next stage.
    async fn agree(&self, pipeline: &Arc<Pipeline>) -> Result<(), Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let (since, mut first) = (Instant::now(), true);
        for schema in [
            pipeline.record_schema(),
            pipeline.feature_schema(),
            pipeline.prediction_schema(),
        ] {
            let published = loop {
                let (schemas, schema) = (self.schemas.clone(), schema.clone());
                let read = move || schemas.published(&schema.pipeline, schema.kind, since);
                match blocking(read).await? {
                    Ok(published) => break published,
                    // A topic made just now has no leader for a moment.
                    Err(error) if std::mem::take(&mut first) => {
                        tracing::debug!(%error, "schemas not read yet");
                    }
                    Err(error) => tracing::warn!(%error, "schemas not read yet"),
                }
                self.sleep(backoff.next_wait()).await?;
            };
            let others = published.iter().map(Arc::as_ref);
            if let Some(why) = evolution::contradiction(schema, others) {
                let (name, kind) = (pipeline.name(), schema.kind);
                return Err(Error::Config(format!(
                    "QUADRILLE_PIPELINE: the {kind:?} schema of pipeline {name} contradicts one that was published before: {why}; \
                     mend the file, or, if no record in the old form is on its way any more, run `quadrille topics accept --schemas`"
                )));
            }
        }
        Ok(())
    }

    /// Publishes a schema before its first use; waits for Kafka as long as it does not answer.
    ///
    /// # Errors
    /// The service is stopping.
    async fn publish(&self, schema: &Schema) -> Result<(), Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut first = true;
        loop {
            let (schemas, schema) = (self.schemas.clone(), schema.clone());
            match blocking(move || schemas.publish(&schema)).await? {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // A topic made just now has no leader for a moment.
                    if std::mem::take(&mut first) {
                        tracing::debug!(%error, "schema not published yet");
                    } else {
                        tracing::warn!(%error, "schema not published yet");
                    }
                    self.sleep(backoff.next_wait()).await?;
                }
            }
        }
    }

    /// Which topic of which cluster this is; waits for Kafka as long as it does not answer.
    ///
    /// # Errors
    /// The service is stopping.
    pub async fn topic_identity(&self, topic: &str) -> Result<TopicIdentity, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let (cluster, topic) = (self.config.cluster.clone(), topic.to_owned());
            match blocking(move || Admin::connect(&cluster)?.identity(&topic)).await? {
                Ok(identity) => return Ok(identity),
                Err(error) => {
                    tracing::warn!(%error, "waiting for Kafka");
                    self.sleep(backoff.next_wait()).await?;
                }
            }
        }
    }

    async fn sleep(&self, wait: Duration) -> Result<(), Error> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Error::Failed("stopped while waiting for Kafka".to_owned())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| Error::Failed(format!("a start-up task ended: {error}")))
}

fn prepare(config: &Config, pipeline: &Pipeline) -> Result<StageTopics, AdminError> {
    let admin = Admin::connect(&config.cluster)?;
    let stage = config.stage_config(pipeline);
    if config.create_topics.is_some() && !config.cluster.is_embedded() {
        let there = admin.partitions(&stage.input)?;
        let partitions = there.unwrap_or(config.partitions_to_create());
        let specs = TopicSpec::of_pipeline(pipeline.name(), partitions, MESSAGE_BYTES_MAX);
        for topic in admin.create(&specs)? {
            tracing::info!(topic, partitions, "topic created");
        }
    }
    let mut topics = admin.prepare(&stage)?;
    let part = match config.stage {
        Service::Ingest => Part::Chooses,
        _ => Part::Follows,
    };
    topics.identity = admin.establish(&stage, pipeline.hash(), part)?;
    Ok(topics)
}

/// The largest message that a service takes by gRPC, uncompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageMax {
    pub bytes: usize,
    /// What raises it; none where nothing does.
    pub setting: Option<&'static str>,
}

impl Default for MessageMax {
    /// gRPC's own.
    fn default() -> Self {
        MessageMax {
            bytes: 4 << 20,
            setting: None,
        }
    }
}

impl MessageMax {
    /// What the sender of a larger one can do.
    pub(crate) fn fix(self) -> String {
        match self.setting {
            None => "send less at once".to_owned(),
            Some(setting) => format!("send less at once, or raise {setting}"),
        }
    }
}

/// A service, ready to serve.
pub struct Assembly {
    pub stages: Vec<RunningStage>,
    pub http: Router,
    pub grpc: Calls,
    /// What `grpc` takes at most.
    pub message_max: MessageMax,
    pub requests: Requests,
    /// What readiness needs besides the stages' partitions.
    pub ready: Option<Arc<ReadyFn>>,
}

/// Runs a service until `shutdown`, then drains it: `assemble` builds it once the port is bound.
///
/// # Errors
/// A setting turned out wrong, or the service cannot go on.
pub async fn run<Fut>(
    mut config: Config,
    shutdown: impl Future<Output = ()> + Send,
    assemble: impl FnOnce(Context) -> Fut,
) -> Result<(), Error>
where
    Fut: Future<Output = Result<Assembly, Error>>,
{
    let listener = config.bind()?;
    let (stop, stopping) = watch::channel(false);
    let drain_delay = config.drain_delay;
    let registry = Registry::default();
    let instance = config.instance();
    let service = config.stage.name();
    let logs = logs::Export::from_env(service, &instance).map_err(Error::Config)?;
    let tracing = Tracing::from_env(service, &instance, &registry).map_err(Error::Config)?;
    let push = Push::from_env(service, &instance, &registry).map_err(Error::Config)?;
    let requests = RequestMetrics::register(&registry);
    let port = PortMetrics::register(&registry);
    let http = config.http.clone();
    let of_requests = tracing.clone();
    let schemas = Schemas::new(&config.cluster);
    let context = Context {
        metrics: LoopMetrics::register(&registry),
        tracing: tracing.clone(),
        registry: registry.clone(),
        schemas: schemas.clone(),
        config: Arc::new(config),
        stopping,
    };
    let probe = Probe::default();
    let mounted: Mounted = Arc::new(OnceLock::new());
    let (reporter, health) = tonic_health::server::health_reporter();
    let router = server::router(
        probe.clone(),
        registry,
        Routes::new(health),
        Arc::clone(&mounted),
    );
    let (close, closing) = watch::channel(false);
    let edge = Edge::new(http, port, Front::new(router, Arc::clone(&mounted)));
    let mut server = tokio::spawn(edge::serve(listener, edge, async move {
        let mut closing = closing;
        let _ = closing.wait_for(|closing| *closing).await;
    }));

    let mut shutdown = std::pin::pin!(shutdown);
    let assembly = tokio::select! {
        result = assemble(context) => result?,
        () = &mut shutdown => {
            let _ = stop.send(true);
            return Ok(());
        }
    };
    let stages = assembly.stages;
    // The doors first: who hears that the service is ready asks at once.
    let services = assembly.grpc.names();
    let descriptors = descriptors(&services)?;
    let telling = Arc::new(Telling {
        tracing: of_requests,
        metrics: requests,
        methods: Methods::of(&descriptors),
        message_max: assembly.message_max,
    });
    let routed = mount(assembly.grpc, assembly.http, &descriptors, telling)?;
    let _ = mounted.set(routed);
    probe.assembled(
        stages.iter().map(RunningStage::health).collect(),
        assembly.requests,
        assembly.ready,
    );
    let reporting = tokio::spawn(probe.clone().report(reporter.clone(), services.clone()));

    tokio::select! {
        () = &mut shutdown => {}
        () = ended(&stages) => {}
    }
    probe.drain();
    let drain_began = Instant::now();
    reporting.abort();
    for service in std::iter::once(&"").chain(&services) {
        reporter
            .set_service_status(*service, tonic_health::ServingStatus::NotServing)
            .await;
    }
    stages.iter().for_each(RunningStage::stop);
    schemas.end();
    let drained = blocking(move || {
        stages
            .into_iter()
            .map(RunningStage::join)
            .collect::<Vec<_>>()
    })
    .await?;
    // Load balancers go on sending requests until they have noticed.
    tokio::time::sleep(drain_delay.saturating_sub(drain_began.elapsed())).await;
    let _ = close.send(true);
    if tokio::time::timeout(REQUESTS_END_WITHIN, &mut server)
        .await
        .is_err()
    {
        server.abort();
        tracing::warn!("requests still running were cut off");
    }
    let _ = stop.send(true);
    let drained = drained.into_iter().collect::<Result<Vec<()>, _>>();
    if drained.is_ok() {
        tracing::info!("drained");
    }
    push.shutdown().await;
    blocking(move || {
        tracing.shutdown();
        logs.shutdown();
    })
    .await?;
    drained?;
    Ok(())
}

/// Ready when a lane has ended unasked.
async fn ended(stages: &[RunningStage]) {
    while !stages.iter().any(RunningStage::has_ended) {
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// What the port answers by gRPC: the service's own, health and reflection.
fn descriptors(services: &[&str]) -> Result<FileDescriptorSet, Error> {
    const ALWAYS: [&str; 3] = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    const SETS: [&[u8]; 4] = [
        quadrille_proto::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    served(&[services, &ALWAYS].concat(), &SETS)
        .map_err(|error| Error::Failed(format!("descriptors of gRPC: {error}")))
}

fn mount(
    grpc: Calls,
    http: Router,
    descriptors: &FileDescriptorSet,
    telling: Arc<Telling>,
) -> Result<Routed, Error> {
    let failed = |error: tonic_reflection::server::Error| Error::Failed(error.to_string());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(descriptors.clone())
    };
    let tell = middleware::from_fn_with_state(Arc::clone(&telling), spans::tell_http);
    Ok(Routed {
        grpc: grpc
            .with(reflection().build_v1().map_err(failed)?)
            .with(reflection().build_v1alpha().map_err(failed)?),
        http: http.layer(tell).fallback(server::not_found),
        telling,
    })
}
