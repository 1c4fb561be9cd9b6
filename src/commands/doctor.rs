//! `quadrille doctor`: everything that a pipeline needs looked at, nothing changed, and what to do about it.

mod cluster;
mod database;
mod ports;

use std::ops::ControlFlow;

use quadrille_pipeline::Pipeline;
use quadrille_proto::Service;
use quadrille_service::Error;
use results::DatabaseArgs;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use self::cluster::Step;
use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, OutputArg, Table},
    pipelines::PipelineArg,
};

/// Steps that wait to be collected: they come seldom and are taken at once.
const STEPS_WAITING_MAX: usize = 16;
/// A question must not make the topic that it asks for, whatever KAFKA_PROPERTIES say.
const MAKES_NOTHING: &str = "allow.auto.create.topics=false";

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

    #[command(flatten)]
    database: DatabaseArgs,

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
        database::check(&args.database),
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
    let careful = Kafka {
        kafka_properties: format!("{}\n{MAKES_NOTHING}", given.kafka_properties),
        ..given.clone()
    };
    let cluster = match careful.cluster() {
        Ok(cluster) => cluster,
        Err(error) => return vec![Check::failed("kafka settings", error)],
    };
    let servers = cluster.bootstrap_servers().to_owned();
    let (send, receive) = mpsc::channel(STEPS_WAITING_MAX);
    // Ends by itself, or with the process.
    let asking = tokio::spawn(blocking(move || {
        let tell = |step| match send.blocking_send(step) {
            Ok(()) => ControlFlow::Continue(()),
            // Nobody collects any more.
            Err(_) => ControlFlow::Break(()),
        };
        let _ = cluster::look(&cluster, &pipelines, &tell);
        Ok(())
    }));
    collect(&servers, receive, asking).await
}

/// The checks, up to the question that has no answer in its time.
async fn collect(
    servers: &str,
    mut receive: mpsc::Receiver<Step>,
    asking: JoinHandle<Result<(), Error>>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut asked = ("kafka".to_owned(), cluster::FIRST_WITHIN);
    loop {
        match timeout(asked.1, receive.recv()).await {
            Ok(Some(Step::Asks { of, within })) => asked = (of, within),
            Ok(Some(Step::Found(check))) => checks.push(check),
            Ok(None) => break,
            Err(_) => {
                let (of, within) = asked;
                let found = format!(
                    "{servers} does not answer this within {} s, and the rest is not looked at; check KAFKA_BOOTSTRAP_SERVERS, KAFKA_PROPERTIES and the network",
                    within.as_secs()
                );
                checks.push(Check::failed(of, found));
                return checks;
            }
        }
    }
    let ended = asking.await;
    if let Err(error) = ended.unwrap_or_else(|error| Err(Error::Failed(error.to_string()))) {
        checks.push(Check::failed(asked.0, error));
    }
    checks
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
    use std::time::Duration;

    use super::*;

    fn asks(of: &str, within: Duration) -> Step {
        let of = of.to_owned();
        Step::Asks { of, within }
    }

    #[tokio::test]
    async fn a_question_without_an_answer_is_named_after_the_checks_before_it() {
        let (send, receive) = mpsc::channel(STEPS_WAITING_MAX);
        let well = Check::ok("kafka", "answers");
        send.send(Step::Found(well.clone())).await.unwrap();
        let asked = asks("p model", Duration::from_millis(10));
        send.send(asked).await.unwrap();
        let asking = tokio::spawn(std::future::pending());
        let checks = collect("k:1", receive, asking).await;
        assert_eq!(checks[0], well);
        assert_eq!(
            (&*checks[1].of, checks[1].status),
            ("p model", Status::Failed)
        );
    }

    #[tokio::test]
    async fn a_question_that_was_cut_short_is_a_failure_and_not_the_end() {
        let (send, receive) = mpsc::channel(STEPS_WAITING_MAX);
        let asking = tokio::spawn(blocking(move || {
            let asked = asks("p topics", Duration::from_secs(60));
            assert!(send.blocking_send(asked).is_err(), "cut short");
            Ok(())
        }));
        let checks = collect("k:1", receive, asking).await;
        assert_eq!(checks.len(), 1);
        assert_eq!(
            (&*checks[0].of, checks[0].status),
            ("p topics", Status::Failed)
        );
    }

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
