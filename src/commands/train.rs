//! `quadrille train`: a CSV file with the truth becomes a model package.

mod report;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use quadrille_model::{
    package::{self, Overwrite},
    train::{self, Algorithm, DEPTH_MAX, FOLDS_MAX, TREES_MAX, WarmUpRows},
};
use quadrille_pipeline::{Pipeline, training::Remark};
use quadrille_service::Error;
use serde_json::json;

use self::report::{Asked, Report};
use crate::{
    files,
    kafka::blocking,
    meter,
    output::{self, Output, OutputArg},
    pipelines::PipelineArg,
    preview,
    training::{self, Allowed, Options, Outcome},
};

/// Training data is held in memory, several times.
const DATA_BYTES_MAX: u64 = 1 << 30;

/// Parts of the cross-validation.
const FOLDS_DEFAULT: &str = "5";

/// Each repeat scores all held-out rows once for each feature.
const REPEATS_MAX: i64 = 100;

const EXAMPLES: &str = "\
Examples:
  quadrille train --pipeline pipelines/diabetes.toml --data data/pima.csv \\
      --algorithm random-forest --out models/diabetes
  quadrille train --pipeline pipelines/diabetes.toml --data data/pima.csv \\
      --algorithm logistic-regression --folds 10 --out models/linear --replace
  quadrille train --pipeline cards.toml --data cards.csv --algorithm random-forest \\
      --folds time --beta 3 --max-skipped 1% --out models/cards --output json

The file is read as the services read records: its header names the fields of the pipeline file and the column of [label]; other \
columns do not matter. The model is evaluated on rows that it has not seen, and then trained on all.

What is printed:
  ROC-AUC     how often a row of the positive class gets the higher probability of two
  PR-AUC      average precision: the precision over all thresholds, weighted by recall
  precision   of the rows decided for a class, the share that is of it
  recall      of the rows of a class, the share that is decided for it
  log loss, Brier score, calibration: whether a probability of 0.2 means 2 in 10
  thresholds  what decision.threshold brings, and the best ones to write there instead
  importance  how much ROC-AUC is lost once a feature's values are shuffled

Exit codes: 0 trained, 64 wrong usage or pipeline, 1 the data cannot be used, or more rows would be left out than --max-skipped.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    /// A CSV file with a header: the pipeline's fields, and the column of its label. At most 1 GiB.
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
    #[arg(long, value_name = "VERSION", visible_alias = "version")]
    model_version: Option<String>,

    /// How many rows may be left out because they cannot be used (a required field is empty, a text where a number must be, a
    /// label that is none): a number, or a share as in 2.5%. With more, nothing is trained and the reasons are listed: rows
    /// that are left out are seldom like the others, and are seldom meant to be.
    #[arg(long, default_value = "0", value_name = "ROWS|SHARE%")]
    max_skipped: Allowed,

    /// Where features look back: the column that says in which order the rows came, by times or numbers, as the stream saw them; late
    /// ones are left out as the stream does [default: the order of their event times].
    #[arg(long, value_name = "COLUMN")]
    arrived: Option<String>,

    /// Number that draws the folds and the forest: the same seed, data and options give the same model.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Parts of the cross-validation (2 to 100); the rows of one key stay together, so that no model is evaluated on a key that it
    /// has seen. Or `time`, `time:8`: each part is evaluated with a model of the rows before it in time.
    #[arg(long, default_value = "5", value_name = "FOLDS", value_parser = folds)]
    folds: Folds,

    /// Forest: number of trees.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=TREES_MAX as i64))]
    trees: u32,

    /// Forest: the most splits between root and leaf.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(DEPTH_MAX)))]
    depth: u16,

    /// Forest: the fewest rows in a leaf.
    #[arg(long, default_value_t = 5, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    min_leaf: u32,

    /// Rows that the package records, to be checked at every load: drawn from the training data's distribution, or rows of
    /// the training data itself, which then go wherever the model goes.
    #[arg(long, value_enum, default_value_t = Recorded::Synthetic, value_name = "ROWS")]
    warm_up_rows: Recorded,

    /// Probability from which the report counts a row as positive [default: decision.threshold of the pipeline].
    #[arg(long, value_name = "0..1", value_parser = probability)]
    threshold: Option<f64>,

    /// Advise also the threshold of the highest F-beta: how many times as much recall (to miss none) counts as precision (to
    /// raise no false alarm); below 1 precision counts more.
    #[arg(long, default_value_t = 2.0, value_name = "0.1..10", value_parser = beta)]
    beta: f64,

    /// How often each feature's values are shuffled to measure its importance; 0 leaves it out.
    #[arg(long, default_value_t = 5, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(0..=REPEATS_MAX))]
    importance_repeats: u32,

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

fn beta(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.1..=10.0).contains(&value) => Ok(value),
        _ => Err("it must be a number from 0.1 to 10".to_owned()),
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
    let outcome = result?;
    explain(&args.data, &outcome);
    outcome
        .package
        .save(&args.out, overwrite)
        .map_err(|error| {
            let place = matches!(
                error,
                package::Error::Exists(_)
                    | package::Error::NotAPackage(_)
                    | package::Error::Place(_)
            );
            match place {
                true => Error::Config(format!("--out: {error}")),
                false => failed(error),
            }
        })?;
    let asked = Asked {
        threshold: options.train.threshold,
        is_pipelines: args.threshold.is_none() && pipeline.threshold().is_some(),
        beta: args.beta,
    };
    let report = Report::new(&pipeline, &outcome, options.by_time, asked)?;
    let _ = match args.output.get() {
        Output::Text => output::print(format_args!(
            "{report}\n\n{} ({}) written to {}",
            outcome.package,
            options.train.algorithm,
            args.out.display()
        ))?,
        Output::Json => output::print(report.to_json(&args.out)?)?,
    };
    Ok(())
}

/// What of the file was not used, and what the services would not take.
fn explain(path: &Path, outcome: &Outcome) {
    let path = path.display();
    if outcome.skipped.skipped > 0 {
        output::note(format_args!("{path}: {}", outcome.skipped));
    }
    if let Some(past) = training::past(outcome.past.as_ref()) {
        output::note(format_args!("{path}: {past}"));
    }
    let (lacking, others): (Vec<&Remark>, Vec<&Remark>) =
        (outcome.remarks.iter()).partition(|it| it.class == "no_column");
    if !lacking.is_empty() {
        let names = lacking.iter().map(|it| format!("{:?}", it.field));
        output::note(format_args!(
            "{path}: no column {} (id, key or event time): training needs none; without a key each row counts as an entity of its own",
            names.collect::<Vec<String>>().join(", ")
        ));
    }
    for remark in others {
        let remark = preview::text(&remark.to_string(), preview::MESSAGE_CHARS_MAX);
        output::note(format_args!("{path}: {remark}"));
    }
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
        options.arrived.clone_from(&self.arrived);
        options.train.warm_up = match self.warm_up_rows {
            Recorded::Synthetic => WarmUpRows::Synthetic,
            Recorded::Real => WarmUpRows::Real,
        };
        options.train.trees = self.trees as usize;
        options.train.depth_max = self.depth;
        options.train.min_leaf = self.min_leaf as usize;
        options.train.threshold = self.threshold.unwrap_or(options.train.threshold);
        options.skipped_max = self.max_skipped;
        options.importance_repeats = self.importance_repeats as usize;
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
