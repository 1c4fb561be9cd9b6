//! The run's one Apache Kafka, started on first use; it ends with this process, however that ends.

use std::sync::OnceLock;

use quadrille_local::{
    Kafka, Postgres,
    kafka::{Options, Release},
};

/// Of every broker that a test starts: its release is the one `QUADRILLE_TEST_KAFKA` says (3.9, 4.1 or 4.4).
pub fn options() -> Options {
    let mut options = Kafka::options();
    if let Ok(line) = std::env::var("QUADRILLE_TEST_KAFKA") {
        options.release = line.parse().expect("QUADRILLE_TEST_KAFKA");
    }
    options
}

/// Of an only broker that goes away under a test and comes back: not 4.4, which loses what was committed meanwhile or lets
/// what was aborted through (KAFKA-20734, 4.3.0 to 4.4.0): its coordinator takes a partition without a leader for a deleted
/// one, and calls the transaction complete without its markers. Under load about one restart in five did.
pub fn that_goes_away() -> Options {
    let mut options = options();
    if options.release == Release::V4_4 {
        options.release = Release::V4_1;
    }
    options
}

/// host:port of the run's broker, or of the one in `KAFKA_BOOTSTRAP_SERVERS`.
pub fn bootstrap() -> String {
    if let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        return servers;
    }
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    let start = || {
        let mut options = options();
        // It is never restarted. On a machine that is busy for seconds its own controller would take it for dead, and with it all
        // that tests rely on.
        let session = ("broker.session.timeout.ms", "60000");
        options
            .extra
            .push((session.0.to_owned(), session.1.to_owned()));
        options.start().expect("Apache Kafka starts")
    };
    BROKER.get_or_init(start).bootstrap_servers()
}

/// The run's one PostgreSQL. Worlds share its database: rows and offsets carry their pipeline's name.
pub fn postgres_url() -> String {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER
        .get_or_init(|| Postgres::start().expect("PostgreSQL starts"))
        .url()
        .to_owned()
}
