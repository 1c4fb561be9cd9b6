//! A service's settings, checked.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use quadrille_choreography::{Cluster, Delivery, Limits, OutputTopic, StageConfig};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;

use crate::{Error, args::default_instance, edge::limits::HttpConfig};

/// How long a port that is taken is tried again.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(2);

/// A service's settings, checked.
#[derive(Debug)]
pub struct Config {
    pub service: Service,
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
            service: self.service.name(),
            pipeline: name.to_owned(),
            group: self.service.group(name),
            input: self.service.input(name),
            outputs: self
                .service
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

    pub(crate) fn bind(&mut self) -> Result<tokio::net::TcpListener, Error> {
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
        tracing::info!(service = self.service.name(), %address, "listening");
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
