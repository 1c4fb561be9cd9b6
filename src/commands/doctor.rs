//! `quadrille doctor`: everything that a pipeline needs looked at, nothing changed, and what to do about it.

mod cluster;
mod database;
mod ports;

use std::time::Duration;

use quadrille_choreography::Cluster;
use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use quadrille_service::Error;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, OutputArg, Table},
    pipelines::PipelineArg,
};

/// Kafka's first answer: one question of 10 s, and a moment for its error, which says why there is none.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_millis(10_500);
/// Between two answers of a Kafka that has answered before.
const NEXT_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Checks that wait to be collected: they come seldom and are taken at once.
const CHECKS_WAITING_MAX: usize = 16;

const EXAMPLES: &str = "\
Examples:
  quadrille doctor
  quadrille doctor --pipeline pipelines/diabetes.toml --bootstrap-servers kafka:9092
  quadrille doctor --output json | jq '.checks[] | select(.status != \"ok\")'

Nothing is changed: no topic is made, no group joined, no database written. A warning is what may be meant, such as a
service that does not run.

Exit codes: 0 nothing failed, 1 a check failed, 64 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    /// The database of the results service.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:results.db",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: String,

    /// The first of the four ports on this machine: ingest; the others follow.
    #[arg(long, default_value_t = Service::Ingest.port(), value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_532))]
    port: u16,

    #[command(flatten)]
    output: OutputArg,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    /// It may be meant, or is no matter for now.
    Warning,
    /// Records will not be predicted like this.
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    of: String,
    status: Status,
    /// What was found and, where it is not well, what to do.
    found: String,
}

impl Check {
    fn new(of: impl Into<String>, status: Status, found: impl ToString) -> Self {
        Check {
            of: of.into(),
            status,
            found: found.to_string(),
        }
    }

    fn ok(of: impl Into<String>, found: impl ToString) -> Self {
        Check::new(of, Status::Ok, found)
    }

    fn warning(of: impl Into<String>, found: impl ToString) -> Self {
        Check::new(of, Status::Warning, found)
    }

    fn failed(of: impl Into<String>, found: impl ToString) -> Self {
        Check::new(of, Status::Failed, found)
    }
}

/// # Errors
/// A check failed, or standard output cannot be written.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut checks = vec![Check::ok(
        "version",
        format!("quadrille {}", env!("CARGO_PKG_VERSION")),
    )];
    let pipelines = pipelines(&args.pipeline, &mut checks);
    let (of_kafka, of_database, of_ports) = tokio::join!(
        kafka(&args.kafka, pipelines),
        database::check(&args.database_url),
        ports::check(args.port),
    );
    checks.extend(of_kafka);
    checks.push(of_database);
    checks.extend(of_ports);
    let failed = checks.iter().filter(|it| it.status == Status::Failed);
    let failed = failed.count();
    let _ = match args.output.get() {
        Output::Text => output::print(table(&checks))?,
        Output::Json => output::print(to_json(&checks))?,
    };
    match failed {
        0 => Ok(()),
        count => Err(Error::Failed(format!(
            "{} of {} failed",
            count,
            output::counted(checks.len(), "check")
        ))),
    }
}

/// Whether pipeline files can be read; those that can.
fn pipelines(given: &PipelineArg, checks: &mut Vec<Check>) -> Vec<Pipeline> {
    match given.all() {
        Ok(pipelines) => {
            let names: Vec<&str> = pipelines.iter().map(Pipeline::name).collect();
            checks.push(Check::ok("pipelines", names.join(", ")));
            pipelines
        }
        Err(error) => {
            checks.push(Check::failed("pipelines", error));
            Vec::new()
        }
    }
}

/// What Kafka is asked, for as long as it answers.
async fn kafka(given: &Kafka, pipelines: Vec<Pipeline>) -> Vec<Check> {
    let cluster = match given.cluster() {
        Ok(cluster) => cluster,
        Err(error) => return vec![Check::failed("kafka settings", error)],
    };
    let servers = cluster.bootstrap_servers().to_owned();
    let (send, mut receive) = mpsc::channel(CHECKS_WAITING_MAX);
    // Ends by itself, or with the process.
    let asking = tokio::spawn(blocking(move || {
        ask(&cluster, &pipelines, &send);
        Ok(())
    }));
    let mut checks = Vec::new();
    let mut within = FIRST_ANSWER_WITHIN;
    loop {
        match timeout(within, receive.recv()).await {
            Ok(Some(check)) => checks.push(check),
            Ok(None) => break,
            Err(_) => {
                let seconds = within.as_secs();
                checks.push(Check::failed(
                    "kafka",
                    format!("{servers} does not answer within {seconds} s; check KAFKA_BOOTSTRAP_SERVERS, KAFKA_PROPERTIES and the network"),
                ));
                asking.abort();
                break;
            }
        }
        within = NEXT_ANSWER_WITHIN;
    }
    checks
}

fn ask(cluster: &Cluster, pipelines: &[Pipeline], send: &mpsc::Sender<Check>) {
    for check in cluster::checks(cluster, pipelines) {
        // Nobody collects any more.
        if send.blocking_send(check).is_err() {
            return;
        }
    }
}

fn table(checks: &[Check]) -> Table {
    let mut table = Table::new(&["CHECK", "STATUS", "FOUND"]);
    for check in checks {
        table.row(vec![
            check.of.clone(),
            check.status.name().to_owned(),
            check.found.clone(),
        ]);
    }
    table
}

fn to_json(checks: &[Check]) -> Value {
    let ok = checks.iter().all(|it| it.status != Status::Failed);
    let checks = checks
        .iter()
        .map(|it| json!({ "check": it.of, "status": it.status.name(), "found": it.found }));
    json!({ "ok": ok, "checks": checks.collect::<Vec<Value>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_no_failure() {
        let mut checks = vec![Check::ok("a", "fine"), Check::warning("b", "perhaps")];
        assert_eq!(to_json(&checks)["ok"], true);
        checks.push(Check::failed("c", "mend it"));
        let json = to_json(&checks);
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][2]["status"], "failed");
        assert_eq!(table(&checks).to_string().lines().count(), 4);
    }
}
