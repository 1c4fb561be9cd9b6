//! `quadrille model import`: an ONNX file from anywhere becomes a package.

mod options;
mod warm_up;

use std::path::{Path, PathBuf};

use quadrille_model::{
    Outputs, Package,
    import::{Renamed, import, renamed},
    onnx,
    package::{self, Overwrite},
};
use quadrille_service::Error;
use serde_json::{Value, json};

use self::{
    options::{Last, outputs},
    warm_up::warm_up,
};
use super::package::fits;
use crate::{
    files,
    output::{self, Output, OutputArg},
    pipelines,
};

/// So many classes that the file calls otherwise are shown; there may be thousands.
const RENAMED_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  quadrille model import forest.onnx --pipeline pipelines/diabetes.toml --model-version 4 \\
      --warm-up rows.csv --out models/diabetes/4
  quadrille model import iris.onnx --name iris --model-version 1 \\
      --inputs sepal_length,sepal_width,petal_length,petal_width \\
      --outputs classes:setosa,versicolor,virginica --out models/iris/1
  quadrille model import net.onnx --name price --model-version 1 \\
      --inputs area,rooms --outputs values:price --output-tensor y --out models/price/1

What is supported: tree ensembles of scikit-learn, XGBoost and LightGBM; linear models and networks of scikit-learn, PyTorch and \
Keras; imputers and scalers before them. The names of the columns come from --inputs or --pipeline: in their order where the graph \
has one input tensor of all columns, by name in any order where it has a tensor [N, 1] for each column (float, double, int64, int32 \
or bool), as skl2onnx exports a ColumnTransformer of a data frame; `Amount (EUR)` is found as `Amount__EUR_`. Texts are no inputs: \
encode categories in the pipeline (a feature of kind one_hot has an input for each) and train the model on those columns.

--warm-up is a CSV file whose header has all inputs' names and, if it is to prove that the answers are those of the library the \
model comes from, all outputs' names: a probability of the positive class, of each class, or the values. An empty cell is a missing \
input. Up to 32 rows become part of the package: they are scored and compared wherever it is loaded, and are what trees measure \
contributions against (`quadrille explain`).";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file.
    #[arg(value_name = "FILE.onnx")]
    file: PathBuf,

    /// The model's name [default: the pipeline's].
    #[arg(long)]
    name: Option<String>,

    /// The model's version [default: the time, as in 20261122T160000Z].
    #[arg(long, value_name = "VERSION", visible_alias = "version")]
    model_version: Option<String>,

    /// What the columns of the graph's input are called, in order; of a graph with a tensor for each column, the order does not matter.
    #[arg(
        long,
        value_name = "A,B,C",
        value_delimiter = ',',
        conflicts_with = "pipeline"
    )]
    inputs: Vec<String>,

    /// Take the model's inputs and, without --outputs, what it answers from this pipeline file; refuse a model that does not
    /// fit it [default: QUADRILLE_PIPELINE, unless --inputs is given].
    #[arg(long, value_name = "PATH")]
    pipeline: Option<PathBuf>,

    /// What the answers are: binary:NEGATIVE,POSITIVE, classes:A,B,C or values:X,Y.
    #[arg(long, value_name = "TASK:NAMES", value_parser = outputs)]
    outputs: Option<Outputs>,

    /// The graph's output that holds the answers [default: the first one of floating-point numbers].
    #[arg(long, value_name = "NAME")]
    output_tensor: Option<String>,

    /// What is still to be done to the graph's answers: a network trained on logits often ends before its softmax.
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

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// What is given cannot be a package, or it cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let overwrite = match args.replace {
        true => Overwrite::Replace,
        false => Overwrite::Refuse,
    };
    let mut options = args.options()?;
    let onnx = read(&args.file)?;
    if let Some(path) = &args.warm_up {
        let rows = warm_up(path, &options)?;
        rows.report(path, &options);
        rows.put(&mut options, args.tolerance);
    }
    let package = import(onnx, options).map_err(|error| refused(&args.file, &error))?;
    if let Some(path) = args.pipeline() {
        fits(&package, &[pipelines::one(&path)?])?;
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
    let _ = match args.output.get() {
        Output::Text => output::print(summary(&package, &args.out))?,
        Output::Json => output::print(summary_json(&package, &args.out))?,
    };
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

fn summary(package: &Package, out: &Path) -> String {
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
        output::counted(manifest.inputs.len(), "input"),
        output::counted(rows, "recorded row"),
    )
}

fn summary_json(package: &Package, out: &Path) -> Value {
    let manifest = package.manifest();
    json!({
        "name": manifest.name,
        "version": manifest.version,
        "out": out.display().to_string(),
        "inputs": manifest.inputs,
        "outputs": manifest.outputs.names(),
        "recorded_rows": manifest.warm_up.as_ref().map_or(0, |it| it.rows.len()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    files::bounded(path, onnx::BYTES_MAX as u64)
        .map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
