//! Models from elsewhere: an ONNX file becomes a package.

use crate::Outputs;
use crate::onnx::Classes;
use crate::package::{
    Activation, Artefact, Backend, Error, FORMAT, Manifest, Onnx, Package, WRITTEN_BY, WarmUp,
};
use crate::preprocess::Preprocess;

/// The name of the ONNX file in a package.
const FILE: &str = "model.onnx";

/// What a package says of a model that an ONNX file does not.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportOptions {
    /// 1 to 256 letters, digits, '.', '_' or '-', and not begin with '.'.
    pub name: String,
    /// As `name`.
    pub version: String,
    /// The inputs of a row in the order of the graph's columns; a graph that reads images gets a row's values in row-major
    /// order. As many as the graph reads.
    pub inputs: Vec<String>,
    /// What the graph's answers are. Two classes are [`Outputs::Binary`] if the graph answers one probability or two (the
    /// second is the positive class's), [`Outputs::Classes`] if both probabilities are wanted.
    pub outputs: Outputs,
    /// The graph's output that holds the answers; none is the first one of floating-point numbers, a map's tensor included:
    /// right for the exporters of scikit-learn, XGBoost, LightGBM and PyTorch.
    pub output: Option<String>,
    /// What is still to be done to the graph's answers: networks trained on logits often end before their softmax.
    pub activation: Activation,
    /// Done to a row before the graph sees it; none where the graph has all it needs.
    pub preprocess: Option<Preprocess>,
    /// Rows with the answers of the library that the model comes from: proof at every load that the answers are the same.
    /// A tolerance of 1e-5 suits single precision. None: the package records what it answers now, which at least notices
    /// later changes; `recorded` then says to which rows.
    pub warm_up: Option<WarmUp>,
    /// Rows (row-major, NaN is missing) whose answers are recorded where `warm_up` is none.
    pub recorded: Vec<f64>,
    /// RFC 3339.
    pub created_at: String,
}

/// Makes a package of an ONNX file's bytes. It has gone through all that a package goes through at load: the graph was read
/// and understood, its widths fit, and the warm-up rows got their answers.
///
/// # Errors
/// The file is not ONNX, is cut off or too large ([`crate::onnx::BYTES_MAX`]), has operators that are not supported, does
/// not fit the inputs or outputs, or does not give the recorded answers; a text that a manifest cannot hold.
pub fn import(onnx: Vec<u8>, options: ImportOptions) -> Result<Package, Error> {
    let mut manifest = Manifest {
        format: FORMAT,
        name: options.name,
        version: options.version,
        backend: Backend::Onnx,
        inputs: options.inputs,
        outputs: options.outputs,
        preprocess: options.preprocess,
        onnx: Some(Onnx {
            output: options.output,
            activation: options.activation,
        }),
        training: None,
        warm_up: options.warm_up,
        artefact: Artefact::of(FILE, &onnx),
        created_at: options.created_at,
        written_by: WRITTEN_BY.to_owned(),
    };
    let package = Package::pack(&manifest, onnx)?;
    check_classes(&package)?;
    let width = package.manifest().inputs.len();
    if manifest.warm_up.is_some() || options.recorded.len() < width {
        return Ok(package);
    }
    let whole = options.recorded.len() / width * width;
    let mut recorded = WarmUp::record(&*package.model(), &options.recorded[..whole]);
    // Single precision: other machines round otherwise.
    recorded.tolerance = 1e-5;
    manifest.warm_up = Some(recorded);
    Package::pack(&manifest, package.into_artefact())
}

/// A class that the file and the package call otherwise: of a column, the file's name and the package's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Counting from 0.
    pub column: usize,
    pub file: String,
    pub named: String,
}

/// What each column of the answers is called in the package.
fn columns(outputs: &Outputs) -> Vec<&str> {
    match outputs {
        Outputs::Binary(labels) => vec![&labels.negative, &labels.positive],
        Outputs::Classes(names) => names.iter().map(String::as_str).collect(),
        Outputs::Values(_) => Vec::new(),
    }
}

/// The classes of a package's ONNX file, where it says what they are called, and as many are named.
fn classes(package: &Package) -> Result<Option<Classes>, Error> {
    let manifest = package.manifest();
    let output = manifest.onnx.as_ref().and_then(|it| it.output.as_deref());
    let classes = Classes::read(package.artefact_bytes(), output)?;
    let count = columns(&manifest.outputs).len();
    Ok(classes.filter(|classes| classes.names.len() == count))
}

fn check_classes(package: &Package) -> Result<(), Error> {
    let named = columns(&package.manifest().outputs);
    let contradicts = classes(package)?.filter(|classes| classes.contradict(&named));
    let Some(Classes { names: file, .. }) = contradicts else {
        return Ok(());
    };
    Err(match &package.manifest().outputs {
        // Who names them in the file's order has the other class for the positive one.
        Outputs::Binary(labels) => Error::PositiveClass {
            file,
            outputs: labels.clone(),
        },
        _ => Error::ClassOrder {
            file,
            named: named.into_iter().map(str::to_owned).collect(),
        },
    })
}

/// The classes that an imported package calls otherwise than its file does: whoever imports it should see which is taken for which. Numbers
/// that a file has for names are none.
///
/// # Errors
/// The package's file is not ONNX.
pub fn renamed(package: &Package) -> Result<Vec<Renamed>, Error> {
    let named = columns(&package.manifest().outputs);
    let classes = classes(package)?.filter(|classes| !classes.are_numbers);
    let names = classes.map_or(Vec::new(), |classes| classes.names);
    let pairs = names.into_iter().zip(named).enumerate();
    let differ = pairs.filter(|(_, (file, named))| file != named);
    let renamed = |(column, (file, named)): (usize, (String, &str))| Renamed {
        column,
        file,
        named: named.to_owned(),
    };
    Ok(differ.map(renamed).collect())
}
