//! What a service is assembled from: settings, stages, tasks, listeners; and what start-up waits for.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Admin, Backoff, Definition, Handler, Partitioning, Schemas, Stage, StageTopics, TopicIdentity,
    TopicSpec, admin,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Schema, Service, StageSpec};
use quadrille_telemetry::{Registry, Tracing, metrics::LoopMetrics};

use crate::{
    Config, Error, Listener, StopSignal, Task, blocking::blocking, evolution, health::Probe,
    listener, stages::Stages, task::Tasks,
};

/// How long a topic may be missing or look changed at start-up: brokers learn of a new topic one after another.
const TOPICS_APPEAR_WITHIN: Duration = Duration::from_secs(2);
/// How often to look for a topic that does not exist yet.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// `max.message.bytes` of topics created with `--create-topics`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// What a service is assembled from.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    /// Where the service registers metrics of its own.
    pub registry: Registry,
    /// Metrics of the loop, registered already.
    pub metrics: LoopMetrics,
    pub tracing: Tracing,
    /// Published schemas; shared by all stages.
    pub schemas: Schemas,
    pub(crate) stopping: StopSignal,
    pub(crate) stages: Stages,
    pub(crate) tasks: Tasks,
    pub(crate) probe: Probe,
}

impl Context {
    /// Starts a background task, which runs until the service drains, assembled or not. Call it within a runtime.
    pub fn spawn<Fut>(&self, task: Task, run: impl FnOnce(StopSignal) -> Fut)
    where
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.tasks.spawn(task, run);
    }

    /// The service is not ready while `ready` is an error; `/readyz?verbose` shows it under this name.
    pub fn check(
        &self,
        name: &'static str,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.tasks.check(name, Arc::new(ready));
    }

    /// Binds a port beside the one for HTTP and gRPC; `setting` is the environment variable that the address came from, for the
    /// error. A task serves its connections: [`Listener::serve`].
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn listen(
        &self,
        name: &'static str,
        setting: &str,
        address: SocketAddr,
    ) -> Result<Listener, Error> {
        let inner = listener::bind(name, setting, address, None)?;
        Ok(Listener { name, inner })
    }

    /// What `/readyz` reports the service to be waiting for until it is assembled; Kafka by default.
    pub fn waiting_for(&self, what: impl Into<String>) {
        self.probe.waiting_for(what.into());
    }

    /// This service's first stage of a pipeline, ready to run: its topics are checked, and the schemas of its outputs
    /// published. Retries for as long as Kafka does not respond.
    ///
    /// # Errors
    /// The topics cannot be used as they are, the pipeline file contradicts a published schema, or the service is
    /// stopping.
    pub async fn stage(&self, pipeline: &Arc<Pipeline>) -> Result<Stage, Error> {
        self.stage_of(self.config.service.stage(), pipeline).await
    }

    /// Like [`Context::stage`], for any stage of [`quadrille_proto::STAGES`].
    ///
    /// # Errors
    /// As [`Context::stage`].
    pub async fn stage_of(
        &self,
        spec: &'static StageSpec,
        pipeline: &Arc<Pipeline>,
    ) -> Result<Stage, Error> {
        self.config.check_delivery(spec, pipeline)?;
        let topics = self.prepare(spec, pipeline).await?;
        for (output, _) in spec.outputs(pipeline.name(), pipeline.keeps_state().into()) {
            let schema = match output {
                "records" => pipeline.record_schema(),
                "features" => pipeline.feature_schema(),
                "predictions" => pipeline.prediction_schema(),
                // Outputs without a schema of their own.
                _ => continue,
            };
            self.publish(schema).await?;
        }
        let config = self.config.stage_config(spec, pipeline);
        let tracing = self.tracing.clone();
        Ok(Stage::new(config, topics, &self.metrics, tracing))
    }

    /// Starts a stage's lanes; `make` makes each lane's handler, given its number from 0. The stage runs until the service
    /// drains, assembled or not.
    ///
    /// # Errors
    /// A setting is out of range, the handler does not fit the way the stage commits, or the system refuses a thread.
    pub fn run<H: Handler>(&self, stage: Stage, make: impl FnMut(usize) -> H) -> Result<(), Error> {
        self.stages.add(stage.run(make)?);
        Ok(())
    }

    /// Checks the topics of a pipeline's stage. Retries for as long as Kafka does not respond.
    ///
    /// # Errors
    /// The topics cannot be used as they are.
    async fn prepare(
        &self,
        spec: &'static StageSpec,
        pipeline: &Arc<Pipeline>,
    ) -> Result<StageTopics, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let (started, checked) = (Instant::now(), Arc::clone(pipeline));
        loop {
            let (config, pipeline) = (Arc::clone(&self.config), Arc::clone(pipeline));
            let result = blocking(move || prepare(&config, spec, &pipeline)).await?;
            match result {
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "waiting for Kafka");
                    self.sleep(backoff.next_wait()).await?;
                }
                // A broker may have stale metadata of a topic that was changed just now.
                Err(error)
                    if (error.is_missing() || error.is_changed())
                        && started.elapsed() < TOPICS_APPEAR_WITHIN =>
                {
                    self.sleep(LOOK_AGAIN_AFTER).await?;
                }
                result => {
                    let topics = result?;
                    self.agree(&checked).await?;
                    return Ok(topics);
                }
            }
        }
    }

    /// Checks that the pipeline file is compatible with the schemas published before.
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
                        tracing::debug!(%error, "schemas could not be read yet; retrying");
                    }
                    Err(error) => tracing::warn!(%error, "schemas could not be read yet; retrying"),
                }
                self.sleep(backoff.next_wait()).await?;
            };
            let others = published.iter().map(Arc::as_ref);
            if let Some(why) = evolution::contradiction(schema, others) {
                let (name, kind) = (pipeline.name(), schema.kind);
                return Err(Error::Config(format!(
                    "QUADRILLE_PIPELINE: the {kind:?} schema of pipeline {name} contradicts one that was published before: {why}; \
                     correct the file, or, if no records of the old schema are in flight any more, run `quadrille topics accept --schemas`"
                )));
            }
        }
        Ok(())
    }

    /// Publishes a schema before its first use. Retries for as long as Kafka does not respond.
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
                        tracing::debug!(%error, "schema could not be published yet; retrying");
                    } else {
                        tracing::warn!(%error, "schema could not be published yet; retrying");
                    }
                    self.sleep(backoff.next_wait()).await?;
                }
            }
        }
    }

    /// Identifies a topic beyond its name. Retries for as long as Kafka does not respond.
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
            () = stopping.requested() => Err(Error::Failed("stopped while waiting for Kafka".to_owned())),
        }
    }
}

fn specs(pipeline: &Pipeline, partitions: i32) -> Vec<TopicSpec> {
    let state = pipeline.keeps_state().into();
    TopicSpec::of_pipeline(pipeline.name(), state, partitions, MESSAGE_BYTES_MAX)
}

fn prepare(
    config: &Config,
    spec: &StageSpec,
    pipeline: &Pipeline,
) -> Result<StageTopics, admin::Error> {
    let admin = Admin::connect(&config.cluster)?;
    let stage = config.stage_config(spec, pipeline);
    if config.create_topics.is_some() && !config.cluster.is_embedded() {
        let there = admin.partitions(&stage.input)?;
        let partitions = there.unwrap_or(config.partitions_to_create());
        for topic in admin.create(&specs(pipeline, partitions))? {
            tracing::info!(topic, partitions, "topic created");
        }
    }
    let mut topics = admin.prepare(&stage)?;
    let state = spec.state_topics(pipeline.name(), pipeline.keeps_state().into());
    let of_state = specs(pipeline, topics.partitions).into_iter();
    for topic in of_state.filter(|it| state.contains(&it.name)) {
        let settings = admin.settings(&topic)?;
        if let Some(fault) = topic.unfit(&settings).into_iter().next() {
            return Err(fault);
        }
    }
    let partitioning = match config.service {
        Service::Ingest => Partitioning::ByKey,
        _ => Partitioning::FromInput,
    };
    let file = Definition {
        sha256: pipeline.hash(),
        state: pipeline.keeps_state().into(),
        // Predictions name their configuration, so the stage that makes them stores the file.
        text: (config.service == Service::Inference).then(|| pipeline.text()),
    };
    topics.identity = admin.establish(&stage, file, partitioning)?;
    Ok(topics)
}
