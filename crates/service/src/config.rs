//! A service's settings, checked.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use quadrille_choreography::{Cluster, Delivery, Limits, OutputTopic, StageConfig, config};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{Service, StageSpec};

use crate::{Error, edge::limits::HttpConfig, listener};

/// Partitions of topics created with `--create-topics`, if none of the pipeline's topics exists yet.
const PARTITIONS_DEFAULT: i32 = 8;

/// A service's settings, checked.
#[derive(Debug)]
pub struct Config {
    pub service: Service,
    pub cluster: Cluster,
    pub pipelines: Vec<Arc<Pipeline>>,
    /// The address of the port; with the port that the system chose, once it is bound.
    pub listen: SocketAddr,
    /// Already bound, for callers that need to know the port.
    pub listener: Option<TcpListener>,
    /// Where other replicas reach this one; by default where it listens.
    pub advertise: Option<String>,
    /// Stable name of this replica; by default host name and port.
    pub instance: Option<String>,
    /// Lanes of each stage, 1 to 64.
    pub lanes: usize,
    pub delivery: Delivery,
    pub limits: Limits,
    /// Create missing topics with this many partitions; None: do not create topics.
    pub create_topics: Option<i32>,
    /// How long requests are still answered after `/readyz` has begun to fail.
    pub drain_delay: Duration,
    /// Limits of the port, and who may call it.
    pub http: HttpConfig,
}

impl Config {
    /// Default settings, one lane and no drain delay, on a free port of the loopback interface: for tests, benchmarks and
    /// whatever else runs services in its own process.
    ///
    /// # Errors
    /// No port is free.
    pub fn on_loopback(
        service: Service,
        cluster: Cluster,
        pipelines: Vec<Arc<Pipeline>>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Config {
            service,
            cluster,
            pipelines,
            listen: listener.local_addr()?,
            listener: Some(listener),
            advertise: None,
            instance: None,
            lanes: 1,
            delivery: Delivery::default(),
            limits: Limits::default(),
            create_topics: None,
            drain_delay: Duration::ZERO,
            http: HttpConfig::default(),
        })
    }

    /// The loop's settings of a stage of one pipeline.
    pub fn stage_config(&self, stage: &StageSpec, pipeline: &Pipeline) -> StageConfig {
        let name = pipeline.name();
        StageConfig {
            cluster: self.cluster.clone(),
            service: self.service.name(),
            pipeline: name.to_owned(),
            group: stage.group(name),
            input: stage.input(name),
            outputs: stage
                .outputs(name, pipeline.keeps_state().into())
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

    /// # Errors
    /// The stage keeps state and does not deliver exactly once: what is repeated would count twice.
    pub(crate) fn check_delivery(
        &self,
        stage: &StageSpec,
        pipeline: &Pipeline,
    ) -> Result<(), Error> {
        let state = stage.state_topics(pipeline.name(), pipeline.keeps_state().into());
        match self.delivery {
            Delivery::AtLeastOnce if !state.is_empty() => {
                Err(config::Error::StateNeedsTransactions.into())
            }
            Delivery::AtLeastOnce | Delivery::ExactlyOnce => Ok(()),
        }
    }

    /// The name of this replica.
    pub fn instance(&self) -> String {
        let instance = self.instance.clone();
        instance.unwrap_or_else(|| default_instance(self.listen))
    }

    /// Where other replicas of this service reach this one: `host:port`. Once the port is bound.
    pub fn advertised(&self) -> String {
        advertised(self.advertise.as_deref(), self.listen)
    }

    /// How many partitions topics get that are created now.
    pub fn partitions_to_create(&self) -> i32 {
        self.create_topics.unwrap_or(PARTITIONS_DEFAULT)
    }

    pub(crate) fn bind(&mut self) -> Result<tokio::net::TcpListener, Error> {
        let (service, bound) = (self.service.name(), self.listener.take());
        let listener = listener::bind(service, "QUADRILLE_LISTEN", self.listen, bound)?;
        let address = listener.local_addr();
        self.listen = address.map_err(|error| Error::Failed(format!("own address: {error}")))?;
        Ok(listener)
    }
}

/// Where others reach what listens there.
pub(crate) fn advertised(given: Option<&str>, listen: SocketAddr) -> String {
    match given {
        Some(address) => address.to_owned(),
        None if listen.ip().is_unspecified() => default_instance(listen),
        None => listen.to_string(),
    }
}

/// Host name and port: as stable as the port.
fn default_instance(listen: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
        .collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{host}:{}", listen.port())
}
