//! The run's one Apache Kafka, started on first use; it ends with this process, however that ends.

use std::sync::OnceLock;

use quadrille_local::{Kafka, Postgres};

/// host:port of the run's broker, or of the one in `KAFKA_BOOTSTRAP_SERVERS`.
pub fn bootstrap() -> String {
    if let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        return servers;
    }
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER
        .get_or_init(|| Kafka::options().start().expect("Apache Kafka starts"))
        .bootstrap_servers()
}

/// A new, empty database on the run's one PostgreSQL.
pub fn postgres_url(database: &str) -> String {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    let server = SERVER.get_or_init(|| Postgres::start().expect("PostgreSQL starts"));
    let url = server.url();
    let (address, _) = url.rsplit_once('/').expect("a URL with a database");
    // A schema of its own isolates as well as a database of its own and needs no client to create.
    format!("{address}/postgres?options=-c%20search_path%3D{database}")
}
