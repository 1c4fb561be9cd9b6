//! `quadrille model import`: an ONNX file from anywhere becomes a package.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use quadrille_model::{
    Outputs, Package,
    import::{ImportOptions, Renamed, import, renamed},
    onnx,
    package::{self, Activation, Labels, Overwrite, ROWS_MAX, WarmUp, WarmUpRow},
};
use quadrille_pipeline::{Decision, Pipeline, Truth};
use quadrille_service::Error;

use super::fits;
use crate::{output, pipelines, registry, train::created_at};

/// Room for 32 rows of 4,096 inputs, and for other columns.
const WARM_UP_BYTES_MAX: u64 = 16 << 20;

/// So many classes that the file calls otherwise are shown; there may be thousands.
const RENAMED_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  quadrille model import forest.onnx --pipeline pipelines/diabetes.toml --version 4 \\
      --warm-up rows.csv --out models/diabetes/4
  quadrille model import iris.onnx --name iris --version 1 \\
      --inputs sepal_length,sepal_width,petal_length,petal_width \\
      --outputs classes:setosa,versicolor,virginica --out models/iris/1
  quadrille model import net.onnx --name price --version 1 --inputs area,rooms \\
      --outputs values:price --output-tensor y --out models/price/1

The columns of the graph's input get names by --inputs or --pipeline, in their order. --warm-up is a CSV file whose header \
has all inputs' names and, if it is to prove that the answers are those of the library the model comes from, all outputs' \
names: a probability of the positive class, of each class, or the values. An empty cell is a missing input. Up to 32 rows \
become part of the package: they are scored and compared wherever it is loaded, and are what trees measure \
contributions against (`quadrille explain`).";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file.
    #[arg(value_name = "FILE.onnx")]
    file: PathBuf,

    /// The model's name [default: the pipeline's].
    #[arg(long, required_unless_present = "pipeline")]
    name: Option<String>,

    /// The model's version [default: the time, as in 20261122T160000Z].
    #[arg(long, value_name = "VERSION", visible_alias = "model-version")]
    version: Option<String>,

    /// What each column of the graph's input is called, in order.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    #[arg(conflicts_with = "pipeline", required_unless_present = "pipeline")]
    inputs: Vec<String>,

    /// Take the model's inputs and, without --outputs, what it answers from this pipeline file; refuse a model that does not fit it.
    #[arg(long, value_name = "PATH")]
    pipeline: Option<PathBuf>,

    /// What the answers are: binary:NEGATIVE,POSITIVE, classes:A,B,C or values:X,Y.
    #[arg(long, value_name = "TASK:NAMES", value_parser = outputs)]
    #[arg(required_unless_present = "pipeline")]
    outputs: Option<Outputs>,

    /// The graph's output that holds the answers [default: the first one of floating-point numbers].
    #[arg(long, value_name = "NAME")]
    output_tensor: Option<String>,

    /// What is still to be done to the graph's answers; a network trained on logits often ends before its softmax.
    #[arg(long, value_enum, default_value_t = Last::None)]
    activation: Last,

    /// Rows to be scored at every load, with the answers there must be or without.
    #[arg(long, value_name = "ROWS.csv")]
    warm_up: Option<PathBuf>,

    /// How much an answer may be off the one in ROWS.csv, times its own size where that is above 1.
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 1e-5,
        requires = "warm_up"
    )]
    tolerance: f64,

    /// The folder to write the package to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Replace the package that is there.
    #[arg(long)]
    replace: bool,
}

/// [`Activation`] as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Last {
    /// The answers are the outputs.
    None,
    /// The answers are logits of all classes.
    Softmax,
    /// Each answer is a log-odds.
    Sigmoid,
}

impl From<Last> for Activation {
    fn from(last: Last) -> Self {
        match last {
            Last::None => Activation::None,
            Last::Softmax => Activation::Softmax,
            Last::Sigmoid => Activation::Sigmoid,
        }
    }
}

fn outputs(text: &str) -> Result<Outputs, String> {
    const HOW: &str = "write binary:NEGATIVE,POSITIVE, classes:A,B,C or values:X,Y";
    let (task, names) = text.split_once(':').ok_or(HOW)?;
    let names: Vec<String> = names.split(',').map(|it| it.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(format!("a name is empty; {HOW}"));
    }
    match (task, names.as_slice()) {
        ("binary", [negative, positive]) => Ok(Outputs::Binary(Labels {
            negative: negative.clone(),
            positive: positive.clone(),
        })),
        ("binary", _) => Err(format!("binary has two names, not {}; {HOW}", names.len())),
        ("classes", [_]) => Err(format!("there are two classes at least; {HOW}")),
        ("classes", _) => Ok(Outputs::Classes(names)),
        ("values", _) => Ok(Outputs::Values(names)),
        _ => Err(format!("{task:?} is no task; {HOW}")),
    }
}

/// # Errors
/// What is given cannot be a package, or it cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let overwrite = match args.replace {
        true => Overwrite::Replace,
        false => Overwrite::Refuse,
    };
    let onnx = read(&args.file)?;
    let mut options = args.options()?;
    if let Some(path) = &args.warm_up {
        let rows = warm_up(path, &options)?;
        rows.tell(path, &options);
        rows.put(&mut options, args.tolerance);
    }
    let package = import(onnx, options).map_err(|error| refused(&args.file, &error))?;
    if let Some(path) = &args.pipeline {
        fits(&package, &[pipelines::one(path)?])?;
    }
    let renamed = renamed(&package).map_err(|error| refused(&args.file, &error))?;
    renamed
        .iter()
        .take(RENAMED_MAX)
        .for_each(|it| output::note(taken_for(it)));
    package
        .save(&args.out, overwrite)
        .map_err(|error| match error {
            package::Error::Exists(_) => Error::Config(format!("--out: {error} (add --replace)")),
            package::Error::NotAPackage(_) | package::Error::Place(_) => {
                Error::Config(format!("--out: {error}"))
            }
            error => Error::Failed(error.to_string()),
        })?;
    if package.manifest().warm_up.is_none() {
        output::note(
            "without --warm-up nothing checks where the package is loaded that it answers as it should, and trees cannot \
             say what each input had to do with an answer",
        );
    }
    let _ = output::print(told(&package, &args.out))?;
    Ok(())
}

fn taken_for(renamed: &Renamed) -> String {
    let Renamed {
        column,
        file,
        named,
    } = renamed;
    format!("column {column} (counting from 0): the file's class {file:?} is taken for {named:?}")
}

/// What the file or an option does wrong is the user's to change.
fn refused(file: &Path, error: &package::Error) -> Error {
    let hint = match error {
        package::Error::WarmUp(_) => {
            "; are the inputs named in the order of the graph's columns, is --activation right, and the output the one with \
             the answers (--output-tensor)?"
        }
        package::Error::ClassOrder { .. } => " (--outputs)",
        package::Error::NoProbability { .. } => " (--activation, --outputs)",
        package::Error::Parts(_) => "; check --inputs, --outputs and --output-tensor",
        _ => "",
    };
    Error::Config(format!("{}: {error}{hint}", file.display()))
}

fn told(package: &Package, out: &Path) -> String {
    let manifest = package.manifest();
    let outputs = match &manifest.outputs {
        Outputs::Binary(labels) => format!("the probability of {}", labels.positive),
        Outputs::Classes(names) => format!("the probabilities of {}", names.join(", ")),
        Outputs::Values(names) => names.join(", "),
    };
    let rows = manifest.warm_up.as_ref().map_or(0, |it| it.rows.len());
    let out = out.display();
    format!(
        "{package}: {} to {outputs}, {}, written to {out}\nput it on the log with `quadrille model push {out}`",
        registry::counted(manifest.inputs.len(), "input"),
        registry::counted(rows, "recorded row"),
    )
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    bounded(path, onnx::BYTES_MAX as u64).map_err(Error::Config)
}

/// A file's bytes, unless there are more.
fn bounded(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(error.to_string()))?;
    match bytes.len() as u64 > max {
        true => Err(wrong(format!("larger than {} MiB", max >> 20))),
        false => Ok(bytes),
    }
}

impl Args {
    fn options(&self) -> Result<ImportOptions, Error> {
        let pipeline = match &self.pipeline {
            Some(path) => Some(pipelines::one(path)?),
            None => None,
        };
        let of_pipeline = pipeline.as_ref();
        let missing = |flag: &str| Error::Config(format!("{flag} is missing; see --help"));
        let now = Timestamp::now();
        let name = self.name.clone();
        let outputs = self.outputs.clone();
        Ok(ImportOptions {
            name: name
                .or_else(|| of_pipeline.map(|it| it.name().to_owned()))
                .ok_or_else(|| missing("--name"))?,
            version: (self.version.clone())
                .unwrap_or_else(|| now.strftime("%Y%m%dT%H%M%SZ").to_string()),
            inputs: match of_pipeline {
                Some(pipeline) => pipeline.inputs().to_vec(),
                None => (self.inputs.iter())
                    .map(|it| it.trim().to_owned())
                    .collect(),
            },
            outputs: outputs
                .or_else(|| of_pipeline.map(labels))
                .ok_or_else(|| missing("--outputs"))?,
            output: self.output_tensor.clone(),
            activation: self.activation.into(),
            preprocess: None,
            warm_up: None,
            recorded: Vec::new(),
            created_at: created_at(),
        })
    }
}

/// What a pipeline decides by; two classes as its data calls them, or else its decision.
fn labels(pipeline: &Pipeline) -> Outputs {
    let (negative, positive) = match (pipeline.decision(), pipeline.label().map(|it| &it.truth)) {
        (Decision::Argmax(decision), _) => return Outputs::Classes(decision.classes.clone()),
        (Decision::Value(decision), _) => return Outputs::Values(decision.values.clone()),
        (Decision::Threshold(_), Some(Truth::Two { negative, positive })) => (negative, positive),
        (Decision::Threshold(decision), _) => (&decision.negative, &decision.positive),
    };
    Outputs::Binary(Labels {
        negative: negative.clone(),
        positive: positive.clone(),
    })
}

/// Rows of a CSV file.
#[derive(Debug, PartialEq)]
struct Rows {
    /// NaN is missing.
    inputs: Vec<Vec<f64>>,
    /// None: the file has no columns of outputs.
    answers: Option<Vec<Vec<f64>>>,
    /// Whether the file goes on.
    more: bool,
}

impl Rows {
    fn tell(&self, path: &Path, options: &ImportOptions) {
        let path = path.display();
        if self.more {
            output::note(format_args!("{path}: the first {ROWS_MAX} rows are taken"));
        }
        if self.answers.is_none() {
            output::note(format_args!(
                "{path} has no answers (no column {}): what the model answers now is recorded",
                options.outputs.names().join(", ")
            ));
        }
    }

    fn put(self, options: &mut ImportOptions, tolerance: f64) {
        let Some(answers) = self.answers else {
            options.recorded = self.inputs.concat();
            return;
        };
        let row = |(inputs, outputs): (Vec<f64>, Vec<f64>)| WarmUpRow {
            inputs: inputs
                .into_iter()
                .map(|it| Some(it).filter(|it| !it.is_nan()))
                .collect(),
            outputs,
        };
        options.warm_up = Some(WarmUp {
            tolerance,
            rows: self.inputs.into_iter().zip(answers).map(row).collect(),
        });
    }
}

fn warm_up(path: &Path, options: &ImportOptions) -> Result<Rows, Error> {
    let bytes = bounded(path, WARM_UP_BYTES_MAX)
        .map_err(|reason| Error::Config(format!("--warm-up: {reason}")))?;
    rows(&bytes, &options.inputs, options.outputs.names())
        .map_err(|reason| Error::Config(format!("--warm-up: {}: {reason}", path.display())))
}

fn rows(bytes: &[u8], inputs: &[String], outputs: &[String]) -> Result<Rows, String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut csv = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let header = csv.headers().map_err(|error| error.to_string())?.clone();
    let inputs = columns(&header, inputs)?;
    let (there, missing): (Vec<&String>, Vec<&String>) = outputs
        .iter()
        .partition(|name| header.iter().any(|it| it == *name));
    let answers = match (there.is_empty(), missing.is_empty()) {
        (true, _) => None,
        (false, true) => Some(columns(&header, outputs)?),
        (false, false) => {
            return Err(format!(
                "there is column {:?} and no column {:?}; give all outputs or none",
                there[0], missing[0]
            ));
        }
    };
    let mut rows = Rows {
        inputs: Vec::new(),
        answers: answers.is_some().then(Vec::new),
        more: false,
    };
    for record in csv.records() {
        let record = record.map_err(|error| error.to_string())?;
        if rows.inputs.len() == ROWS_MAX {
            rows.more = true;
            break;
        }
        rows.inputs.push(cells(&header, &record, &inputs)?);
        if let (Some(columns), Some(answers)) = (&answers, &mut rows.answers) {
            let row = cells(&header, &record, columns)?;
            if let Some(at) = row.iter().position(|it| !it.is_finite()) {
                let (line, name) = (line(&record), &header[columns[at]]);
                return Err(format!(
                    "line {line}, column {name:?}: an answer must be a finite number"
                ));
            }
            answers.push(row);
        }
    }
    match rows.inputs.is_empty() {
        true => Err("it has no rows".to_owned()),
        false => Ok(rows),
    }
}

/// Where each name's column is.
fn columns(header: &csv::StringRecord, names: &[String]) -> Result<Vec<usize>, String> {
    let column = |name: &String| {
        let mut found = (header.iter().enumerate()).filter(|(_, it)| it == name);
        match (found.next(), found.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => Err(format!("column {name:?} is there twice")),
            (None, _) => {
                let there: Vec<&str> = header.iter().collect();
                Err(format!(
                    "there is no column {name:?}; the columns are {}",
                    there.join(", ")
                ))
            }
        }
    };
    names.iter().map(column).collect()
}

fn line(record: &csv::StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn cells(
    header: &csv::StringRecord,
    record: &csv::StringRecord,
    columns: &[usize],
) -> Result<Vec<f64>, String> {
    let cell = |&at: &usize| match record.get(at).unwrap_or_default() {
        "" => Ok(f64::NAN),
        text => match text.parse::<f64>() {
            // What is too large for a number would be recorded as missing.
            Ok(number) if !number.is_infinite() => Ok(number),
            read => {
                let (line, name) = (line(record), &header[at]);
                let finite = if read.is_ok() { "finite " } else { "" };
                Err(format!(
                    "line {line}, column {name:?}: {text:?} is not a {finite}number"
                ))
            }
        },
    };
    columns.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{PushArgs, push};
    use super::*;
    use crate::kafka::Kafka;

    const GOLDEN: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/model/tests/golden/onnx"
    );
    const DIABETES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/diabetes.toml");

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        let line = ["import"].iter().chain(line);
        Cli::try_parse_from(line).map(|cli| cli.args)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn outputs_are_a_task_and_its_names() {
        assert_eq!(
            outputs("binary:neg, pos"),
            Ok(Outputs::Binary(Labels {
                negative: "neg".into(),
                positive: "pos".into()
            }))
        );
        assert_eq!(
            outputs("classes:a,b,c"),
            Ok(Outputs::Classes(names(&["a", "b", "c"])))
        );
        assert_eq!(outputs("values:x"), Ok(Outputs::Values(names(&["x"]))));
        for wrong in [
            "",
            "binary",
            "binary:a",
            "binary:a,b,c",
            "classes:a",
            "values:",
            "odds:a",
            "values:a,,b",
        ] {
            assert!(outputs(wrong).unwrap_err().contains("binary:"), "{wrong}");
        }
    }

    #[test]
    fn inputs_come_from_a_list_or_a_pipeline_and_never_from_nowhere() {
        let of_list = args(&[
            "m.onnx",
            "--name",
            "m",
            "--inputs",
            "a, b",
            "--outputs",
            "values:y",
            "--out",
            "o",
        ]);
        let options = of_list.unwrap().options().unwrap();
        assert_eq!(options.inputs, ["a", "b"]);
        let of_pipeline = args(&[
            "m.onnx",
            "--pipeline",
            DIABETES,
            "--version",
            "7",
            "--out",
            "o",
        ]);
        let options = of_pipeline.unwrap().options().unwrap();
        assert_eq!((&*options.name, &*options.version), ("diabetes", "7"));
        assert_eq!(options.inputs[0], "pregnant");
        assert_eq!(options.outputs.names(), ["pos"]);
        for wrong in [
            &[
                "m.onnx",
                "--name",
                "m",
                "--outputs",
                "values:y",
                "--out",
                "o",
            ][..],
            &["m.onnx", "--name", "m", "--inputs", "a", "--out", "o"],
            &[
                "m.onnx",
                "--inputs",
                "a",
                "--outputs",
                "values:y",
                "--out",
                "o",
            ],
            &[
                "m.onnx",
                "--pipeline",
                DIABETES,
                "--inputs",
                "a",
                "--out",
                "o",
            ],
        ] {
            assert!(args(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rows_are_found_by_their_columns_names_in_any_order() {
        let csv = b"id,y,b,a\nr1,0.5,2,1\nr2,1e-3,,3\n";
        let (inputs, outputs) = (names(&["a", "b"]), names(&["y"]));
        let found = rows(csv, &inputs, &outputs).unwrap();
        assert_eq!(found.inputs[0], [1.0, 2.0]);
        assert!(found.inputs[1][0] == 3.0 && found.inputs[1][1].is_nan());
        assert_eq!(found.answers, Some(vec![vec![0.5], vec![0.001]]));
        assert_eq!(rows(csv, &inputs, &names(&["z"])).unwrap().answers, None);

        for (cell, wrong) in [("1e999", "not a finite number"), ("x", "not a number")] {
            let csv = format!("a,b\n1,2\n{cell},2\n");
            let error = rows(csv.as_bytes(), &inputs, &outputs).unwrap_err();
            assert!(
                error.contains("line 3, column \"a\"") && error.contains(wrong),
                "{error}"
            );
        }

        let many = format!("a,b\n{}", "1,2\n".repeat(ROWS_MAX + 1));
        let found = rows(many.as_bytes(), &inputs, &outputs).unwrap();
        assert!(found.inputs.len() == ROWS_MAX && found.more);
    }

    #[test]
    fn a_file_of_rows_that_cannot_be_used_says_where() {
        let refused = |csv: &str| {
            let outputs = names(&["y", "z"]);
            rows(csv.as_bytes(), &names(&["a", "b"]), &outputs).unwrap_err()
        };
        assert!(refused("a\n1\n").contains("no column \"b\"; the columns are a"));
        assert!(refused("a,b,a\n1,2,3\n").contains("twice"));
        assert!(refused("a,b\n").contains("no rows"));
        assert!(refused("a,b\n1,x\n").contains("line 2, column \"b\": \"x\" is not a number"));
        assert!(refused("a,b,y\n1,2,3\n").contains("give all outputs or none"));
        assert!(refused("a,b,y,z\n1,2,3,\n").contains("line 2, column \"z\""));
        assert!(refused("a,b\n1,2,3\n").contains("line"));
    }

    /// The golden rows and answers as a CSV file.
    fn golden_csv(folder: &Path, change: f64) -> PathBuf {
        let text = std::fs::read_to_string(format!("{GOLDEN}/rf-iris.json")).unwrap();
        let case: serde_json::Value = serde_json::from_str(&text).unwrap();
        let lines = case["rows"].as_array().unwrap().iter();
        let mut csv = "a,b,c,d,x,y,z\n".to_owned();
        for (row, answers) in lines.zip(case["expected"].as_array().unwrap()) {
            let answers = answers.as_array().unwrap().iter();
            let answers = answers.map(|it| it.as_f64().unwrap() + change);
            let row = row
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it.as_f64().unwrap());
            let cells: Vec<String> = row.chain(answers).map(|it| it.to_string()).collect();
            csv += &format!("{}\n", cells.join(","));
        }
        let path = folder.join("rows.csv");
        std::fs::write(&path, csv).unwrap();
        path
    }

    #[test]
    fn an_onnx_file_becomes_a_package_that_proves_its_answers() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("iris");
        let import = |change| {
            let rows = golden_csv(folder.path(), change);
            let onnx = format!("{GOLDEN}/rf-iris.onnx");
            let (rows, out) = (rows.to_str().unwrap(), out.to_str().unwrap());
            run(&args(&[
                &onnx,
                "--name",
                "iris",
                "--version",
                "1",
                "--inputs",
                "a,b,c,d",
                "--outputs",
                "classes:x,y,z",
                "--warm-up",
                rows,
                "--out",
                out,
            ])
            .unwrap())
        };
        let refused = import(0.01).unwrap_err();
        assert!(
            matches!(&refused, Error::Config(it) if it.contains("row 1") && it.contains("--activation")),
            "{refused}"
        );
        import(0.0).unwrap();
        let package = Package::load(&out).unwrap();
        assert_eq!(
            package.manifest().warm_up.as_ref().unwrap().rows.len(),
            ROWS_MAX
        );
        assert!(
            package
                .model()
                .contributions(&[5.0, 3.0, 1.0, 0.2])
                .is_some()
        );
        let again = import(0.0).unwrap_err();
        assert!(
            matches!(&again, Error::Config(it) if it.contains("--replace")),
            "{again}"
        );
    }

    #[test]
    fn classes_in_another_order_than_the_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let onnx = format!("{GOLDEN}/rf-iris.onnx");
        let out = folder.path().join("iris");
        let import = |outputs| {
            run(&args(&[
                &onnx,
                "--name",
                "iris",
                "--inputs",
                "a,b,c,d",
                "--outputs",
                outputs,
                "--out",
                out.to_str().unwrap(),
            ])
            .unwrap())
        };
        let refused = import("classes:1,0,2").unwrap_err();
        assert!(
            matches!(&refused, Error::Config(it) if it.contains("the classes 0, 1, 2, in this order")
                && it.contains("(--outputs)")),
            "{refused}"
        );
        assert!(!out.exists());
        import("classes:0,1,2").unwrap();
        let renamed = Renamed {
            column: 1,
            file: "normal".to_owned(),
            named: "abnormal".to_owned(),
        };
        assert_eq!(
            taken_for(&renamed),
            "column 1 (counting from 0): the file's class \"normal\" is taken for \"abnormal\""
        );
    }

    #[test]
    fn a_model_whose_positive_class_is_the_pipelines_negative_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = folder.path().join("ward.toml");
        let text = r#"
            name = "ward"
            record = { key = "bed", fields = [{ name = "a", type = "number" }, { name = "b", type = "number" }] }
            features = [{ name = "a", kind = "pass", field = "a" }, { name = "b", kind = "pass", field = "b" }]
            model = { inputs = ["a", "b"] }
            decision = { threshold = 0.5, positive = "alarm", negative = "fine" }
            label = { field = "state", positive = "abnormal", negative = "normal" }
        "#;
        std::fs::write(&pipeline, text).unwrap();
        let onnx = format!("{GOLDEN}/logistic-tiny.onnx");
        let import = |outputs: &str| {
            let out = folder.path().join(outputs.replace([':', ','], "-"));
            let (pipeline, out) = (pipeline.to_str().unwrap(), out.to_str().unwrap());
            let line = [
                &onnx,
                "--pipeline",
                pipeline,
                "--outputs",
                outputs,
                "--out",
                out,
            ];
            run(&args(&line).unwrap()).map(|()| Package::load(Path::new(out)).unwrap())
        };
        for outputs in [
            "binary:abnormal,normal",
            "binary:alarm,fine",
            "binary:other,normal",
            "binary:abnormal,other",
        ] {
            let refused = import(outputs).unwrap_err().to_string();
            assert!(
                refused.contains("the other way round than the pipeline's"),
                "{refused}"
            );
        }
        let refused = import("values:y").unwrap_err().to_string();
        assert!(refused.contains("the model gives values"), "{refused}");
        // Words of its own say nothing about a model.
        for outputs in [
            "binary:normal,abnormal",
            "binary:fine,alarm",
            "binary:0,1",
            "binary:normal,other",
        ] {
            let package = import(outputs).unwrap();
            fits(&package, &[pipelines::one(&pipeline).unwrap()]).unwrap();
        }
        // Made without the pipeline, and pushed with it.
        let out = folder.path().join("apart");
        let line = [
            &*onnx,
            "--name",
            "m",
            "--inputs",
            "a,b",
            "--outputs",
            "binary:alarm,fine",
            "--out",
            out.to_str().unwrap(),
        ];
        run(&args(&line).unwrap()).unwrap();
        let pushed = PushArgs {
            dir: Some(out),
            uri: None,
            sha256: None,
            pipeline: Some(pipeline),
            by: None,
            kafka: Kafka {
                bootstrap_servers: "127.0.0.1:1".to_owned(),
                kafka_properties: String::new(),
            },
        };
        let refused = push(&pushed).unwrap_err().to_string();
        assert!(refused.contains("the other way round"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_model_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let refused = run(&args(&[
            DIABETES,
            "--pipeline",
            DIABETES,
            "--out",
            out.to_str().unwrap(),
        ])
        .unwrap());
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, Error::Config(it) if it.contains("diabetes.toml")),
            "{refused}"
        );
        assert!(!out.exists());
    }
}
