//! `quadrille train`: a CSV file with the truth becomes a model package.

use std::{
    io::{IsTerminal, Read, stderr},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use quadrille_model::{
    Package,
    package::{self, Digest, Identity, Labels, Overwrite},
    train::{
        self, Algorithm, DEPTH_MAX, Dataset, FOLDS_MAX, Progress, Split, TREES_MAX, TrainOptions,
        Trained, WarmUpRows,
    },
};
use quadrille_pipeline::{Invalid, Pipeline, Truth, training};
use quadrille_service::Error;

use crate::{kafka::blocking, output, pipelines::PipelineArg, preview};

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

/// How to train, and what to call the result.
#[derive(Debug, Clone)]
pub struct Options {
    pub train: TrainOptions,
    /// Folds are cut by the rows' event times, not by entities.
    pub by_time: bool,
    pub name: String,
    pub version: String,
}

impl Options {
    /// What a pipeline gets when nothing else is said; the version is the present time.
    pub fn new(pipeline: &Pipeline, algorithm: Algorithm) -> Self {
        Options {
            train: TrainOptions {
                threshold: pipeline.threshold().unwrap_or(0.5),
                ..TrainOptions::new(algorithm)
            },
            by_time: false,
            name: pipeline.name().to_owned(),
            version: Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string(),
        }
    }
}

/// What training brought.
#[derive(Debug)]
pub struct Outcome {
    pub package: Package,
    /// Rows that could not be used: the line in the file and why.
    pub skipped: Vec<(u64, Invalid)>,
}

/// Trains on a CSV file's bytes, read by the code the stream uses. Blocks for seconds to minutes.
///
/// # Errors
/// Wrong options or pipeline ([`Error::Config`]), or data from which nothing can be learned.
pub fn train(
    pipeline: &Pipeline,
    csv: &[u8],
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, Error> {
    let label = pipeline.label().ok_or_else(|| {
        let pipeline = pipeline.name().to_owned();
        Error::Config(training::Error::NoLabel { pipeline }.to_string())
    })?;
    let Truth::Two { positive, negative } = &label.truth else {
        return Err(Error::Config(format!(
            "pipeline {:?} has several classes or values; models of two classes are trained here, others elsewhere and imported as ONNX",
            pipeline.name()
        )));
    };
    let labels = Labels {
        positive: positive.clone(),
        negative: negative.clone(),
    };
    let data = pipeline.read_training(csv).map_err(failed)?;
    let dataset = Dataset {
        inputs: data.inputs,
        rows: data.rows,
        labels: data.labels,
    };
    let times;
    let split = match options.by_time {
        false => Split::Entities(&data.entities),
        true => {
            times = all_times(&data.times_ms, pipeline)?;
            Split::Time(&times)
        }
    };
    let trained = train::train_split(&dataset, split, &options.train, progress);
    let trained = trained.map_err(|error| match error {
        train::Error::Option { .. } => Error::Config(error.to_string()),
        error => failed(error),
    })?;
    let package = pack(trained, csv, labels, options)?;
    Ok(Outcome {
        package,
        skipped: data.skipped,
    })
}

/// Every row's event time.
fn all_times(times_ms: &[Option<i64>], pipeline: &Pipeline) -> Result<Vec<i64>, Error> {
    let times: Vec<i64> = times_ms.iter().copied().flatten().collect();
    match times.len() == times_ms.len() {
        true => Ok(times),
        false => Err(Error::Config(format!(
            "--folds time: {} of {} rows have no event time; give the data a column of it, as record.event_time of pipeline {:?} names it",
            times_ms.len() - times.len(),
            times_ms.len(),
            pipeline.name()
        ))),
    }
}

/// Of what a package says of its making only what equal training would say again: packages are compared by their hash.
/// The moment is on the log, when it is pushed; whoever wants it in the package sets SOURCE_DATE_EPOCH.
pub fn created_at() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = given.and_then(|text| text.parse().ok()).unwrap_or(0);
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn pack(trained: Trained, csv: &[u8], labels: Labels, options: &Options) -> Result<Package, Error> {
    let identity = Identity {
        name: options.name.clone(),
        version: options.version.clone(),
        labels,
        data_sha256: Digest::of(csv),
        created_at: created_at(),
    };
    trained.into_package(identity).map_err(|error| match error {
        package::Error::Text { .. } => Error::Config(format!("--name, --model-version: {error}")),
        error => failed(error),
    })
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

/// Trains and writes the package.
///
/// # Errors
/// As [`train`]; or files that cannot be read or written.
pub async fn run(args: Args) -> Result<(), Error> {
    blocking(move || run_blocking(&args)).await
}

fn run_blocking(args: &Args) -> Result<(), Error> {
    let pipeline = args.pipeline.one()?;
    let options = args.options(&pipeline)?;
    if args.keep && args.out.join("manifest.json").is_file() {
        return output::print(format_args!("{}: kept", args.out.display())).map(drop);
    }
    let overwrite = args.check_place()?;
    let csv = read(&args.data)?;
    let bar = Bar::new();
    let result = train(&pipeline, &csv, &options, &mut |progress| {
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
    let manifest = package.manifest();
    if let Some(training) = &manifest.training {
        let _ = output::print(format_args!(
            "{}\n\n{package} ({}) written to {}",
            training.evaluation,
            training.algorithm,
            args.out.display()
        ))?;
    }
    Ok(())
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

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |reason: String| Error::Config(format!("--data: {}: {reason}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    let read = file.take(DATA_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > DATA_BYTES_MAX {
        let max = DATA_BYTES_MAX >> 20;
        return Err(wrong(format!("larger than {max} MiB; train on a sample")));
    }
    Ok(bytes)
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

/// Training's progress: a bar on a terminal, else a line a step.
enum Bar {
    Terminal(ProgressBar),
    Lines,
}

impl Bar {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Bar::Lines;
        }
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("training {bar:30} {pos}/{len} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar::Terminal(bar)
    }

    fn show(&self, progress: Progress) {
        let Progress { done, total, step } = progress;
        match self {
            Bar::Terminal(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(step.to_string());
            }
            Bar::Lines => output::note(format_args!("training {done}/{total} {step}")),
        }
    }

    fn end(&self) {
        if let Bar::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIABETES: &str = include_str!("../pipelines/diabetes.toml");
    const PIMA: &[u8] = include_bytes!("../data/pima.csv");

    fn diabetes() -> Pipeline {
        Pipeline::parse("diabetes.toml", DIABETES).unwrap()
    }

    #[test]
    fn a_package_is_made_of_the_bundled_data_and_fits_its_pipeline() {
        let pipeline = diabetes();
        let options = Options {
            version: "1".into(),
            ..Options::new(&pipeline, Algorithm::LogisticRegression)
        };
        let mut steps = 0;
        let outcome = train(&pipeline, PIMA, &options, &mut |_| steps += 1).unwrap();
        outcome.package.check_inputs(pipeline.inputs()).unwrap();
        assert_eq!(outcome.package.manifest().name, "diabetes");
        assert_eq!((steps, outcome.skipped.len()), (6, 0));
    }

    #[test]
    fn a_row_that_cannot_be_used_is_skipped_with_its_line() {
        let mut csv = PIMA.to_vec();
        csv.extend_from_slice(b"1,tall,66,29,0,26.6,0.351,31,neg\n");
        let pipeline = diabetes();
        let options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let outcome = train(&pipeline, &csv, &options, &mut |_| {}).unwrap();
        let lines = PIMA.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(outcome.skipped[0].0, lines + 1);
    }

    /// Ten rows of each of 60 patients, nearly alike, with the patient's truth, which is dealt at random.
    fn alike() -> Vec<u8> {
        let mut csv = String::from(
            "patient_id,event_time,pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age,diabetes\n",
        );
        let mut chance = 7_u64;
        let mut number = |below: u64| {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        for patient in 0..60 {
            let (glucose, mass, age) = (80 + number(100), 20 + number(20), 20 + number(60));
            let truth = if number(2) == 0 { "pos" } else { "neg" };
            for visit in 0..10 {
                let (glucose, time) = (glucose * 10 + number(3), patient + 60 * visit);
                csv.push_str(&format!(
                    "p{patient},{time},1,{}.{},70,20,100,{mass}.5,0.5,{age},{truth}\n",
                    glucose / 10,
                    glucose % 10
                ));
            }
        }
        csv.into_bytes()
    }

    fn auc(csv: &[u8], by_time: bool) -> f64 {
        let pipeline = diabetes();
        let mut options = Options::new(&pipeline, Algorithm::RandomForest);
        options.train.trees = 30;
        options.by_time = by_time;
        let outcome = train(&pipeline, csv, &options, &mut |_| {}).unwrap();
        let training = outcome.package.manifest().training.clone().unwrap();
        training.evaluation.metrics.auc
    }

    #[test]
    fn a_patients_rows_do_not_tell_the_truth_of_each_other() {
        let csv = alike();
        let found = auc(&csv, false);
        assert!((0.35..0.65).contains(&found), "AUC {found}");
        // As if each visit were another patient's, the others of the patient give it away.
        let apart = String::from_utf8(csv.clone())
            .unwrap()
            .replacen("patient_id", "who", 1);
        assert!(auc(apart.as_bytes(), false) > 0.95);
        // Asked for what is after, what was before may be known.
        assert!(auc(&csv, true) > 0.95);
    }

    #[test]
    fn folds_by_time_need_the_time_of_every_row() {
        let pipeline = diabetes();
        let mut options = Options::new(&pipeline, Algorithm::LogisticRegression);
        options.by_time = true;
        let error = train(&pipeline, PIMA, &options, &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("768 of 768 rows have no event time"),
            "{error}"
        );
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

    #[test]
    fn equal_training_gives_an_equal_package_and_records_nobodys_row() {
        let pipeline = diabetes();
        let package = |warm_up| {
            let mut options = Options::new(&pipeline, Algorithm::LogisticRegression);
            options.version = "1".into();
            options.train.warm_up = warm_up;
            train(&pipeline, PIMA, &options, &mut |_| {})
                .unwrap()
                .package
        };
        let made = package(WarmUpRows::Synthetic);
        assert_eq!(made.hash(), package(WarmUpRows::Synthetic).hash());
        let manifest = made.manifest();
        assert_eq!(manifest.created_at, "1970-01-01T00:00:00Z", "no clock");
        let real = pipeline.read_training(PIMA).unwrap();
        let real: Vec<Vec<Option<f64>>> = real
            .rows
            .chunks(real.inputs.len())
            .map(|row| row.iter().map(|it| it.is_finite().then_some(*it)).collect())
            .collect();
        let of = |package: &Package| package.manifest().warm_up.clone().unwrap().rows;
        assert!(of(&made).iter().all(|row| !real.contains(&row.inputs)));
        let asked = package(WarmUpRows::Real);
        assert!(of(&asked).iter().all(|row| real.contains(&row.inputs)));
    }

    #[test]
    fn options_out_of_bounds_are_wrong_usage() {
        let pipeline = diabetes();
        let mut options = Options::new(&pipeline, Algorithm::RandomForest);
        options.train.folds = 1;
        let error = train(&pipeline, PIMA, &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error}");
    }
}
