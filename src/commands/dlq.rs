//! `quadrille dlq`: dead letters shown, sent back where they came from, or given up.

mod discard;
mod filter;
mod list;
mod redrive;
mod settle;
mod show;

use clap::builder::PossibleValuesParser;
use quadrille_choreography::{Cluster, DeadLetter, redrive::Error as RedriveError};
use quadrille_proto::{DLQ_SUFFIX, STAGES, StageSpec, dlq_of};
use quadrille_service::Error;

use self::filter::Filter;
use crate::{
    kafka::{Kafka, blocking},
    pipelines,
};

const EXAMPLES: &str = "\
Examples:
  quadrille dlq list --pipeline diabetes
  quadrille dlq list --topic diabetes.inbox --limit 5 --output json
  quadrille dlq redrive --pipeline diabetes --stage inbox --reason out_of_range --dry-run
  quadrille dlq redrive --pipeline diabetes --stage inbox
  quadrille dlq discard --topic diabetes.inbox --place diabetes.inbox-3-17 --note 'a test of the sender'

A record that failed is one open case, however often it failed. A redrive sends each open case back once; a record that
fails again is open again. With --output json each line is one object: a letter with its whole payload, or a topic.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Show dead letters that are open, the oldest of each partition first.
    List(list::Args),
    /// Send dead letters back to the topic they came from, once the cause is fixed.
    Redrive(redrive::Args),
    /// Discard dead letters: they are no longer open, and no redrive sends them.
    Discard(discard::Args),
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
    #[arg(long, value_parser = PossibleValuesParser::new(STAGES.each_ref().map(StageSpec::input_name)))]
    stage: Option<String>,

    /// The field of JSON records that --id looks at.
    #[arg(long, value_name = "FIELD", default_value = "id")]
    id_field: String,

    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// The topic cannot be one, Kafka does not answer, or letters could not be sent back.
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::List(args) => list::run(&args),
        Command::Redrive(args) => redrive::run(&args),
        Command::Discard(args) => discard::run(&args),
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
        let pipeline = pipelines::name(self.pipeline.as_deref())?;
        let asked = |stage: &&StageSpec| {
            let stage = stage.input_name();
            self.stage.as_deref().is_none_or(|asked| asked == stage)
        };
        let mut topics: Vec<String> = Vec::new();
        for stage in STAGES.iter().filter(asked) {
            let topic = dlq_of(&stage.input(&pipeline));
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        Ok(topics)
    }

    fn matches(&self, topic: &str, letter: &DeadLetter) -> bool {
        self.filter.matches(topic, &self.id_field, letter)
    }
}

fn explain(error: RedriveError, cluster: &Cluster) -> Error {
    match error {
        RedriveError::NoTopic(_) => Error::Config(format!(
            "{error}; check --topic or --pipeline, or create the topics with `quadrille topics create`"
        )),
        RedriveError::NotDeadLetters(_) | RedriveError::NoLedger => {
            Error::Config(error.to_string())
        }
        RedriveError::Admin(error) => error.into(),
        RedriveError::TakenOver { .. } | RedriveError::LedgerHeld => {
            Error::Failed(error.to_string())
        }
        error => Error::Failed(format!(
            "{error} (at {}; check --bootstrap-servers and --kafka-properties)",
            cluster.bootstrap_servers()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(topic: Option<&str>, pipeline: Option<&str>, stage: Option<&str>) -> Which {
        Which {
            topic: topic.map(str::to_owned),
            pipeline: pipeline.map(str::to_owned),
            stage: stage.map(str::to_owned),
            id_field: "id".to_owned(),
            filter: Filter::default(),
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
        let one = which(None, Some("p"), Some("features")).topics().unwrap();
        assert_eq!(one, ["p.features.dlq"]);
        assert_eq!(which(None, Some("p"), None).topics().unwrap().len(), 4);
    }
}
