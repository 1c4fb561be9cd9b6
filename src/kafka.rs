//! Which Kafka a command talks to, and its blocking calls kept off the runtime.

use quadrille_choreography::{Admin, Cluster};
use quadrille_service::Error;

/// Flags of the connection stand below a command's own. Named at each flag: a heading of the whole struct would go on over
/// the flags that follow it in the command.
pub const HEADING: &str = "Kafka";

/// Flags of every command that talks to Kafka.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Kafka {
    /// Kafka's host:port, several separated by commas.
    #[arg(
        long,
        help_heading = HEADING,
        env = "KAFKA_BOOTSTRAP_SERVERS",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
    pub bootstrap_servers: String,

    /// Extra librdkafka settings, key=value, one per line or separated by commas (TLS, SASL, …).
    #[arg(
        long,
        help_heading = HEADING,
        env = "KAFKA_PROPERTIES",
        default_value = "",
        value_name = "PROPERTIES",
        hide_env_values = true
    )]
    pub kafka_properties: String,
}

impl Kafka {
    /// # Errors
    /// A setting that cannot be, by name.
    pub fn cluster(&self) -> Result<Cluster, Error> {
        Ok(Cluster::new(
            &self.bootstrap_servers,
            &self.kafka_properties,
        )?)
    }
}

/// One question, whose answer does not matter, nor whether this user may have it. It fails after 10 s and says why: what else commands ask may wait a minute for a Kafka
/// that is away, or say no more than that the time is up. Blocks.
///
/// # Errors
/// Kafka does not answer.
pub fn reach(cluster: &Cluster) -> Result<(), Error> {
    Ok(Admin::connect(cluster)?.reach()?)
}

/// Runs work that blocks on a thread of its own.
///
/// # Errors
/// The work's own, or it ended without an answer.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Failed(format!("the work was cut short: {error}"))),
    }
}
