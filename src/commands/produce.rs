//! `quadrille produce`: a file's records sent to a pipeline's inbox, as any Kafka client would send them.

mod send;

use std::{
    fs::File,
    io::{BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use quadrille_choreography::{Admin, Cluster, Publisher, admin};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Topics;
use quadrille_service::{Error, fields::now_ms, shutdown_signal};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, OutputArg},
    pipelines::PipelineArg,
    rows::{CsvRows, Item, JsonRows, Naming},
};
use send::{Inbox, Pace};

/// Rows read ahead: enough to keep the sender busy, little memory.
const ROWS_WAITING_MAX: usize = 1_024;
/// Kafka's default `max.message.bytes`, where the topic's cannot be asked for.
const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

const EXAMPLES: &str = "\
Examples:
  quadrille produce data/pima.csv
  quadrille produce cards.csv --pipeline cards.toml --rate 100 --repeat 10
  jq -c '.[]' records.json | quadrille produce - --pipeline pipelines/diabetes.toml

CSV: the header names the fields as the pipeline file does. An empty cell is a missing value; true, false, 1 and 0 are truths. A file \
without a column of ids or keys gets them as <file>-<row>; the column of [label], the truth, is left out.
The records go to the topic <pipeline>.inbox. With `quadrille up` its line `kafka` has the address for --bootstrap-servers. A record that \
a service refuses becomes a dead letter: see `quadrille dlq list`.

Exit codes: 0 all records are in Kafka, 64 wrong usage, 1 some are not.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With a header that names the fields.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file of records, or - for standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    #[command(flatten)]
    pipeline: PipelineArg,

    /// What the file holds [default: by its name, or its first byte].
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Records a second, at most [default: as fast as Kafka takes them].
    #[arg(long, value_name = "RECORDS/S", value_parser = rate)]
    rate: Option<f64>,

    /// How often to send the file.
    #[arg(long, default_value_t = 1, value_name = "TIMES", value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,

    /// Begin the ids of rows without one with the time as well, so that another run's are others.
    #[arg(long)]
    new_ids: bool,

    /// The field that holds the entity's key [default: the pipeline's].
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,

    #[command(flatten)]
    output: OutputArg,

    #[command(flatten)]
    kafka: Kafka,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("it must be a number of records a second, at least 0.001".to_owned()),
    }
}

/// # Errors
/// Wrong usage, Kafka does not answer, or records are not in Kafka.
pub async fn run(args: Args) -> Result<(), Error> {
    let pipeline = args.pipeline.one()?;
    if args.repeat > 1 && args.file == Path::new("-") {
        let message = "--repeat: standard input can be read once only; give a file";
        return Err(Error::Config(message.to_owned()));
    }
    let cluster = args.kafka.cluster()?;
    let topic = Topics::of(pipeline.name()).inbox;
    let (pace, output) = (Pace::new(args.rate), args.output.get());
    // Opened first: a wrong file name should not wait for Kafka.
    let source = Source::open(args, pipeline)?;
    let inbox = blocking(move || connect(&cluster, topic)).await?;
    let (send, rows) = mpsc::channel(ROWS_WAITING_MAX);
    let reading = tokio::task::spawn_blocking(move || source.read(&send));
    let sent = send::send(&inbox, rows, pace, shutdown_signal()).await;
    let read = match sent.stopped {
        true => Ok(()),
        // The sender has seen the end of the rows, so the reader has ended.
        false => reading
            .await
            .unwrap_or_else(|error| Err(Error::Failed(format!("reading was cut short: {error}")))),
    };
    if read.is_ok() || sent.counts.sent > 0 {
        let counts = &sent.counts;
        let _ = match output {
            Output::Text => output::print(&sent.summary)?,
            Output::Json => output::print(json!({
                "topic": inbox.topic,
                "sent": counts.sent,
                "confirmed": counts.confirmed,
                "failed": counts.failed,
                "refused": counts.refused,
            }))?,
        };
    }
    read?;
    match sent.counts.faults() {
        0 => Ok(()),
        n => Err(Error::Failed(format!(
            "not everything is in {}, as far as is known: {n} failed or refused; correct what was said above and send again",
            inbox.topic
        ))),
    }
}

fn connect(cluster: &Cluster, topic: String) -> Result<Inbox, Error> {
    let admin = Admin::connect(cluster)?;
    let Some(partitions) = admin.partitions(&topic)?.filter(|count| *count > 0) else {
        return Err(admin::Error::Missing {
            topics: vec![topic],
        }
        .into());
    };
    // The embedded broker of `quadrille up` cannot be asked; one that is away fails above.
    let message_bytes_max = admin
        .message_bytes_max(&topic)
        .unwrap_or(MESSAGE_BYTES_DEFAULT);
    let publisher = Publisher::connect(cluster, "quadrille.produce", message_bytes_max);
    let publisher = publisher.map_err(|error| Error::Failed(format!("Kafka: {error}")))?;
    Ok(Inbox {
        publisher,
        topic,
        partitions,
    })
}

/// The file, opened for the first time.
struct Source {
    args: Args,
    pipeline: Pipeline,
    first: Box<dyn BufRead + Send>,
    format: Format,
}

impl Source {
    fn open(args: Args, pipeline: Pipeline) -> Result<Self, Error> {
        let mut first = open(&args.file)?;
        let format = match args.format.or_else(|| by_name(&args.file)) {
            Some(format) => format,
            None => by_content(&mut first).map_err(|error| wrong(&args.file, error))?,
        };
        Ok(Source {
            args,
            pipeline,
            first,
            format,
        })
    }

    /// Reads all rows, as often as asked; ends early when nobody takes them.
    fn read(self, send: &mpsc::Sender<Item>) -> Result<(), Error> {
        let file = self.args.file.clone();
        let stem = match file.file_stem() {
            Some(stem) if file != Path::new("-") => stem.to_string_lossy().into_owned(),
            _ => "stdin".to_owned(),
        };
        let stem = match self.args.new_ids {
            true => format!("{stem}-{:x}", now_ms() / 1000),
            false => stem,
        };
        let mut reader = self.first;
        for pass in 1..=self.args.repeat {
            let naming = Naming {
                stem: &stem,
                pass,
                key_field: self.args.key_field.as_deref(),
            };
            let passed = match self.format {
                Format::Csv => {
                    let rows = CsvRows::new(&self.pipeline, reader, &naming);
                    let rows = rows.map_err(|error| in_file(&file, error))?;
                    if pass == 1 {
                        rows.notes().iter().for_each(output::note);
                    }
                    pass_on(rows, send)
                }
                Format::Ndjson => pass_on(JsonRows::new(&self.pipeline, reader, &naming), send),
            };
            if !passed.map_err(|error| in_file(&file, error))? || pass == self.args.repeat {
                break;
            }
            reader = open(&file)?;
        }
        Ok(())
    }
}

/// Whether all rows were taken.
fn pass_on(
    rows: impl Iterator<Item = Result<Item, Error>>,
    send: &mpsc::Sender<Item>,
) -> Result<bool, Error> {
    for row in rows {
        if send.blocking_send(row?).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(stdin())));
    }
    let file = File::open(path).map_err(|error| wrong(path, error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(wrong(path, "is a folder; give a file"));
    }
    Ok(Box::new(BufReader::new(file)))
}

fn wrong(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Config(format!("{}: {reason}", shown(path)))
}

fn shown(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Config(message) => Error::Config(format!("{}: {message}", shown(path))),
        Error::Failed(message) => Error::Failed(format!("{}: {message}", shown(path))),
    }
}

fn by_name(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" | "json" => Some(Format::Ndjson),
        _ => None,
    }
}

fn by_content(reader: &mut impl BufRead) -> std::io::Result<Format> {
    let head = reader.fill_buf()?;
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head);
    Ok(match head.trim_ascii_start().first() {
        Some(b'{' | b'[') => Format::Ndjson,
        _ => Format::Csv,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_known_by_name_or_by_the_first_byte() {
        assert_eq!(by_name(Path::new("a.CSV")), Some(Format::Csv));
        assert_eq!(by_name(Path::new("a.jsonl")), Some(Format::Ndjson));
        assert_eq!(by_name(Path::new("-")), None);
        let content = |text: &str| by_content(&mut text.as_bytes()).unwrap();
        assert_eq!(content("\u{feff} \n{\"a\":1}"), Format::Ndjson);
        assert_eq!(content("a,b\n"), Format::Csv);
        assert_eq!(content(""), Format::Csv);
    }

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for wrong in ["0", "-1", "nan", "inf", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
