//! `quadrille train`: a CSV file with the truth becomes a model package.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use quadrille_model::{
    Package,
    package::{self, Overwrite},
    train::{self, Algorithm, DEPTH_MAX, FOLDS_MAX, TREES_MAX, WarmUpRows},
};
use quadrille_pipeline::{Invalid, Pipeline};
use quadrille_service::Error;
use serde_json::{Value, json};

use crate::{
    files,
    kafka::blocking,
    meter,
    output::{self, Output, OutputArg},
    pipelines::PipelineArg,
    preview,
    training::{self, Options, Outcome},
};

/// Training data is held in memory, several times.
const DATA_BYTES_MAX: u64 = 1 << 30;

/// Parts of the cross-validation.
const FOLDS_DEFAULT: &str = "5";

/// Rows that were skipped and are explained; the others are only counted.
const REASONS_SHOWN: usize = 5;

const EXAMPLES: &str = "\
Examples:
  quadrille train --pipeline pipelines/diabetes.toml --data data/pima.csv \\
      --algorithm random-forest --out models/diabetes
  quadrille train --pipeline pipelines/diabetes.toml --data data/pima.csv \\
      --algorithm logistic-regression --folds 10 --out models/linear --replace
  quadrille train --pipeline pipelines/diabetes.toml --data visits.csv \\
      --algorithm random-forest --folds time --out models/visits";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    /// A CSV file with the pipeline's fields and its label's column.
    #[arg(long, value_name = "FILE.csv")]
    data: PathBuf,

    /// What to train.
    #[arg(
        long,
        value_name = "ALGORITHM",
        value_parser = clap::builder::PossibleValuesParser::new(Algorithm::NAMES)
    )]
    algorithm: String,

    /// The folder to write the package to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Replace the package that is there.
    #[arg(long)]
    replace: bool,

    /// Keep the package that is there: nothing is trained.
    #[arg(long, conflicts_with = "replace")]
    keep: bool,

    /// The model's name [default: the pipeline's].
    #[arg(long)]
    name: Option<String>,

    /// The model's version [default: the time, as in 20261122T160000Z].
    #[arg(long, value_name = "VERSION")]
    model_version: Option<String>,

    /// Decides the folds and the forest's chances: the same seed and data, the same model.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Parts of the cross-validation, the rows of an entity (of the pipeline's key) together; or `time`, `time:8`: each
    /// part is judged by a model of the rows before it in time.
    #[arg(long, default_value = "5", value_name = "FOLDS", value_parser = folds)]
    folds: Folds,

    /// Forest: trees.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=TREES_MAX as i64))]
    trees: u32,

    /// Forest: most splits between root and leaf.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(DEPTH_MAX)))]
    depth: u16,

    /// Forest: fewest rows in a leaf.
    #[arg(long, default_value_t = 5, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    min_leaf: u32,

    /// Rows that the package records, to be checked at every load: drawn from the training data's distribution, or rows of
    /// the training data itself, which then go wherever the model goes.
    #[arg(long, value_enum, default_value_t = Recorded::Synthetic, value_name = "ROWS")]
    warm_up_rows: Recorded,

    /// Probability from which the report counts a row as positive [default: the pipeline's].
    #[arg(long, value_name = "0..1", value_parser = probability)]
    threshold: Option<f64>,

    #[command(flatten)]
    output: OutputArg,
}

/// Parts of the cross-validation, and how they are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Folds {
    count: usize,
    by_time: bool,
}

fn folds(text: &str) -> Result<Folds, String> {
    let (count, by_time) = match text.strip_prefix("time") {
        None => (text, false),
        Some("") => (FOLDS_DEFAULT, true),
        Some(rest) => (rest.strip_prefix(':').unwrap_or_default(), true),
    };
    match count.parse() {
        Ok(count) if (2..=FOLDS_MAX).contains(&count) => Ok(Folds { count, by_time }),
        _ => Err(format!(
            "it must be a number from 2 to {FOLDS_MAX}, time, or time and a number, as in time:8"
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Recorded {
    Synthetic,
    Real,
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("it must be a number from 0 to 1".to_owned()),
    }
}

/// Trains and writes the package.
///
/// # Errors
/// As [`training::train`]; or files that cannot be read or written.
pub async fn run(args: Args) -> Result<(), Error> {
    blocking(move || run_blocking(&args)).await
}

fn run_blocking(args: &Args) -> Result<(), Error> {
    let pipeline = args.pipeline.one()?;
    let options = args.options(&pipeline)?;
    if args.keep && args.out.join("manifest.json").is_file() {
        let out = args.out.display();
        return match args.output.get() {
            Output::Text => output::print(format_args!("{out}: kept")).map(drop),
            Output::Json => {
                output::print(json!({ "out": out.to_string(), "kept": true })).map(drop)
            }
        };
    }
    let overwrite = args.check_place()?;
    let csv = read(&args.data)?;
    let bar = meter::Training::new();
    let result = training::train(&pipeline, &csv, &options, &mut |progress| {
        bar.show(progress)
    });
    bar.end();
    let Outcome { package, skipped } = result?;
    explain_skipped(&args.data, &skipped);
    package.save(&args.out, overwrite).map_err(|error| {
        let place = matches!(
            error,
            package::Error::Exists(_) | package::Error::NotAPackage(_) | package::Error::Place(_)
        );
        match place {
            true => Error::Config(format!("--out: {error}")),
            false => failed(error),
        }
    })?;
    match args.output.get() {
        Output::Text => show(&package, &args.out),
        Output::Json => show_json(&package, skipped.len(), &args.out),
    }
}

fn show(package: &Package, out: &Path) -> Result<(), Error> {
    let Some(training) = &package.manifest().training else {
        return Ok(());
    };
    output::print(format_args!(
        "{}\n\n{package} ({}) written to {}",
        training.evaluation,
        training.algorithm,
        out.display()
    ))
    .map(drop)
}

/// What the manifest says of the training, as it says it.
fn show_json(package: &Package, skipped: usize, out: &Path) -> Result<(), Error> {
    let manifest: Value = serde_json::from_slice(package.manifest_bytes()).map_err(failed)?;
    output::print(json!({
        "name": manifest["name"],
        "version": manifest["version"],
        "out": out.display().to_string(),
        "rows_skipped": skipped,
        "training": manifest["training"],
    }))
    .map(drop)
}

impl Args {
    fn options(&self, pipeline: &Pipeline) -> Result<Options, Error> {
        let algorithm = self.algorithm.parse();
        let algorithm = algorithm
            .map_err(|error: train::Error| Error::Config(format!("--algorithm: {error}")))?;
        let mut options = Options::new(pipeline, algorithm);
        options.train.seed = self.seed;
        options.train.folds = self.folds.count;
        options.by_time = self.folds.by_time;
        options.train.warm_up = match self.warm_up_rows {
            Recorded::Synthetic => WarmUpRows::Synthetic,
            Recorded::Real => WarmUpRows::Real,
        };
        options.train.trees = self.trees as usize;
        options.train.depth_max = self.depth;
        options.train.min_leaf = self.min_leaf as usize;
        options.train.threshold = self.threshold.unwrap_or(options.train.threshold);
        if let Some(name) = &self.name {
            options.name.clone_from(name);
        }
        if let Some(version) = &self.model_version {
            options.version.clone_from(version);
        }
        Ok(options)
    }

    /// Looks before training, which takes its time; saving looks again.
    fn check_place(&self) -> Result<Overwrite, Error> {
        if self.replace {
            return Ok(Overwrite::Replace);
        }
        if self.out.symlink_metadata().is_ok() {
            let out = self.out.display();
            return Err(Error::Config(format!(
                "--out: {out} exists already; choose another folder, or add --replace or --keep"
            )));
        }
        Ok(Overwrite::Refuse)
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    files::bounded(path, DATA_BYTES_MAX).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::FileTooLarge => "; train on a sample",
            _ => "",
        };
        Error::Config(format!("--data: {}: {error}{hint}", path.display()))
    })
}

fn explain_skipped(path: &Path, skipped: &[(u64, Invalid)]) {
    if skipped.is_empty() {
        return;
    }
    output::note(format_args!("{} rows skipped:", skipped.len()));
    for (line, invalid) in skipped.iter().take(REASONS_SHOWN) {
        let reason = preview::text(&invalid.to_string(), preview::MESSAGE_CHARS_MAX);
        output::note(format_args!("  {}:{line}: {reason}", path.display()));
    }
    if skipped.len() > REASONS_SHOWN {
        output::note(format_args!("  and {} more", skipped.len() - REASONS_SHOWN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_a_number_or_by_time() {
        assert_eq!(
            folds("7"),
            Ok(Folds {
                count: 7,
                by_time: false
            })
        );
        assert_eq!(
            folds("time"),
            Ok(Folds {
                count: 5,
                by_time: true
            })
        );
        assert_eq!(
            folds("time:8"),
            Ok(Folds {
                count: 8,
                by_time: true
            })
        );
        for wrong in ["1", "time:", "time8", "101", "times", ""] {
            assert!(folds(wrong).is_err(), "{wrong}");
        }
    }
}
