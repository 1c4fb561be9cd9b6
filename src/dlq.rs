//! `quadrille dlq`: dead letters shown, or sent back where they came from.

use std::ops::ControlFlow;

use jiff::Timestamp;
use quadrille_choreography::{
    Cluster, DeadLetter, ORIGIN_HEADER, Redrive, RedriveError, list_dead_letters,
};
use quadrille_proto::{DLQ_SUFFIX, Topics, dlq_of};
use quadrille_service::Error;
use serde_json::{Value, json};

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, hex},
    pipelines, preview,
};

const EXAMPLES: &str = "\
Examples:
  quadrille dlq list --pipeline diabetes
  quadrille dlq list --topic diabetes.inbox --limit 5 --output json
  quadrille dlq redrive --pipeline diabetes --stage inbox

A redrive goes on where the last one ended: each dead letter is sent back once.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Show dead letters, the oldest of each partition first.
    List(ListArgs),
    /// Send dead letters back to the topic they came from, once what was wrong is put right.
    Redrive(RedriveArgs),
}

/// The topics of a pipeline that have dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    Inbox,
    Records,
    Features,
    Predictions,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The topic, with or without `.dlq`.
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["pipeline", "stage"])]
    topic: Option<String>,

    /// The pipeline's name: all its dead-letter topics
    /// [default: the one of QUADRILLE_PIPELINE, or in ./pipelines].
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,

    /// Only of this topic of the pipeline.
    #[arg(long, value_enum)]
    stage: Option<Stage>,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,

    /// Dead letters to show, at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,

    /// As a table, or one JSON object a line with the whole payload.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct RedriveArgs {
    #[command(flatten)]
    which: Which,
}

/// # Errors
/// The topic cannot be one, or Kafka does not answer.
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::List(args) => list(&args),
        Command::Redrive(args) => redrive(&args),
    })
    .await
}

impl Which {
    fn topics(&self) -> Result<Vec<String>, Error> {
        if let Some(topic) = &self.topic {
            return Ok(vec![match topic.ends_with(DLQ_SUFFIX) {
                true => topic.clone(),
                false => dlq_of(topic),
            }]);
        }
        let topics = Topics::of(&pipelines::name(self.pipeline.as_deref())?);
        let one = |topic: &str| vec![dlq_of(topic)];
        Ok(match self.stage {
            Some(Stage::Inbox) => one(&topics.inbox),
            Some(Stage::Records) => one(&topics.records),
            Some(Stage::Features) => one(&topics.features),
            Some(Stage::Predictions) => one(&topics.predictions),
            None => topics.flow().map(dlq_of).to_vec(),
        })
    }
}

fn explain(error: RedriveError, cluster: &Cluster) -> Error {
    match error {
        RedriveError::NoTopic(_) => Error::Config(format!(
            "{error}; check --topic or --pipeline, or create the topics with `quadrille topics create`"
        )),
        RedriveError::NotDeadLetters(_) => Error::Config(error.to_string()),
        error => Error::Failed(format!(
            "{error} (at {}; check --bootstrap-servers and --kafka-properties)",
            cluster.bootstrap_servers()
        )),
    }
}

fn list(args: &ListArgs) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    let mut left = args.limit;
    for topic in args.which.topics()? {
        let mut printed = Ok(ControlFlow::Continue(()));
        let listed = list_dead_letters(&cluster, &topic, |letter| {
            if left == 0 {
                let more = format!(
                    "there are more; --limit {} shows more",
                    args.limit.saturating_mul(10)
                );
                output::note(more);
                printed = Ok(ControlFlow::Break(()));
                return ControlFlow::Break(());
            }
            left -= 1;
            printed = output::print(match args.output {
                Output::Json => to_json(&topic, &letter).to_string(),
                Output::Table => paragraph(&topic, &letter),
            });
            match &printed {
                Ok(flow) => *flow,
                Err(_) => ControlFlow::Break(()),
            }
        });
        listed.map_err(|error| explain(error, &cluster))?;
        if printed?.is_break() {
            return Ok(());
        }
    }
    if left == args.limit {
        output::note("no dead letters");
    }
    Ok(())
}

fn redrive(args: &RedriveArgs) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    for topic in &args.which.topics()? {
        let redrive = Redrive {
            cluster: &cluster,
            topic,
        };
        let sent = redrive.run(|count| output::note(format_args!("{topic}: {count} so far")));
        let sent = sent.map_err(|error| explain(error, &cluster))?;
        let source = topic.strip_suffix(DLQ_SUFFIX).unwrap_or(topic);
        let _ = output::print(format_args!("{sent} sent back from {topic} to {source}"))?;
    }
    Ok(())
}

/// The first place the record was in: a redriven one has failed elsewhere since.
fn origin(letter: &DeadLetter) -> Option<String> {
    let first = letter.header(ORIGIN_HEADER).map(str::to_owned);
    first.or_else(|| letter.failed_at())
}

fn time(letter: &DeadLetter) -> Option<String> {
    let time = Timestamp::from_millisecond(letter.timestamp_ms?).ok()?;
    Some(format!("{time:.3}"))
}

fn paragraph(topic: &str, letter: &DeadLetter) -> String {
    let cell = |text: &str| preview::text(text, preview::CELL_CHARS_MAX);
    let message = letter.message().unwrap_or("without a message");
    let payload = match &letter.payload {
        Some(payload) => preview::payload(payload, preview::PAYLOAD_CHARS_MAX),
        None => "no payload".to_owned(),
    };
    format!(
        "{topic} partition {} offset {}  {}  {}  attempts {}  origin {}\n  {}\n  {payload}",
        letter.partition,
        letter.offset,
        time(letter).unwrap_or_else(|| "no time".to_owned()),
        cell(letter.class().unwrap_or("no class")),
        cell(letter.attempts().unwrap_or("unknown")),
        preview::text(
            &origin(letter).unwrap_or_else(|| "unknown".to_owned()),
            preview::PAYLOAD_CHARS_MAX
        ),
        preview::text(message, preview::MESSAGE_CHARS_MAX),
    )
}

fn to_json(topic: &str, letter: &DeadLetter) -> Value {
    let mut value = json!({
        "topic": topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": time(letter),
        "class": letter.class(),
        "message": letter.message(),
        "attempts": letter.attempts().and_then(|text| text.parse::<u64>().ok()),
        "origin": origin(letter),
        "failed_at": letter.failed_at(),
    });
    for (name, bytes) in [("key", &letter.key), ("payload", &letter.payload)] {
        match bytes.as_deref().map(std::str::from_utf8) {
            None => value[name] = Value::Null,
            Some(Ok(text)) => value[name] = Value::from(text),
            Some(Err(_)) => {
                let digits = hex(bytes.as_deref().unwrap_or_default());
                value[format!("{name}_hex")] = Value::from(digits);
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        DeadLetter {
            partition: 3,
            offset: 17,
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(b"p-1".to_vec()),
            payload: Some(payload.to_vec()),
            headers: vec![
                header("__connect.errors.topic", "p.inbox"),
                header("__connect.errors.partition", "3"),
                header("__connect.errors.offset", "4"),
                header(
                    "__connect.errors.exception.class.name",
                    "quadrille.wrong_type",
                ),
                header(
                    "__connect.errors.exception.message",
                    "field \"x\": is\x1b[2J wrong",
                ),
                header("quadrille.errors.attempts", "1"),
            ],
        }
    }

    fn which(topic: Option<&str>, pipeline: Option<&str>, stage: Option<Stage>) -> Which {
        Which {
            topic: topic.map(str::to_owned),
            pipeline: pipeline.map(str::to_owned),
            stage,
            kafka: Kafka {
                bootstrap_servers: String::new(),
                kafka_properties: String::new(),
            },
        }
    }

    #[test]
    fn topics_come_by_name_with_or_without_suffix_or_by_pipeline_and_stage() {
        for topic in ["p.inbox", "p.inbox.dlq"] {
            assert_eq!(
                which(Some(topic), None, None).topics().unwrap(),
                ["p.inbox.dlq"]
            );
        }
        let one = which(None, Some("p"), Some(Stage::Features))
            .topics()
            .unwrap();
        assert_eq!(one, ["p.features.dlq"]);
        assert_eq!(which(None, Some("p"), None).topics().unwrap().len(), 4);
    }

    #[test]
    fn a_person_sees_what_is_wrong_and_nothing_acts_on_the_terminal() {
        let shown = paragraph("p.inbox.dlq", &letter(b"{\"x\":\"tall\x07\"}"));
        assert_eq!(
            shown,
            "p.inbox.dlq partition 3 offset 17  2023-11-14T22:13:20.000Z  quadrille.wrong_type  attempts 1  \
             origin p.inbox-3-4\n  field \"x\": is\\u{1b}[2J wrong\n  {\"x\":\"tall\\u{7}\"}"
        );
    }

    #[test]
    fn a_machine_gets_the_whole_payload_as_text_or_as_digits() {
        let json = to_json("p.inbox.dlq", &letter(b"{}"));
        assert_eq!(
            (&json["payload"], &json["attempts"]),
            (&"{}".into(), &1.into())
        );
        let json = to_json("p.inbox.dlq", &letter(b"\xff"));
        assert_eq!(
            (&json["payload_hex"], &json["payload"]),
            (&"ff".into(), &Value::Null)
        );
    }

    #[test]
    fn the_origin_of_a_redriven_letter_is_its_first_place() {
        let mut redriven = letter(b"{}");
        redriven
            .headers
            .push((ORIGIN_HEADER.to_owned(), b"p.inbox-1-2".to_vec()));
        assert_eq!(origin(&redriven).as_deref(), Some("p.inbox-1-2"));
    }
}
