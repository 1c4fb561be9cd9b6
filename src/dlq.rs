//! `quadrille dlq`: dead letters shown, sent back where they came from, or given up.

mod filter;
mod show;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use quadrille_choreography::{
    Action, Cluster, DeadLetter, DeadLetters, Order, Progress, RedriveError, Scope, Settled,
};
use quadrille_proto::{DLQ_SUFFIX, Topics, dlq_of};
use quadrille_service::Error;

use self::filter::Filter;
use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output},
    pipelines, preview, registry,
};

/// Between two lines that say how far a long run is.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Characters of a note: it goes with every record's entry in the ledger.
const NOTE_CHARS_MAX: usize = 500;

const EXAMPLES: &str = "\
Examples:
  quadrille dlq list --pipeline diabetes
  quadrille dlq list --topic diabetes.inbox --limit 5 --output json
  quadrille dlq redrive --pipeline diabetes --stage inbox --reason out_of_range --dry-run
  quadrille dlq redrive --pipeline diabetes --stage inbox
  quadrille dlq discard --topic diabetes.inbox --place diabetes.inbox-3-17 --note 'a test of the sender'

A record that failed is one open case, however often it failed. A redrive sends each open case back once; a record that
fails again is open again.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Show dead letters that are open, the oldest of each partition first.
    List(ListArgs),
    /// Send dead letters back to the topic they came from, once what was wrong is put right.
    Redrive(RedriveArgs),
    /// Give dead letters up: they are not open any more, and no redrive sends them.
    Discard(DiscardArgs),
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

    /// The field of JSON records that --id looks at.
    #[arg(long, value_name = "FIELD", default_value = "id")]
    id_field: String,

    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,

    /// Those that were sent back or discarded, too, and what became of them.
    #[arg(long)]
    all: bool,

    /// Dead letters to show, at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,

    /// As a table, or one JSON object a line with the whole payload.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Settling {
    #[command(flatten)]
    which: Which,

    /// Only say how many there are, by reason; nothing is changed.
    #[arg(long)]
    dry_run: bool,

    /// Who does it [default: the user at this machine].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct RedriveArgs {
    #[command(flatten)]
    settling: Settling,

    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
    note: String,
}

#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    settling: Settling,

    /// Why, for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: String,

    /// All that are open: needed where no filter is given.
    #[arg(long)]
    all: bool,
}

fn note(text: &str) -> Result<String, String> {
    match text.chars().count() <= NOTE_CHARS_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("at most {NOTE_CHARS_MAX} characters")),
    }
}

/// # Errors
/// The topic cannot be one, Kafka does not answer, or letters could not be sent back.
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::List(args) => list(&args),
        Command::Redrive(args) => settle(&args.settling, Action::SendBack, &args.note),
        Command::Discard(args) => {
            if args.settling.which.filter.is_empty() && !args.all {
                return Err(Error::Config(
                    "nothing says which dead letters to discard; give a filter (--reason, --from, --to, --id, --place), or --all"
                        .to_owned(),
                ));
            }
            settle(&args.settling, Action::Discard, &args.note)
        }
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

/// Says now and then how far a run over a topic is.
struct Meter<'a> {
    topic: &'a str,
    done: &'static str,
    line_at: Instant,
}

impl<'a> Meter<'a> {
    fn new(topic: &'a str, done: &'static str) -> Self {
        Meter {
            topic,
            done,
            line_at: Instant::now() + LINE_EVERY,
        }
    }

    fn show(&mut self, progress: Progress) {
        if Instant::now() < self.line_at {
            return;
        }
        self.line_at = Instant::now() + LINE_EVERY;
        let topic = self.topic;
        output::note(match progress {
            Progress::Reading { letters } => format!("{topic}: {letters} letters read so far"),
            Progress::Settling { done, total } => {
                format!("{topic}: {done} of {total} {} so far", self.done)
            }
        });
    }
}

fn list(args: &ListArgs) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    let scope = match args.all {
        true => Scope::All,
        false => Scope::Open,
    };
    let mut left = args.limit;
    for topic in args.which.topics()? {
        let letters = DeadLetters {
            cluster: &cluster,
            topic: &topic,
        };
        let mut meter = Meter::new(&topic, "shown");
        let mut printed = Ok(ControlFlow::Continue(()));
        let select = |letter: &DeadLetter| args.which.matches(&topic, letter);
        let listed = letters.list(scope, &select, &mut |it| meter.show(it), |letter, state| {
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
                Output::Json => show::to_json(&topic, &letter, &state).to_string(),
                Output::Table => show::paragraph(&topic, &letter, &state),
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

fn settle(args: &Settling, action: Action, note: &str) -> Result<(), Error> {
    let cluster = args.which.kafka.cluster()?;
    let by = registry::author(args.by.as_deref());
    let mut refused = 0;
    for topic in &args.which.topics()? {
        let letters = DeadLetters {
            cluster: &cluster,
            topic,
        };
        let select = |letter: &DeadLetter| args.which.matches(topic, letter);
        if args.dry_run {
            rehearse(&letters, &select, action)?;
            continue;
        }
        let order = Order {
            action,
            select: &select,
            by: &by,
            reason: note,
        };
        let done = match action {
            Action::SendBack => "sent back",
            Action::Discard => "discarded",
        };
        let mut meter = Meter::new(topic, done);
        let settled = letters.settle(&order, &mut |it| meter.show(it));
        let settled = settled.map_err(|error| explain(error, &cluster))?;
        report(topic, action, &settled)?;
        refused += settled.refused;
    }
    match refused {
        0 => Ok(()),
        count => Err(Error::Failed(format!(
            "{count} dead letters could not be sent back and are open still; discard them with `quadrille dlq discard`, or mend what is said of them"
        ))),
    }
}

fn report(topic: &str, action: Action, settled: &Settled) -> Result<(), Error> {
    for letter in &settled.named {
        let reason = preview::text(&letter.reason, preview::MESSAGE_CHARS_MAX);
        let (partition, offset) = (letter.partition, letter.offset);
        output::note(format_args!("{topic}-{partition}-{offset}: {reason}"));
    }
    let more = settled.refused - settled.named.len() as u64;
    if more > 0 {
        output::note(format_args!("and {more} more"));
    }
    let (count, source) = (settled.count, source(topic));
    let _ = output::print(match action {
        Action::SendBack => format!("{count} sent back from {topic} to {source}"),
        Action::Discard => format!("{count} of {topic} discarded"),
    })?;
    Ok(())
}

/// Says what would be done.
fn rehearse(
    letters: &DeadLetters<'_>,
    select: &dyn Fn(&DeadLetter) -> bool,
    action: Action,
) -> Result<(), Error> {
    let topic = letters.topic;
    let mut meter = Meter::new(topic, "read");
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let listed = letters.list(
        Scope::Open,
        select,
        &mut |it| meter.show(it),
        |letter, _| {
            let class = letter.class().unwrap_or("no class").to_owned();
            *reasons.entry(class).or_default() += 1;
            ControlFlow::Continue(())
        },
    );
    listed.map_err(|error| explain(error, letters.cluster))?;
    let count: u64 = reasons.values().sum();
    let (source, reasons) = (source(topic), by_reason(&reasons));
    let _ = output::print(match action {
        Action::SendBack => format!("{count} would be sent back from {topic} to {source}{reasons}"),
        Action::Discard => format!("{count} of {topic} would be discarded{reasons}"),
    })?;
    Ok(())
}

/// `: 12 quadrille.out_of_range, 3 quadrille.bad_time`.
fn by_reason(reasons: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = reasons
        .iter()
        .map(|(class, count)| format!("{count} {}", preview::text(class, preview::CELL_CHARS_MAX)))
        .collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(": {}", each.join(", ")),
    }
}

fn source(topic: &str) -> &str {
    topic.strip_suffix(DLQ_SUFFIX).unwrap_or(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(topic: Option<&str>, pipeline: Option<&str>, stage: Option<Stage>) -> Which {
        Which {
            topic: topic.map(str::to_owned),
            pipeline: pipeline.map(str::to_owned),
            stage,
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
        let one = which(None, Some("p"), Some(Stage::Features))
            .topics()
            .unwrap();
        assert_eq!(one, ["p.features.dlq"]);
        assert_eq!(which(None, Some("p"), None).topics().unwrap().len(), 4);
    }

    #[test]
    fn a_rehearsal_counts_by_reason() {
        let reasons = [
            ("quadrille.bad_time".to_owned(), 3),
            ("x\x1b".to_owned(), 1),
        ];
        assert_eq!(
            by_reason(&reasons.into()),
            ": 3 quadrille.bad_time, 1 x\\u{1b}"
        );
        assert_eq!(by_reason(&BTreeMap::new()), "");
    }

    #[test]
    fn a_note_is_bounded() {
        assert!(note(&"é".repeat(NOTE_CHARS_MAX)).is_ok());
        assert!(note(&"é".repeat(NOTE_CHARS_MAX + 1)).is_err());
    }
}
