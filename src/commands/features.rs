//! `quadrille features`: the features of a file's records, as the stream would have computed them.

mod csv;
mod parquet;
mod part;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use quadrille_pipeline::{
    Pipeline,
    training::{self, Batch, Row},
};
use quadrille_service::Error;
use serde_json::{Value, json};

use self::{csv::Csv, parquet::Parquet, part::Part};
use crate::{
    kafka::blocking,
    output::{self, Output, OutputArg, counted},
    pipelines::PipelineArg,
    preview,
    training::{Allowed, Skipped, past},
};

/// The columns before the features'.
const OWN: [&str; 3] = ["id", "key", "event_time"];

const EXAMPLES: &str = "\
Examples:
  quadrille features --pipeline cards.toml --data cards.csv --out features.csv
  quadrille features --pipeline cards.toml --data cards.csv --arrived received_at \\
      --out features.parquet --max-skipped 1%

The file is read as the services read records. Where features look back, the records are replayed: each row has what the stream \
would have computed in its turn, of the records that had come by then. Without --arrived their turn is by their event times, so none \
comes late. Of equal ones the upper row comes first; the lower one where the file has the newest first, and that is said.

What is written: id (the number of the row where the file has none), key, event_time, and a column for each feature; a row for each \
record that has a vector, in the order replayed. A cell is empty, in Parquet null, where a feature is missing. Numbers read back exactly \
as they were. In Parquet id and key are strings, event_time is a timestamp (milliseconds, UTC), and features are doubles; it is not \
compressed.

Exit codes: 0 written, 64 wrong usage or pipeline, 1 the data cannot be used, or more rows would be left out than --max-skipped.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    /// A CSV file with a header: the pipeline's fields; where features look back, key and event time too. It is held in memory then.
    #[arg(long, value_name = "FILE.csv")]
    data: PathBuf,

    /// The file to write, CSV or Parquet. It appears under its name once it is whole.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// The form of what is written [default: parquet where --out ends in .parquet, else csv].
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Replace the file that is there.
    #[arg(long)]
    replace: bool,

    /// The column that says in which order the records came, by times or numbers [default: event times where features look back,
    /// else the file's order].
    #[arg(long, value_name = "COLUMN")]
    arrived: Option<String>,

    /// How many rows may be left out because the stream would not compute their features: a number, or a share as in 2.5%. With
    /// more, nothing is written and the reasons are listed.
    #[arg(long, default_value = "0", value_name = "ROWS|SHARE%")]
    max_skipped: Allowed,

    #[command(flatten)]
    output: OutputArg,
}

/// The form of a file of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Csv,
    Parquet,
}

impl Args {
    fn format(&self) -> Format {
        let extension = self.out.extension();
        self.format.unwrap_or(match extension {
            Some(extension) if extension.eq_ignore_ascii_case("parquet") => Format::Parquet,
            _ => Format::Csv,
        })
    }
}

/// A file that is being written.
enum Table<'a> {
    Csv(Box<Csv<'a>>),
    Parquet(Box<Parquet<'a>>),
}

impl<'a> Table<'a> {
    fn new(format: Format, file: &'a File, header: &[&str]) -> io::Result<Self> {
        Ok(match format {
            Format::Csv => Table::Csv(Box::new(Csv::new(file, header)?)),
            Format::Parquet => {
                let features = header.get(OWN.len()..).unwrap_or_default();
                Table::Parquet(Box::new(Parquet::new(file, features)?))
            }
        })
    }

    fn row(&mut self, row: &Row<'_>, features: &[f64]) -> io::Result<()> {
        match self {
            Table::Csv(csv) => csv.row(row, features),
            Table::Parquet(parquet) => parquet.row(row, features),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Table::Csv(csv) => csv.finish(),
            Table::Parquet(parquet) => parquet.finish(),
        }
    }
}

/// # Errors
/// A wrong pipeline, files that cannot be read or written, or more rows left out than allowed.
pub async fn run(args: Args) -> Result<(), Error> {
    blocking(move || run_blocking(&args)).await
}

fn run_blocking(args: &Args) -> Result<(), Error> {
    let pipeline = args.pipeline.one()?;
    let written = write(&pipeline, args)?;
    for remark in written
        .batch
        .remarks
        .iter()
        .filter(|it| it.class != "no_column")
    {
        let remark = preview::text(&remark.to_string(), preview::MESSAGE_CHARS_MAX);
        output::note(format_args!("{}: {remark}", args.data.display()));
    }
    let _ = match args.output.get() {
        Output::Text => output::print(written.page(args))?,
        Output::Json => output::print(written.to_json(args))?,
    };
    Ok(())
}

/// What was written, and what was not.
#[derive(Debug)]
struct Written {
    batch: Batch,
    skipped: Skipped,
    features: usize,
}

fn write(pipeline: &Pipeline, args: &Args) -> Result<Written, Error> {
    let header = header(pipeline)?;
    if !args.replace && args.out.symlink_metadata().is_ok() {
        let out = args.out.display();
        return Err(Error::Config(format!(
            "--out: {out} exists already; choose another file, or add --replace"
        )));
    }
    let data = File::open(&args.data).map_err(|error| unreadable(&args.data, &error))?;
    let part = Part::create(&args.out)?;
    let unwritable =
        |error: io::Error| Error::Failed(format!("--out: {}: {error}", args.out.display()));
    let table = Table::new(args.format(), &part.file, &header);
    let mut table = table.map_err(unwritable)?;
    let mut result = Ok(());
    let options = training::Options {
        now_ms: Some(Timestamp::now().as_millisecond()),
        arrived: args.arrived.clone(),
    };
    let mut each = |row: &Row<'_>, features: &[f64]| {
        if result.is_ok() {
            result = table.row(row, features);
        }
    };
    let batch = pipeline.read_features(data, &options, &mut each);
    let batch = batch.map_err(|error| match error {
        training::Error::NoArrivedColumn { .. } => Error::Config(format!("--arrived: {error}")),
        error => Error::Failed(format!("{}: {error}", args.data.display())),
    })?;
    result.and_then(|()| table.finish()).map_err(unwritable)?;
    let skipped = Skipped::of_features(pipeline, &batch);
    skipped.check(args.max_skipped).map_err(Error::Failed)?;
    part.keep().map_err(unwritable)?;
    Ok(Written {
        batch,
        skipped,
        features: header.len() - OWN.len(),
    })
}

fn header(pipeline: &Pipeline) -> Result<Vec<&str>, Error> {
    let features = pipeline.feature_schema().fields.iter();
    let names: Vec<&str> = features.map(|it| it.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| OWN.contains(*name)) {
        return Err(Error::Config(format!(
            "feature {name:?} of pipeline {:?} has the name of another column of the output; rename it",
            pipeline.name()
        )));
    }
    Ok(OWN.into_iter().chain(names).collect())
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("--data: {}: {error}", path.display()))
}

impl Written {
    fn page(&self, args: &Args) -> String {
        let mut page = String::new();
        if self.skipped.skipped > 0 {
            page += &format!("{}\n", self.skipped);
        }
        if let Some(past) = past(self.batch.past.as_ref()) {
            page += &format!("{past}\n");
        }
        page + &format!(
            "{} of {} written to {}",
            counted(self.batch.vectors as usize, "row"),
            counted(self.features, "feature"),
            args.out.display()
        )
    }

    fn to_json(&self, args: &Args) -> Value {
        json!({
            "out": args.out.display().to_string(),
            "rows": self.skipped.rows,
            "vectors": self.batch.vectors,
            "features": self.features,
            "rows_skipped": self.skipped.skipped,
            "skipped": self.skipped.to_json(),
            "replayed": crate::training::past_json(self.batch.past.as_ref()),
        })
    }
}

#[cfg(test)]
mod tests;
