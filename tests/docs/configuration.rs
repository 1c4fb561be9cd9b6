//! `docs/reference/configuration.md`: every setting of the four services, from their clap definitions.

use std::fmt::Write;

use clap::{CommandFactory, Parser};
use quadrille_service::Error;

use crate::{
    files, generated,
    options::{self, Row},
};

const INTRODUCTION: &str = "\
Every setting of a service is a flag and an environment variable. A flag goes before the variable, which goes before the
default. A variable that is set to nothing is an empty value, which most settings refuse: unset it instead. A wrong setting ends the service with exit
code 64 and a message that names the setting and the fix; `--help` of each binary prints the flags. The commands of `quadrille` are on
[another page](cli.md).
";

const SECRETS: &str = "\
## Secrets

- `DATABASE_URL` holds a password with PostgreSQL. Mount it as a file and name the file in `DATABASE_URL_FILE`; where both are set, the
  file is used. It is read once, at the start; white space around the URL is ignored.
- `KAFKA_PROPERTIES` may hold passwords (`sasl.password`, `ssl.key.password`). Keys and certificates can be named by
  `ssl.key.location`, `ssl.certificate.location` and `ssl.ca.location`, which librdkafka reads from files. There is no `KAFKA_PROPERTIES_FILE`.
- Neither is shown by `--help` or in the log.
";

/// What the groups of settings are called, and what belongs to each. A setting that is in none fails the test.
const GROUPS: [(&str, &[&str]); 3] = [
    (
        "Kafka and pipelines",
        &[
            "bootstrap_servers",
            "kafka_properties",
            "pipeline",
            "instance",
            "create_topics",
        ],
    ),
    (
        "Processing",
        &["lanes", "delivery", "memory", "batch", "linger"],
    ),
    (
        "The port",
        &[
            "listen",
            "advertise",
            "drain_delay",
            "connections",
            "requests",
            "streams",
            "body_memory",
            "header_timeout",
            "body_timeout",
            "idle_timeout",
            "ping_interval",
            "allowed_hosts",
            "allowed_origins",
            "healthcheck",
        ],
    ),
];

/// Variables that are no flags: name, default, meaning, and what the code that reads them says (a file and a text in it).
type Elsewhere = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const TELEMETRY: [Elsewhere; 13] = [
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "none: nothing is exported",
        "URL of the collector of traces, metrics and logs, `http://host:4317`. OTLP over gRPC.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "as above",
        "The collector of one signal.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_EXPORTER_OTLP_{}_ENDPOINT",
    ),
    (
        "OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER, OTEL_LOGS_EXPORTER",
        "`otlp`",
        "`otlp` or `none`: whether a signal is exported.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_{}_EXPORTER",
    ),
    (
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc`",
        "Only `grpc` is built in.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ),
    (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "10000",
        "Milliseconds that the collector has to take one export; `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT` and its like for one signal.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "none",
        "Headers sent to the collector: `key=value`, separated by commas, values percent-encoded; \
         `OTEL_EXPORTER_OTLP_TRACES_HEADERS` and its like for one signal.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ),
    (
        "OTEL_SDK_DISABLED",
        "`false`",
        "`true` exports nothing.",
        "crates/telemetry/src/otlp.rs",
        "OTEL_SDK_DISABLED",
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "none",
        "Attributes of everything that is exported, `key=value`, separated by commas.",
        "crates/telemetry/src/otlp.rs",
        "Resource::builder()",
    ),
    (
        "OTEL_METRIC_EXPORT_INTERVAL",
        "60000",
        "Milliseconds between two exports of the metrics.",
        "crates/telemetry/src/push.rs",
        "OTEL_METRIC_EXPORT_INTERVAL",
    ),
    (
        "OTEL_TRACES_SAMPLER",
        "`parentbased_always_on`",
        "Which records and requests without a trace context begin a trace: `always_on`, `always_off` or `traceidratio`, each also as `parentbased_…`.",
        "crates/telemetry/src/traces/sampling.rs",
        "OTEL_TRACES_SAMPLER",
    ),
    (
        "OTEL_TRACES_SAMPLER_ARG",
        "1",
        "The ratio of `traceidratio`, 0 to 1.",
        "crates/telemetry/src/traces/sampling.rs",
        "OTEL_TRACES_SAMPLER_ARG",
    ),
    (
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "65536",
        "Spans that wait for the collector, half a KiB each at most; further ones are dropped and counted.",
        "crates/telemetry/src/traces/export.rs",
        "OTEL_BSP_MAX_QUEUE_SIZE",
    ),
    (
        "RUST_LOG",
        "`info,librdkafka=warn,sqlx=warn`",
        "What is logged, as [directives](https://docs.rs/tracing-subscriber/latest/tracing_subscriber/filter/struct.EnvFilter.html#directives). \
         Logs go to standard error: as text on a terminal, else as JSON, one object per line.",
        "crates/telemetry/src/logs.rs",
        "RUST_LOG",
    ),
];

const STORES: [Elsewhere; 4] = [
    (
        "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL",
        "AWS",
        "The S3-compatible store, `http(s)://host:port`; the first goes before the second.",
        "crates/registry/src/store/s3.rs",
        "AWS_ENDPOINT_URL_S3",
    ),
    (
        "AWS_REGION",
        "`us-east-1`",
        "The region that requests are signed for.",
        "crates/registry/src/store/s3.rs",
        "AWS_REGION",
    ),
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "none: requests are not signed",
        "Credentials. A public bucket needs none.",
        "crates/registry/src/store/s3.rs",
        "AWS_ACCESS_KEY_ID",
    ),
    (
        "SSL_CERT_FILE",
        "the system's",
        "Root certificates, in PEM.",
        "Cargo.toml",
        "native-tls",
    ),
];

const TOOLS: [Elsewhere; 5] = [
    (
        "QUADRILLE_CACHE",
        "`quadrille` in the user's cache folder",
        "Where `quadrille up --kafka` and the tests keep the software that they fetch.",
        "crates/local/src/cache.rs",
        "QUADRILLE_CACHE",
    ),
    (
        "JAVA_HOME",
        "`java` of the search path",
        "The Java that runs the Kafka of `quadrille up --kafka`: 17 or newer.",
        "crates/local/src/java.rs",
        "JAVA_HOME",
    ),
    (
        "SOURCE_DATE_EPOCH",
        "0",
        "Seconds since 1970 that `quadrille train` and `quadrille model import` write into a package as its time; equal input gives an equal package.",
        "src/training.rs",
        "SOURCE_DATE_EPOCH",
    ),
    (
        "USER, LOGNAME, USERNAME",
        "`unknown`",
        "Who pushed a model, changed a deployment or settled a dead letter, where `--by` does not say.",
        "src/registry.rs",
        "LOGNAME",
    ),
    (
        "HOSTNAME",
        "`localhost`",
        "The host's name where the system does not say it: a part of the default of `QUADRILLE_INSTANCE`, and of who changed a deployment.",
        "crates/service/src/config.rs",
        "HOSTNAME",
    ),
];

struct OfService {
    name: &'static str,
    rows: Vec<Row>,
}

/// A service's settings, with the ranges that it checks after parsing.
fn of_service<Cli: CommandFactory + Parser, Config>(
    name: &'static str,
    config: impl Fn(Cli) -> Result<Config, Error>,
) -> OfService {
    let mut rows = options::rows(&Cli::command());
    let pipeline = files::place("pipelines/diabetes.toml");
    for row in &mut rows {
        let Some(long) = row
            .name
            .strip_prefix("--")
            .and_then(|it| it.split([' ', '[']).next())
        else {
            continue;
        };
        if row.range.is_some() || row.value_name.is_none() {
            continue;
        }
        let given = options::far_too_much(long);
        let line = [name, "--pipeline", &pipeline.to_string_lossy(), &given].map(str::to_owned);
        // The pipeline cannot be given twice.
        let parsed = (row.id != "pipeline")
            .then(|| Cli::try_parse_from(line).ok())
            .flatten();
        let refused = parsed.and_then(|cli| config(cli).err());
        row.range = refused.and_then(|error| options::range_of_check(&error.to_string()));
    }
    OfService { name, rows }
}

pub fn page() -> String {
    let services = [
        of_service("ingest", ingest::Cli::config),
        of_service("feature", feature::Cli::config),
        of_service("inference", inference::Cli::config),
        of_service("results", results::Cli::config),
    ];
    let everywhere = |row: &&Row| services.iter().all(|service| service.rows.contains(row));
    let shared: Vec<&Row> = services[0].rows.iter().filter(everywhere).collect();
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Every service\n");
    for (title, ids) in GROUPS {
        let _ = write!(text, "\n### {title}\n\n");
        let find = |id: &&str| shared.iter().find(|row| row.id == **id);
        let rows = ids
            .iter()
            .map(|id| *find(id).unwrap_or_else(|| panic!("{id} is no setting")));
        table(&mut text, rows);
    }
    let grouped = |row: &&&Row| GROUPS.iter().any(|(_, ids)| ids.contains(&row.id.as_str()));
    let forgotten: Vec<&&Row> = shared.iter().filter(|row| !grouped(row)).collect();
    assert!(forgotten.is_empty(), "add them to GROUPS: {forgotten:?}");
    for service in &services {
        let own = service.rows.iter().filter(|row| !shared.contains(row));
        let own: Vec<&Row> = own.collect();
        if !own.is_empty() {
            let _ = write!(text, "\n## Of {} alone\n\n", service.name);
            table(&mut text, own.into_iter());
        }
    }
    text.push('\n');
    text.push_str(SECRETS);
    for (title, variables) in [
        ("Telemetry and logs", &TELEMETRY[..]),
        (
            "Object stores of model artefacts (inference, `quadrille model push`)",
            &STORES,
        ),
        ("Of `quadrille` and the tests", &TOOLS),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n| variable | default | meaning |\n| --- | --- | --- |\n"
        );
        for (name, default, meaning, file, evidence) in variables {
            assert!(
                files::read(file).contains(evidence),
                "{name} is not read in {file}"
            );
            let names = name.replace(", ", "`, `");
            let _ = writeln!(text, "| `{names}` | {default} | {meaning} |");
        }
    }
    generated("Configuration", &text)
}

fn table<'a>(text: &mut String, rows: impl Iterator<Item = &'a Row>) {
    text.push_str(
        "| variable | flag | default | unit, range | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let variable = row.variable.as_ref().map(|it| format!("`{it}`"));
        let unit = row.value_name.as_deref().and_then(unit).unwrap_or_default();
        let range = row.range.clone().unwrap_or_default();
        let bounds = match (unit.is_empty(), range.is_empty()) {
            (false, false) => format!("{unit}, {range}"),
            _ => format!("{unit}{range}"),
        };
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {bounds} | {} |",
            variable.unwrap_or_default(),
            row.name,
            row.default.clone().unwrap_or_else(|| "none".to_owned()),
            row.meaning,
        );
    }
}

fn unit(value_name: &str) -> Option<&'static str> {
    Some(match value_name {
        "BYTES" => "bytes",
        "MIB" => "MiB",
        "MS" => "ms",
        "PARTITIONS" => "partitions",
        "RECORDS" => "records",
        "ROWS" => "rows",
        "SECONDS" => "s",
        "VALUES" => "values",
        _ => return None,
    })
}
