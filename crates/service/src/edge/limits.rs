//! Settings of the port: limits, timeouts, and who may call.

use std::time::Duration;

use crate::Error;

/// Settings of the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Open connections.
    pub connections_max: usize,
    /// Concurrent requests, over all connections.
    pub requests_max: usize,
    /// Concurrent requests of one HTTP/2 connection.
    pub streams_max: u32,
    /// Bytes held in memory over all requests: decompressed bodies, large responses until they are read, and compression.
    pub body_memory_max: usize,
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long a body may make no progress, in either direction.
    pub body_timeout: Duration,
    /// How long a connection without a request stays open.
    pub idle_timeout: Duration,
    /// How often an HTTP/2 connection is pinged; one that does not answer is closed.
    pub ping_interval: Duration,
    /// Accepted names in `Host`, besides IP addresses and localhost.
    pub allowed_hosts: Vec<String>,
    /// The name by which other replicas call, accepted as well.
    pub own_host: Option<String>,
    /// Origins of other sites whose pages may call the service.
    pub allowed_origins: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            // Half of the default limit on file descriptors (1,024); Kafka's client needs some, too.
            connections_max: 512,
            requests_max: 2_048,
            // HAProxy opens up to 100 streams on a connection to a server.
            streams_max: 128,
            body_memory_max: 64 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            // Longer than the idle timeouts of load balancers and clients (a minute or two), so that they close first.
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            own_host: None,
            allowed_origins: Vec::new(),
        }
    }
}

impl HttpConfig {
    /// Checks that a body of `bytes_max`, the largest that `setting` allows, fits into the memory for bodies.
    ///
    /// # Errors
    /// It does not; names both settings.
    pub fn check_body(&self, setting: &str, bytes_max: usize) -> Result<(), Error> {
        let memory = self.body_memory_max;
        if bytes_max <= memory {
            return Ok(());
        }
        Err(Error::Config(format!(
            "QUADRILLE_BODY_MEMORY is {} MiB and could not hold one body: {setting} is {bytes_max} bytes; raise the one or lower the other",
            memory >> 20
        )))
    }
}

/// Flags and environment variables of the port.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The port")]
pub struct HttpArgs {
    /// Limit on open connections. At the limit idle ones are closed; if none is idle, only probes are answered.
    #[arg(long, env = "QUADRILLE_CONNECTIONS", default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,

    /// Limit on concurrent requests; further ones are answered 503 or RESOURCE_EXHAUSTED. Open gRPC streams are limited to half of it,
    /// and to half of the connections.
    #[arg(long, env = "QUADRILLE_REQUESTS", default_value_t = 2_048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,

    /// Limit on concurrent requests of one HTTP/2 connection.
    #[arg(long, env = "QUADRILLE_STREAMS", default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub streams: u32,

    /// Limit in MiB on memory for decompressed request bodies, and for responses above 64 KiB until the client has read them.
    /// Requests that do not fit are answered 503 or RESOURCE_EXHAUSTED.
    #[arg(long, env = "QUADRILLE_BODY_MEMORY", default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub body_memory: u32,

    /// Seconds that the head of a request may take to arrive.
    #[arg(long, env = "QUADRILLE_HEADER_TIMEOUT", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub header_timeout: u32,

    /// Seconds that a body may make no progress, in either direction. One that takes longer in all must be sent, or read,
    /// at 8 KiB/s or more on average.
    #[arg(long, env = "QUADRILLE_BODY_TIMEOUT", default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub body_timeout: u32,

    /// Seconds that a connection without a request stays open.
    #[arg(long, env = "QUADRILLE_IDLE_TIMEOUT", default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub idle_timeout: u32,

    /// Seconds between two pings of an HTTP/2 connection; one that does not answer is closed.
    #[arg(long, env = "QUADRILLE_PING_INTERVAL", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub ping_interval: u32,

    /// Host names accepted besides localhost and IP addresses, separated by commas; *.example.com stands for all names
    /// below it, * for every name. Without a list, names are checked on loopback only.
    #[arg(
        long,
        env = "QUADRILLE_ALLOWED_HOSTS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub allowed_hosts: Vec<String>,

    /// Origins of other sites whose pages may call the service from a browser (`https://app.example.com`), separated
    /// by commas; * for all.
    #[arg(
        long,
        env = "QUADRILLE_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<String>,
}

impl HttpArgs {
    /// # Errors
    /// Names the setting and the fix.
    pub(crate) fn resolve(&self) -> Result<HttpConfig, Error> {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Ok(HttpConfig {
            connections_max: self.connections as usize,
            requests_max: self.requests as usize,
            streams_max: self.streams,
            body_memory_max: (self.body_memory as usize) << 20,
            header_timeout: seconds(self.header_timeout),
            body_timeout: seconds(self.body_timeout),
            idle_timeout: seconds(self.idle_timeout),
            ping_interval: seconds(self.ping_interval),
            allowed_hosts: listed(&self.allowed_hosts, host)?,
            own_host: None,
            allowed_origins: listed(&self.allowed_origins, origin)?,
        })
    }
}

/// The values without blanks; an empty variable is an empty list.
fn listed(
    given: &[String],
    read: impl Fn(&str) -> Result<String, Error>,
) -> Result<Vec<String>, Error> {
    let given = given.iter().map(|one| one.trim());
    given.filter(|one| !one.is_empty()).map(read).collect()
}

fn host(given: &str) -> Result<String, Error> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = given.strip_prefix("*.").unwrap_or(given);
    if given == "*" || (!name.is_empty() && name.chars().all(is_name)) {
        return Ok(given.to_ascii_lowercase());
    }
    Err(Error::Config(format!(
        "QUADRILLE_ALLOWED_HOSTS: {given:?} is no host name; give names without scheme and port, as service.example.com or *.example.com"
    )))
}

fn origin(given: &str) -> Result<String, Error> {
    let authority = given
        .strip_prefix("https://")
        .or_else(|| given.strip_prefix("http://"));
    if given == "*" || authority.is_some_and(|it| !it.is_empty() && !it.contains('/')) {
        return Ok(given.to_ascii_lowercase());
    }
    Err(Error::Config(format!(
        "QUADRILLE_ALLOWED_ORIGINS: {given:?} is no origin; give scheme, host and port as browsers do, without a path: https://app.example.com"
    )))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        http: HttpArgs,
    }

    fn resolve(args: &[&str]) -> Result<HttpConfig, String> {
        let args = [&["service"], args].concat();
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        cli.http.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_and_the_library_have_the_same_defaults() {
        assert_eq!(resolve(&[]).unwrap(), HttpConfig::default());
    }

    #[test]
    fn hosts_and_origins_are_lists_and_what_cannot_be_one_is_refused() {
        let config = resolve(&["--allowed-hosts", "A.example, *.b.example,"]).unwrap();
        assert_eq!(config.allowed_hosts, ["a.example", "*.b.example"]);
        let config = resolve(&["--allowed-origins=https://a.example:8443"]).unwrap();
        assert_eq!(config.allowed_origins, ["https://a.example:8443"]);
        for wrong in [
            "--allowed-hosts=http://a.example",
            "--allowed-hosts=a.example:80",
            "--allowed-origins=a.example",
            "--allowed-origins=https://a.example/",
            "--connections=0",
        ] {
            assert!(resolve(&[wrong]).is_err(), "{wrong}");
        }
    }
}
