//! The settings all services have, each a flag and an environment variable.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use quadrille_choreography::{Cluster, Delivery, LANES_MAX, Limits};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;

use crate::{Config, Error, HttpArgs, advertise, config};

/// How outputs and progress are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeliveryArg {
    /// Outputs and offsets in one Kafka transaction.
    ExactlyOnce,
    /// Lower latency; after a crash a record may be handled twice, which its id makes harmless.
    AtLeastOnce,
}

/// Settings of every service.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Kafka's host:port, several separated by commas.
    #[arg(
        long,
        env = "KAFKA_BOOTSTRAP_SERVERS",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
    pub bootstrap_servers: String,

    /// Extra librdkafka settings, key=value, one per line or separated by commas (TLS, SASL, …).
    #[arg(
        long,
        env = "KAFKA_PROPERTIES",
        default_value = "",
        value_name = "PROPERTIES",
        hide_env_values = true
    )]
    pub kafka_properties: String,

    /// A pipeline file, or a folder of them.
    #[arg(
        long,
        env = "QUADRILLE_PIPELINE",
        default_value = "pipelines",
        value_name = "PATH"
    )]
    pub pipeline: PathBuf,

    /// Where HTTP and gRPC are served, on one port [default: 127.0.0.1 and the service's port].
    #[arg(long, env = "QUADRILLE_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// Where other replicas of this service reach this one: what they ask about keys that it holds, they ask here. The host needs no
    /// place in QUADRILLE_ALLOWED_HOSTS [default: the address it listens on, or host name and port where that is a wildcard].
    #[arg(long, env = "QUADRILLE_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Stable name of this replica; a restarted process finds its transactions by it [default: host name and port].
    #[arg(long, env = "QUADRILLE_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,

    /// Threads that consume, each a member of the group [default: the cores, at least 2].
    #[arg(long, env = "QUADRILLE_LANES", value_name = "N")]
    pub lanes: Option<usize>,

    /// How outputs and progress are made durable.
    #[arg(long, env = "QUADRILLE_DELIVERY", value_enum, default_value_t = DeliveryArg::ExactlyOnce)]
    pub delivery: DeliveryArg,

    /// MiB of records in flight in a pipeline's stage: fetched, batched and queued for sending.
    #[arg(
        long,
        env = "QUADRILLE_MEMORY",
        default_value_t = 32,
        value_name = "MIB"
    )]
    pub memory: usize,

    /// The most records in one batch, and so in one transaction.
    #[arg(
        long,
        env = "QUADRILLE_BATCH",
        default_value_t = 5_000,
        value_name = "RECORDS"
    )]
    pub batch: usize,

    /// The longest time in milliseconds that a busy lane waits between transactions: it waits for twice the time its
    /// last commit took. An idle lane does not wait.
    #[arg(
        long,
        env = "QUADRILLE_LINGER",
        default_value_t = 25,
        value_name = "MS"
    )]
    pub linger: u64,

    /// Create missing topics, with this many partitions.
    #[arg(
        long,
        env = "QUADRILLE_CREATE_TOPICS",
        value_name = "PARTITIONS",
        num_args = 0..=1,
        default_missing_value = "8",
        require_equals = true
    )]
    pub create_topics: Option<i32>,

    /// Seconds that a stopping service keeps answering requests while it reports not ready: the time a load
    /// balancer takes to notice. Its partitions are given up at once.
    #[arg(
        long,
        env = "QUADRILLE_DRAIN_DELAY",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    pub drain_delay: u64,

    #[command(flatten)]
    pub http: HttpArgs,

    /// Check whether the running service is ready, and exit: 0 if it is, 1 if not.
    #[arg(long)]
    pub healthcheck: bool,
}

impl Args {
    /// Where the service listens.
    pub(crate) fn address(&self, service: Service) -> SocketAddr {
        self.listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], service.port())))
    }

    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting, the file and line, and the fix.
    pub fn resolve(&self, service: Service) -> Result<Config, Error> {
        let cluster = Cluster::new(&self.bootstrap_servers, &self.kafka_properties)?;
        let pipelines = Pipeline::load(&self.pipeline)
            .map_err(|error| Error::Config(format!("QUADRILLE_PIPELINE: {error}")))?;
        log_warnings(&pipelines);
        self.with(
            service,
            cluster,
            pipelines.into_iter().map(Arc::new).collect(),
            self.address(service),
        )
    }

    /// Checks the settings that are not given here.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn with(
        &self,
        service: Service,
        cluster: Cluster,
        pipelines: Vec<Arc<Pipeline>>,
        listen: SocketAddr,
    ) -> Result<Config, Error> {
        self.check_ranges()?;
        let advertise = self.advertise.as_deref();
        let advertise = advertise.map(advertise::read).transpose()?;
        let mut http = self.http.resolve()?;
        let address = config::advertised(advertise.as_deref(), listen);
        http.own_host = advertise::host(&address).map(str::to_owned);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Config {
            service,
            cluster,
            pipelines,
            listen,
            listener: None,
            advertise,
            instance: self.instance.clone(),
            lanes: self.lanes.unwrap_or_else(|| lanes_of(cores)),
            delivery: match self.delivery {
                DeliveryArg::ExactlyOnce => Delivery::ExactlyOnce,
                DeliveryArg::AtLeastOnce => Delivery::AtLeastOnce,
            },
            limits: Limits {
                batch_records_max: self.batch,
                in_flight_bytes_max: self.memory << 20,
                linger_max: Duration::from_millis(self.linger),
                ..Limits::default()
            },
            create_topics: self.create_topics,
            drain_delay: Duration::from_secs(self.drain_delay),
            http,
        })
    }

    fn check_ranges(&self) -> Result<(), Error> {
        let in_range = |setting: &str, value: u64, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&value) {
                return Ok(());
            }
            let (low, high) = (range.start(), range.end());
            Err(Error::Config(format!(
                "{setting} is {value}; it must be {low} to {high}"
            )))
        };
        in_range("QUADRILLE_MEMORY", self.memory as u64, 8..=65_536)?;
        in_range("QUADRILLE_BATCH", self.batch as u64, 1..=100_000)?;
        in_range("QUADRILLE_LINGER", self.linger, 0..=1_000)?;
        in_range("QUADRILLE_DRAIN_DELAY", self.drain_delay, 0..=300)?;
        if let Some(lanes) = self.lanes {
            in_range("QUADRILLE_LANES", lanes as u64, 1..=LANES_MAX as u64)?;
        }
        if let Some(partitions) = self.create_topics {
            let partitions = u64::try_from(partitions).unwrap_or(0);
            in_range("QUADRILLE_CREATE_TOPICS", partitions, 1..=10_000)?;
        }
        Ok(())
    }
}

/// Logs the warnings of the pipeline files: what is allowed but hardly intended.
pub fn log_warnings(pipelines: &[Pipeline]) {
    for pipeline in pipelines {
        for warning in pipeline.warnings() {
            tracing::warn!(pipeline = pipeline.name(), %warning, "the pipeline file has a warning");
        }
    }
}

/// The default number of lanes: the cores, within what is allowed.
fn lanes_of(cores: usize) -> usize {
    cores.clamp(2, LANES_MAX)
}

#[cfg(test)]
mod tests {
    use quadrille_telemetry::logs::count_lines;

    use super::*;

    #[test]
    fn a_pipeline_files_warnings_are_logged_once_each() {
        const FILE: &str = r#"
            name = "p"
            record = { key = "k", fields = [{ name = "a", type = "number" }] }
            features = [{ name = "never", kind = "missing", field = "a" }]
            model = { inputs = ["never"] }
        "#;
        let pipelines = [Pipeline::parse("p.toml", FILE).unwrap()];
        assert_eq!(count_lines(|| log_warnings(&pipelines)), 1);
    }

    #[test]
    fn a_large_machine_has_as_many_lanes_as_are_allowed() {
        assert_eq!(lanes_of(1), 2);
        assert_eq!(lanes_of(16), 16);
        assert_eq!(lanes_of(192), LANES_MAX);
    }
}
