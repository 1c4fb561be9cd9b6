//! The four services in this process, as `quadrille up` runs them.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use quadrille::services::{self, Given};
use quadrille_choreography::{Cluster, Delivery, Limits};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use quadrille_service::{Config, Error};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::http;

const READY_WITHIN: Duration = Duration::from_secs(30);
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// What the services are told.
pub struct Options<'a> {
    pub cluster: Cluster,
    pub pipeline: Arc<Pipeline>,
    pub delivery: Delivery,
    pub lanes: usize,
    pub limits: Limits,
    /// A model package's directory.
    pub model: &'a Path,
    pub database_url: String,
}

/// Running services.
pub struct Quartet {
    runtime: Runtime,
    members: Vec<Member>,
}

struct Member {
    service: Service,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Quartet {
    /// Starts all four and waits until they are ready.
    pub fn start(options: &Options<'_>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let members = Service::ALL
            .into_iter()
            .map(|service| Member::start(service, options, &runtime))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for member in &members {
            http::ready(member.address, Instant::now(), READY_WITHIN)
                .with_context(|| member.service.name())?;
        }
        Ok(Quartet { runtime, members })
    }

    pub fn address(&self, service: Service) -> anyhow::Result<SocketAddr> {
        let member = self.members.iter().find(|member| member.service == service);
        Ok(member.context("all services run")?.address)
    }

    /// What each service says of its spans.
    pub fn spans(&self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for member in &self.members {
            let (_, metrics) = http::get(member.address, "/metrics")?;
            let own = metrics.lines().filter(|line| line.starts_with("otel_sdk"));
            lines.extend(own.map(|line| format!("{}: {line}", member.service.name())));
        }
        Ok(lines)
    }

    /// Drains all four.
    pub fn stop(self) -> anyhow::Result<()> {
        let mut tasks = Vec::new();
        for member in self.members {
            // One that has ended already says why below.
            let _ = member.stop.send(());
            tasks.push((member.service, member.task));
        }
        self.runtime.block_on(async {
            for (service, task) in tasks {
                let drained = tokio::time::timeout(DRAINED_WITHIN, task).await;
                drained
                    .with_context(|| format!("{} does not drain", service.name()))?
                    .with_context(|| format!("{} panicked", service.name()))?
                    .with_context(|| service.name())?;
            }
            Ok(())
        })
    }
}

impl Member {
    fn start(service: Service, options: &Options<'_>, runtime: &Runtime) -> anyhow::Result<Self> {
        let pipelines = vec![Arc::clone(&options.pipeline)];
        let config = Config::on_loopback(service, options.cluster.clone(), pipelines)?;
        let address = config.listen;
        let config = Config {
            instance: Some("bench".to_owned()),
            lanes: options.lanes,
            delivery: options.delivery,
            limits: options.limits.clone(),
            ..config
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let given = Given {
            state_dir: None,
            model: options.model.to_owned(),
            database_url: options.database_url.clone(),
        };
        let task = runtime.spawn(services::run(config, &given, shutdown));
        Ok(Member {
            service,
            address,
            stop,
            task,
        })
    }
}
