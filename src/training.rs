//! Training on a CSV file that is read as the stream reads records. Knows no flags and no terminal: `train` and `up` call it.

use jiff::Timestamp;
use quadrille_model::{
    Package,
    package::{self, Digest, Identity, Labels},
    train::{self, Algorithm, Dataset, Progress, Split, TrainOptions, Trained},
};
use quadrille_pipeline::{Invalid, Pipeline, Truth, training};
use quadrille_service::Error;

use crate::time;

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
            version: time::as_version(),
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

#[cfg(test)]
mod tests {
    use quadrille_model::train::WarmUpRows;

    use super::*;

    const DIABETES: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    ));
    const PIMA: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));

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
