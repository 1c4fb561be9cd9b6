//! The lifecycle of a service: bind, wait for Kafka, assemble, serve, drain.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{Router, middleware};
use prost_types::FileDescriptorSet;
use quadrille_choreography::{Delivery, Schemas};
use quadrille_telemetry::{
    Registry, Tracing, logs,
    metrics::{LoopMetrics, PortMetrics, RequestMetrics},
    push::Push,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::{
    Config, Context, Error, MessageMax,
    blocking::blocking,
    calls::Calls,
    edge::{self, Edge},
    front::{Front, Mounted, Routed},
    health::{Probe, Requests},
    methods::{Methods, served},
    server,
    spans::{self, RequestTelemetry},
    stages::Stages,
    task::{Drain, Tasks},
};

/// How long running requests may take to end once the lanes have drained.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(5);
/// How often to check whether a lane or a task has ended.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// A service, ready to serve.
pub struct Assembly {
    pub http: Router,
    pub grpc: Calls,
    /// The largest message that `grpc` accepts.
    pub message_max: MessageMax,
    pub requests: Requests,
}

/// Runs a service until `shutdown`, then drains it: `assemble` builds it once the port is bound.
///
/// # Errors
/// A setting is invalid, or the service cannot continue.
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
    let registry = Registry::default();
    let instance = config.instance();
    let service = config.service.name();
    let logs = logs::Export::from_env(service, &instance).map_err(Error::Config)?;
    let tracing = Tracing::from_env(service, &instance, &registry).map_err(Error::Config)?;
    let push = Push::from_env(service, &instance, &registry).map_err(Error::Config)?;
    log_settings(&config);
    let metrics = RequestMetrics::register(&registry);
    let port_metrics = PortMetrics::register(&registry);
    let (http, drain_delay) = (config.http.clone(), config.drain_delay);
    let schemas = Schemas::new(&config.cluster);
    let (stages, tasks) = (Stages::default(), Tasks::default());
    let probe = Probe::new(stages.clone(), tasks.clone());
    let context = Context {
        metrics: LoopMetrics::register(&registry),
        tracing: tracing.clone(),
        registry: registry.clone(),
        schemas: schemas.clone(),
        config: Arc::new(config),
        stopping: stopping.into(),
        stages: stages.clone(),
        tasks: tasks.clone(),
        probe: probe.clone(),
    };
    let mounted: Mounted = Arc::new(OnceLock::new());
    let (reporter, health) = tonic_health::server::health_reporter();
    // The reporter starts out as SERVING.
    report_unready(&reporter, &[]).await;
    let health = Routes::new(health);
    let router = server::router(probe.clone(), registry, health, Arc::clone(&mounted));
    let edge = Edge::new(http, port_metrics, Front::new(router, Arc::clone(&mounted)));
    let port = Port::serve(listener, edge);
    let names = Arc::new(OnceLock::new());
    let report = probe.clone().report(reporter.clone(), Arc::clone(&names));
    let reporting = tokio::spawn(report);

    let mut shutdown = std::pin::pin!(shutdown);
    let assembly = tokio::select! {
        assembly = assemble(context) => assembly.map(Some),
        () = &mut shutdown => Ok(None),
        () = ended(&stages, &tasks) => Ok(None),
    };
    let assembled = assembly.and_then(|assembly| {
        let Some(assembly) = assembly else {
            return Ok(false);
        };
        let _ = names.set(assembly.grpc.names());
        let descriptors = descriptors(&assembly.grpc.names())?;
        let telemetry = RequestTelemetry {
            tracing: tracing.clone(),
            metrics,
            methods: Methods::of(&descriptors),
            message_max: assembly.message_max,
        };
        // Mounted before it is ready: the first request follows at once.
        let routed = mount(assembly.grpc, assembly.http, &descriptors, telemetry)?;
        let _ = mounted.set(routed);
        probe.assembled(assembly.requests);
        Ok(true)
    });
    match &assembled {
        Ok(true) => tokio::select! {
            () = &mut shutdown => {}
            () = ended(&stages, &tasks) => {
                tracing::error!("a stage or task ended unexpectedly; draining");
            }
        },
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the service cannot start"),
    }
    let drain_began = Instant::now();
    probe.drain();
    reporting.abort();
    report_unready(&reporter, names.get().map_or(&[], Vec::as_slice)).await;
    let _ = stop.send(true);
    schemas.end();
    let (first, beside) = tokio::join!(stages.drain(), tasks.drain(Drain::WithStages));
    let after = tasks.drain(Drain::AfterStages).await;
    if let Ok(true) = assembled {
        // Load balancers keep sending requests until they notice.
        tokio::time::sleep(drain_delay.saturating_sub(drain_began.elapsed())).await;
    }
    port.close().await;
    let last = tasks.drain(Drain::AfterRequests).await;
    let result = assembled.and(first).and(beside).and(after).and(last);
    if result.is_ok() {
        tracing::info!("drained");
    }
    push.shutdown().await;
    blocking(move || {
        tracing.shutdown();
        logs.shutdown();
    })
    .await?;
    result
}

/// Logs the settings that whoever reads the log later needs to know.
fn log_settings(config: &Config) {
    let pipelines = config.pipelines.iter().map(|pipeline| pipeline.name());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        service = config.service.name(),
        instance = config.instance(),
        kafka = config.cluster.bootstrap_servers(),
        pipelines = pipelines.collect::<Vec<_>>().join(", "),
        lanes = config.lanes,
        delivery = match config.delivery {
            Delivery::ExactlyOnce => "exactly-once",
            Delivery::AtLeastOnce => "at-least-once",
        },
        "starting"
    );
}

async fn report_unready(reporter: &HealthReporter, services: &[&'static str]) {
    for service in std::iter::once(&"").chain(services) {
        let status = tonic_health::ServingStatus::NotServing;
        reporter.set_service_status(*service, status).await;
    }
}

/// The running server of HTTP and gRPC.
struct Port {
    close: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Port {
    fn serve(listener: TcpListener, edge: Edge) -> Self {
        let (close, mut closing) = watch::channel(false);
        let server = tokio::spawn(edge::serve(listener, edge, async move {
            let _ = closing.wait_for(|closing| *closing).await;
        }));
        Port { close, server }
    }

    /// Stops accepting, and waits for running requests, for at most [`REQUESTS_END_WITHIN`].
    async fn close(mut self) {
        let _ = self.close.send(true);
        let ended = tokio::time::timeout(REQUESTS_END_WITHIN, &mut self.server).await;
        if ended.is_err() {
            self.server.abort();
            tracing::warn!("requests did not end in time; aborted");
        }
    }
}

/// Resolves when a lane or a task has ended without being asked to.
async fn ended(stages: &Stages, tasks: &Tasks) {
    while !stages.has_ended() && !tasks.has_ended() {
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Descriptors of all gRPC services of the port: the service's own, health and reflection.
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

/// What the port serves once the service is assembled.
fn mount(
    grpc: Calls,
    http: Router,
    descriptors: &FileDescriptorSet,
    telemetry: RequestTelemetry,
) -> Result<Routed, Error> {
    let telemetry = Arc::new(telemetry);
    let failed = |error: tonic_reflection::server::Error| Error::Failed(error.to_string());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(descriptors.clone())
    };
    let trace = middleware::from_fn_with_state(Arc::clone(&telemetry), spans::trace_http);
    Ok(Routed {
        grpc: grpc
            .with(reflection().build_v1().map_err(failed)?)
            .with(reflection().build_v1alpha().map_err(failed)?),
        http: http.layer(trace).fallback(server::not_found),
        telemetry,
    })
}

#[cfg(test)]
mod tests;
