//! `quadrille features`: the features of a file's records, as the stream would have computed them.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use quadrille_pipeline::{
    Pipeline,
    training::{self, Batch, Row},
};
use quadrille_service::Error;
use serde_json::{Value, json};

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
      --out features.csv --max-skipped 1%

The file is read as the services read records. Where features look back, the records are replayed: each row has what the stream \
would have computed in its turn, of the records that had come by then. Without --arrived their turn is by their event times, so none \
comes late.

What is written: id (the number of the row where the file has none), key, event_time, and a column for each feature; a row for each \
record that has a vector, in the order replayed. A cell is empty where a feature is missing. Numbers read back exactly as they were.

Exit codes: 0 written, 64 wrong usage or pipeline, 1 the data cannot be used, or more rows would be left out than --max-skipped.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    /// A CSV file with a header: the pipeline's fields; where features look back, key and event time too. It is held in memory then.
    #[arg(long, value_name = "FILE.csv")]
    data: PathBuf,

    /// The CSV file to write.
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,

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
    let mut csv = csv::Writer::from_writer(BufWriter::new(&part.file));
    let mut result = csv.write_record(&header);
    let mut cells = Vec::with_capacity(header.len());
    let options = training::Options {
        now_ms: Some(Timestamp::now().as_millisecond()),
        arrived: args.arrived.clone(),
    };
    let mut each = |row: &Row<'_>, features: &[f64]| {
        if result.is_ok() {
            fill(&mut cells, row, features);
            result = csv.write_record(&cells);
        }
    };
    let batch = pipeline.read_features(data, &options, &mut each);
    let batch = batch.map_err(|error| match error {
        training::Error::NoArrivedColumn { .. } => Error::Config(format!("--arrived: {error}")),
        error => Error::Failed(format!("{}: {error}", args.data.display())),
    })?;
    let unwritable = |error: &dyn std::fmt::Display| {
        Error::Failed(format!("--out: {}: {error}", args.out.display()))
    };
    result.map_err(|error| unwritable(&error))?;
    csv.flush().map_err(|error| unwritable(&error))?;
    drop(csv);
    let skipped = Skipped::of_features(pipeline, &batch);
    skipped.check(args.max_skipped).map_err(Error::Failed)?;
    part.keep().map_err(|error| unwritable(&error))?;
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

/// The cells of a row, in strings that are used again.
fn fill(cells: &mut Vec<String>, row: &Row<'_>, features: &[f64]) {
    use std::fmt::Write;
    cells.resize_with(OWN.len() + features.len(), String::new);
    let mut next = cells.iter_mut();
    let mut cell = |write: &dyn Fn(&mut String)| {
        if let Some(cell) = next.next() {
            cell.clear();
            write(cell);
        }
    };
    cell(&|it| it.push_str(row.id));
    cell(&|it| it.push_str(row.key));
    cell(&|it| {
        if let Some(ms) = row.time_ms {
            // A String takes everything.
            let _ = match Timestamp::from_millisecond(ms) {
                Ok(time) => write!(it, "{time}"),
                Err(_) => write!(it, "{ms}"),
            };
        }
    });
    for feature in features {
        cell(&|it| number(*feature, it));
    }
}

/// The shortest text that reads back as the same number; nothing where it is missing.
fn number(value: f64, cell: &mut String) {
    use std::fmt::Write;
    let size = value.abs();
    let _ = match value {
        value if value.is_nan() => Ok(()),
        value if size != 0.0 && !(1e-5..1e16).contains(&size) => write!(cell, "{value:e}"),
        value => write!(cell, "{value}"),
    };
}

/// A file that is not there yet under its name: it is removed unless it is kept.
struct Part<'a> {
    file: File,
    path: PathBuf,
    out: &'a Path,
}

impl<'a> Part<'a> {
    fn create(out: &'a Path) -> Result<Self, Error> {
        let name = out
            .file_name()
            .ok_or_else(|| Error::Config(format!("--out: {} names no file", out.display())))?;
        let mut part = name.to_owned();
        part.push(".part");
        let path = out.with_file_name(part);
        let file = File::create(&path)
            .map_err(|error| Error::Config(format!("--out: {}: {error}", path.display())))?;
        Ok(Part { file, path, out })
    }

    fn keep(mut self) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.sync_all()?;
        fs::rename(&self.path, self.out)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // Once it is kept, there is no such file.
        let _ = fs::remove_file(&self.path);
    }
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
