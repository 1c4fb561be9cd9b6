//! A service's life: bind, wait for Kafka, assemble, serve, drain.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{Router, middleware};
use prost_types::FileDescriptorSet;
use quadrille_choreography::{RunningStage, Schemas};
use quadrille_telemetry::{
    Registry, Tracing, logs,
    metrics::{LoopMetrics, PortMetrics, RequestMetrics},
    push::Push,
};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    Config, Context, Error,
    calls::Calls,
    context::blocking,
    edge::{self, Edge},
    front::{Front, Mounted, Routed},
    health::{Probe, ReadyFn, Requests},
    methods::{Methods, served},
    server,
    spans::{self, RequestTelemetry},
};

/// How long running requests may take to end once the lanes have drained.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(5);
/// How often the lanes are looked after.
const WATCH_EVERY: Duration = Duration::from_millis(200);

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
    let service = config.service.name();
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
    let telemetry = Arc::new(RequestTelemetry {
        tracing: of_requests,
        metrics: requests,
        methods: Methods::of(&descriptors),
        message_max: assembly.message_max,
    });
    let routed = mount(assembly.grpc, assembly.http, &descriptors, telemetry)?;
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
    telemetry: Arc<RequestTelemetry>,
) -> Result<Routed, Error> {
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
