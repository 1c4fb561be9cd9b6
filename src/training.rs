//! Training on a CSV file that is read as the stream reads records. Knows no terminal: `train` and `up` call it.

mod past;
mod skipped;

use jiff::Timestamp;
use quadrille_model::{
    Package,
    package::{self, Digest, Identity, Labels},
    train::{
        self, Algorithm, Dataset, Group, HeldOut, Measure, Progress, Split, TrainOptions, Trained,
    },
};
use quadrille_pipeline::{
    Pipeline, Training, Truth,
    training::{self, Past, Remark},
};
use quadrille_service::Error;

pub use self::{
    past::{past, past_json},
    skipped::{Allowed, Skipped},
};
use crate::{output::counted, preview, time};

/// How to train, and what to call the result.
#[derive(Debug, Clone)]
pub struct Options {
    pub train: TrainOptions,
    /// Folds are cut by the rows' event times, not by entities.
    pub by_time: bool,
    /// The column that says in which order the rows came, where features look back.
    pub arrived: Option<String>,
    /// Rows that may be left out because they cannot be used.
    pub skipped_max: Allowed,
    /// How often each feature's values are dealt anew to learn its importance; 0 is not at all.
    pub importance_repeats: usize,
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
            arrived: None,
            skipped_max: Allowed::ALL,
            importance_repeats: 0,
            name: pipeline.name().to_owned(),
            version: time::as_version(),
        }
    }
}

/// What training brought.
#[derive(Debug)]
pub struct Outcome {
    pub package: Package,
    /// Rows that could not be used, by reason.
    pub skipped: Skipped,
    /// What the services would make of the ids, keys and times of the rows.
    pub remarks: Vec<Remark>,
    /// How the rows were replayed; None where no feature looks back.
    pub past: Option<Past>,
    /// What the classes are called.
    pub labels: Labels,
    /// What the package's metrics were computed from.
    pub held_out: HeldOut,
}

impl Outcome {
    /// What of the data was not used, and what the services would not take, in a line each at most and with where all of it
    /// is told. Nothing where there is nothing to say.
    pub fn brief(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.skipped.brief().into_iter().collect();
        // That a column is not there costs no row.
        let mut remarks = (self.remarks.iter()).filter(|it| it.class != "no_column");
        if let Some(first) = remarks.next() {
            let first = preview::text(&first.to_string(), preview::MESSAGE_CHARS_MAX);
            lines.push(match remarks.count() {
                0 => first,
                more => format!("{first}; and {} more", counted(more, "remark")),
            });
        }
        if let Some(last) = lines.last_mut() {
            last.push_str(" (`quadrille train` lists all)");
        }
        lines
    }
}

/// Trains on a CSV file's bytes, read by the code the stream uses. Blocks for seconds to minutes.
///
/// # Errors
/// Wrong options or pipeline ([`Error::Config`]), more rows that cannot be used than are allowed, or data from which nothing can be
/// learned.
pub fn train(
    pipeline: &Pipeline,
    csv: &[u8],
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, Error> {
    let labels = labels(pipeline)?;
    if options.arrived.is_some() && pipeline.state().is_none() {
        return Err(Error::Config(format!(
            "--arrived: no feature of pipeline {:?} looks back, so the order of the rows does not matter; leave it out",
            pipeline.name()
        )));
    }
    let reading = training::Options {
        now_ms: Some(Timestamp::now().as_millisecond()),
        arrived: options.arrived.clone(),
    };
    let data = pipeline.read_training_with(csv, &reading);
    let data = data.map_err(|error| unusable(pipeline, error))?;
    pipeline.check_labels(&data).map_err(failed)?;
    let skipped = Skipped::of(pipeline, data.labels.len(), &data.skipped);
    skipped.check(options.skipped_max).map_err(Error::Failed)?;
    let times;
    let split = match options.by_time {
        false => Split::Entities(&data.entities),
        true => {
            times = all_times(&data, pipeline)?;
            Split::Time(&times)
        }
    };
    let dataset = Dataset {
        inputs: data.inputs,
        rows: data.rows,
        labels: data.labels,
    };
    let mut train_options = options.train.clone();
    if options.importance_repeats > 0 {
        train_options.importance = Some(Measure {
            repeats: options.importance_repeats,
            groups: features(&dataset.inputs),
        });
    }
    let trained = train::train_split(&dataset, split, &train_options, progress);
    let trained = trained.map_err(|error| match error {
        train::Error::Option { .. } => Error::Config(error.to_string()),
        error => Error::Failed(error.with_names(&labels)),
    })?;
    let held_out = trained.held_out.clone();
    let package = pack(trained, csv, labels.clone(), options)?;
    Ok(Outcome {
        package,
        skipped,
        remarks: data.remarks,
        past: data.past,
        labels,
        held_out,
    })
}

/// What the data calls the two classes.
fn labels(pipeline: &Pipeline) -> Result<Labels, Error> {
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
    Ok(Labels {
        positive: positive.clone(),
        negative: negative.clone(),
    })
}

/// Where not one row can be used, all reasons are of interest, not the first row's alone.
fn unusable(pipeline: &Pipeline, error: training::Error) -> Error {
    match error {
        training::Error::NoRows { skipped } if !skipped.is_empty() => {
            Error::Failed(Skipped::of(pipeline, 0, &skipped).to_string())
        }
        error @ training::Error::NoArrivedColumn { .. } => {
            Error::Config(format!("--arrived: {error}"))
        }
        error => failed(error),
    }
}

/// The features that the inputs are of: `one_hot` makes an input `name=value` of each value of a category.
fn features(inputs: &[String]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (column, input) in inputs.iter().enumerate() {
        let (name, is_one_of_many) = match input.split_once('=') {
            Some((name, _)) => (name, true),
            None => (input.as_str(), false),
        };
        match groups
            .iter_mut()
            .find(|it| is_one_of_many && it.name == name)
        {
            Some(group) => group.columns.push(column),
            None => groups.push(Group {
                name: name.to_owned(),
                columns: vec![column],
            }),
        }
    }
    groups
}

/// Every row's event time.
fn all_times(data: &Training, pipeline: &Pipeline) -> Result<Vec<i64>, Error> {
    let times: Vec<i64> = data.times_ms.iter().copied().flatten().collect();
    if times.len() == data.times_ms.len() {
        return Ok(times);
    }
    let mut message = format!(
        "--folds time: {} of {} rows have no event time; give the data a column of it, as record.event_time of pipeline {:?} names it",
        data.times_ms.len() - times.len(),
        data.times_ms.len(),
        pipeline.name()
    );
    for remark in data.remarks.iter().filter(|it| it.class == "bad_time") {
        message.push_str(&format!("\n  {remark}"));
    }
    Err(Error::Config(message))
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
        assert_eq!((steps, outcome.skipped.skipped), (6, 0));
    }

    #[test]
    fn a_row_that_cannot_be_used_is_skipped_with_its_line() {
        let mut csv = PIMA.to_vec();
        csv.extend_from_slice(b"1,tall,66,29,0,26.6,0.351,31,neg\n");
        let pipeline = diabetes();
        let options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let outcome = train(&pipeline, &csv, &options, &mut |_| {}).unwrap();
        let lines = PIMA.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(outcome.skipped.reasons[0].lines, [lines + 1]);
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
    fn what_was_left_out_is_told_in_a_line_or_two() {
        let pipeline = diabetes();
        let options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let brief = |csv: &[u8]| {
            let outcome = train(&pipeline, csv, &options, &mut |_| {}).unwrap();
            outcome.brief()
        };
        assert!(brief(PIMA).is_empty());
        let mut csv = alike();
        csv.extend_from_slice(b"p1,5,1,tall,66,29,0,26.6,0.351,31,neg\n");
        csv.extend_from_slice(b"p1,5,,85,66,29,0,26.6,0.351,31,neg\n".repeat(4).as_slice());
        let [skipped, remarks] = &brief(&csv)[..] else {
            panic!("{:?}", brief(&csv))
        };
        for expected in [
            "5 of 605 rows were left out of the training (0.8 %): 4 rows (lines 603, 604, 605, …): field \"pregnant\": is null or empty",
            "; and 1 reason more",
        ] {
            assert!(
                skipped.contains(expected),
                "{expected:?} is not in {skipped}"
            );
        }
        assert!(
            remarks.contains("605 rows") && remarks.ends_with("(`quadrille train` lists all)"),
            "{remarks}"
        );
        assert!(!skipped.contains('\n') && !remarks.contains('\n'));
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

    #[test]
    fn more_rows_that_cannot_be_used_than_allowed_train_nothing() {
        let mut csv = PIMA.to_vec();
        csv.extend_from_slice(b"1,tall,66,29,0,26.6,0.351,31,neg\n");
        csv.extend_from_slice(b",85,66,29,0,26.6,0.351,31,neg\n".repeat(4).as_slice());
        let pipeline = diabetes();
        let mut options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let mut attempt = |allowed| {
            options.skipped_max = allowed;
            let mut steps = 0;
            let result = train(&pipeline, &csv, &options, &mut |_| steps += 1);
            (result, steps)
        };
        let (refused, steps) = attempt(Allowed::Rows(4));
        assert_eq!(steps, 0, "it is known before anything is trained");
        let Err(Error::Failed(said)) = refused else {
            panic!("{refused:?}")
        };
        for expected in [
            "5 of 773 rows cannot be used for training (0.6 %)",
            "4 rows (lines 771, 772, 773, …): field \"pregnant\": is null or empty; if it may be missing, write `required = false`",
            "1 row (line 770): field \"glucose\": \"tall\" is not a number",
            "add --max-skipped 5",
        ] {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
        assert!(attempt(Allowed::Percent(0.6)).0.is_err());
        for allowed in [Allowed::Rows(5), Allowed::Percent(0.7)] {
            let outcome = attempt(allowed).0.unwrap();
            assert_eq!((outcome.skipped.rows, outcome.skipped.skipped), (773, 5));
        }
    }

    #[test]
    fn a_label_that_occurs_nowhere_is_answered_with_the_values_there_are() {
        let csv = String::from_utf8(PIMA.to_vec())
            .unwrap()
            .replace(",pos", ",Positive");
        let pipeline = diabetes();
        let options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let error = train(&pipeline, csv.as_bytes(), &options, &mut |_| {}).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("\"neg\" in 500 rows, \"Positive\" in 268 rows; did you mean positive = \"Positive\"?"),
            "{said}"
        );
    }

    #[test]
    fn importance_is_of_features_and_changes_nothing_of_the_package() {
        let inputs = ["a", "c=x", "b", "c=y"].map(str::to_owned);
        let groups = features(&inputs);
        let found: Vec<(&str, &[usize])> =
            groups.iter().map(|it| (&*it.name, &*it.columns)).collect();
        assert_eq!(found, [("a", &[0][..]), ("c", &[1, 3]), ("b", &[2])]);

        let pipeline = diabetes();
        let mut options = Options::new(&pipeline, Algorithm::LogisticRegression);
        options.version = "1".into();
        let plain = train(&pipeline, PIMA, &options, &mut |_| {}).unwrap();
        options.importance_repeats = 3;
        let measured = train(&pipeline, PIMA, &options, &mut |_| {}).unwrap();
        assert_eq!(plain.package.hash(), measured.package.hash());
        assert_eq!(plain.held_out.importances, None);
        let importances = measured.held_out.importances.unwrap();
        assert_eq!((importances.rows, importances.repeats), (768, 3));
        // What glucose tells is well known; whether insulin was measured tells nothing.
        assert_eq!(importances.features[0].feature, "glucose");
        assert!(importances.features[0].mean > 0.05);
    }

    #[test]
    fn ids_and_times_that_the_services_would_refuse_are_remarked_on() {
        let csv = alike();
        let pipeline = diabetes();
        let options = Options::new(&pipeline, Algorithm::LogisticRegression);
        let outcome = train(&pipeline, &csv, &options, &mut |_| {}).unwrap();
        let classes: Vec<(&str, u64)> = outcome
            .remarks
            .iter()
            .map(|it| (it.class, it.rows))
            .collect();
        assert_eq!(classes, [("no_column", 0), ("bad_time", 600)]);
    }
}
