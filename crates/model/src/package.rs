//! Model packages: a manifest and an artefact, in a directory or as two runs of bytes.
//!
//! `manifest.json` says what the model is (name, inputs, outputs, preprocessing, training, metrics); the artefact beside it
//! holds its numbers. A package is checked as a whole before it scores: sizes are bounded, the artefact must have the length
//! and SHA-256 that the manifest says, all parts must fit the inputs and outputs, and the recorded rows must get the
//! recorded answers ([`WarmUp`]).

mod disk;
mod inputs;
mod manifest;
mod warm_up;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::Overwrite;
pub use inputs::{Difference, OutOfOrder};
pub use manifest::{Artefact, Backend, Digest, FORMAT, Manifest, Onnx, Training};
use sha2::{Digest as _, Sha256};
pub use warm_up::{Mismatch, TOLERANCE, WarmUp, WarmUpRow};

use crate::forest::{self, Forest};
use crate::logistic::{self, Logistic};
pub use crate::outputs::Labels;
pub use crate::scorer::Activation;
use crate::scorer::{self, Estimator, Scorer};
use crate::train::Trained;
use crate::{Model, NotANumber, Outputs, onnx};

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The largest manifest: room for [`crate::INPUTS_MAX`] inputs with long names.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The largest artefact: some 16 million nodes, far more than any forest that is worth waiting for.
pub const ARTEFACT_BYTES_MAX: u64 = 256 << 20;

/// What wrote the packages of this library.
pub(crate) const WRITTEN_BY: &str = concat!("quadrille-model ", env!("CARGO_PKG_VERSION"));

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} exists already; choose another place or version, or ask for it to be replaced", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a model package, so it is not replaced", .0.display())]
    NotAPackage(PathBuf),
    #[error("{} is not a usable place for a package: it has no name or no parent folder", .0.display())]
    Place(PathBuf),
    #[error("the {what} is larger than {max} bytes")]
    TooLarge { what: &'static str, max: u64 },
    #[error("{MANIFEST_FILE} is not a manifest: {0}")]
    Manifest(serde_json::Error),
    #[error("the package has format {0}; this version reads 1 to {FORMAT}")]
    Format(u32),
    #[error("the manifest has settings for ONNX, but its backend is {0}")]
    OnnxSettings(&'static str),
    #[error("the manifest's {field} is {value:?}; it must be {must}")]
    Text {
        field: &'static str,
        value: String,
        must: &'static str,
    },
    #[error(
        "the artefact {file} has {found} bytes where the manifest says {expected}: it is cut off or not the one that was packed"
    )]
    ArtefactLength {
        file: String,
        expected: u64,
        found: u64,
    },
    #[error(
        "the artefact {file} has SHA-256 {found} where the manifest says {expected}: it was changed after it was packed"
    )]
    ArtefactHash {
        file: String,
        expected: Digest,
        found: Digest,
    },
    #[error(transparent)]
    Forest(#[from] forest::Error),
    #[error(transparent)]
    Logistic(#[from] logistic::Error),
    #[error(transparent)]
    Onnx(#[from] onnx::Error),
    #[error("the warm-up rows cannot be used: {0}")]
    WarmUpRows(String),
    #[error("the model does not give the recorded answers: {0}")]
    WarmUp(#[from] Mismatch),
    #[error(
        "{answer} to recorded row {row} (counting from 1), which is no probability; a network that ends in logits needs the activation \
         sigmoid or softmax, and numbers that are meant as they are are values, not classes"
    )]
    NoProbability { row: usize, answer: NotANumber },
    #[error(
        "the columns of the file's answers are the classes {}, in this order, and the outputs call them {}: answers would be given to the \
         wrong class; name the outputs in the file's order, or export the model with its classes in yours",
        file.join(", "), named.join(", ")
    )]
    ClassOrder {
        file: Vec<String>,
        named: Vec<String>,
    },
    #[error(
        "the columns of the file's answers are the classes {}, in this order, and the second of two is the positive one; the outputs have \
         {outputs}: train the model with 0 for {:?} and 1 for {:?}, and export it again (other names for the outputs would not \
         change which probability it gives)",
        file.join(", "), outputs.negative, outputs.positive
    )]
    PositiveClass { file: Vec<String>, outputs: Labels },
    #[error("the parts of the package do not fit: {0}")]
    Parts(#[from] scorer::Error),
    #[error("the model {model} wants other inputs: {difference}")]
    Inputs {
        model: String,
        difference: Box<Difference>,
    },
    #[error("the model {model} has other outputs: {difference}")]
    Outputs {
        model: String,
        difference: Box<Difference>,
    },
    #[error("the model {model} has its classes ({has}) the other way round: wanted is {wanted}")]
    Inverted {
        model: String,
        has: Labels,
        wanted: Labels,
    },
    #[error("the model {model} gives {found}; wanted: {wanted}")]
    Task {
        model: String,
        found: &'static str,
        wanted: &'static str,
    },
}

/// What a package says of itself that training does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub version: String,
    pub labels: Labels,
    /// SHA-256 of the training data, usually of the file's bytes.
    pub data_sha256: Digest,
    /// RFC 3339.
    pub created_at: String,
}

/// A package that has been checked and is ready to score.
pub struct Package {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    artefact_bytes: Vec<u8>,
    model: Arc<dyn Model>,
}

/// What it is, not its numbers: a package is printed into logs and failing tests.
impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("name", &self.manifest.name)
            .field("version", &self.manifest.version)
            .field("backend", &self.manifest.backend.name())
            .field("hash", &Digest(self.hash()))
            .finish_non_exhaustive()
    }
}

impl Trained {
    /// Packs the model. What comes out went through the same checks as a package that is loaded.
    ///
    /// # Errors
    /// A text of `identity` that a manifest cannot hold.
    pub fn into_package(self, identity: Identity) -> Result<Package, Error> {
        let (file, artefact) = self.fitted.encode();
        let hyper_parameters = self.hyper_parameters();
        let outputs = Outputs::Binary(identity.labels);
        let artefact_of = Artefact::of(file, &artefact);
        let training = Training {
            algorithm: self.options.algorithm,
            rows: self.rows as u64,
            data_sha256: identity.data_sha256,
            seed: self.options.seed,
            hyper_parameters,
            evaluation: self.evaluation,
        };
        let model = Scorer::new(
            self.inputs.clone(),
            outputs.clone(),
            Some(self.preprocess.clone()),
            self.fitted.into(),
        )?;
        let manifest = Manifest {
            format: FORMAT,
            name: identity.name,
            version: identity.version,
            backend: self.options.algorithm.backend(),
            warm_up: Some(WarmUp::record(&model, &self.recorded)),
            inputs: self.inputs,
            outputs,
            preprocess: Some(self.preprocess),
            onnx: None,
            training: Some(training),
            artefact: artefact_of,
            created_at: identity.created_at,
            written_by: format!("{WRITTEN_BY}, smartcore 0.7"),
        };
        Package::pack(&manifest, artefact)
    }
}

impl Package {
    /// Loads the package in the directory `dir`.
    ///
    /// # Errors
    /// A file cannot be read, is too large, cut off, changed or not sound; see [`Error`].
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let manifest = disk::read(&dir.join(MANIFEST_FILE), "manifest", MANIFEST_BYTES_MAX)?;
        let file = Manifest::parse(&manifest)?.artefact.file;
        let artefact = disk::read(&dir.join(file), "artefact", ARTEFACT_BYTES_MAX)?;
        Self::from_bytes(manifest, artefact)
    }

    /// Makes a package of its two files' bytes.
    ///
    /// # Errors
    /// As [`Package::load`], but for reading.
    pub fn from_bytes(manifest_bytes: Vec<u8>, artefact_bytes: Vec<u8>) -> Result<Self, Error> {
        disk::check_size("manifest", manifest_bytes.len() as u64, MANIFEST_BYTES_MAX)?;
        disk::check_size("artefact", artefact_bytes.len() as u64, ARTEFACT_BYTES_MAX)?;
        let manifest = Manifest::parse(&manifest_bytes)?;
        verify(&manifest.artefact, &artefact_bytes)?;
        let estimator = estimator(&manifest, &artefact_bytes)?;
        let model = Scorer::new(
            manifest.inputs.clone(),
            manifest.outputs.clone(),
            manifest.preprocess.clone(),
            estimator,
        )?;
        let mut background = Vec::new();
        if let Some(warm_up) = &manifest.warm_up {
            warm_up.check_shape(&model)?;
            background = warm_up.inputs();
        }
        let package = Self {
            manifest,
            manifest_bytes,
            artefact_bytes,
            model: Arc::new(model.with_background(background)),
        };
        package.warm_up()?;
        Ok(package)
    }

    /// Writes the manifest and makes the package.
    pub(crate) fn pack(manifest: &Manifest, artefact: Vec<u8>) -> Result<Self, Error> {
        let mut bytes = serde_json::to_vec_pretty(manifest).map_err(Error::Manifest)?;
        bytes.push(b'\n');
        Self::from_bytes(bytes, artefact)
    }

    /// Scores the recorded rows and compares with the recorded answers. Loading has done it already; a service may do it
    /// again where the model is to run.
    ///
    /// # Errors
    /// [`Error::WarmUp`] with the first row and output that is off, [`Error::NoProbability`] with the first that is none.
    pub fn warm_up(&self) -> Result<(), Error> {
        match &self.manifest.warm_up {
            None => Ok(()),
            Some(warm_up) => warm_up.check(&*self.model),
        }
    }

    /// Saves the package as the directory `dir`, all or nothing: it is written beside and then renamed.
    ///
    /// # Errors
    /// `dir` exists (and is not to be replaced, or is no package), or writing fails; then `dir` is as it was.
    pub fn save(&self, dir: &Path, overwrite: Overwrite) -> Result<(), Error> {
        let files = [
            (self.manifest.artefact.file.as_str(), &*self.artefact_bytes),
            (MANIFEST_FILE, &*self.manifest_bytes),
        ];
        disk::save(dir, &files, overwrite)
    }

    /// The parsed manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's bytes, exactly as in the file: they are hashed.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The artefact's bytes, as they are in the file.
    pub fn artefact_bytes(&self) -> &[u8] {
        &self.artefact_bytes
    }

    /// The artefact's bytes, without a copy.
    pub(crate) fn into_artefact(self) -> Vec<u8> {
        self.artefact_bytes
    }

    /// The model, shared: it outlives the package.
    pub fn model(&self) -> Arc<dyn Model> {
        Arc::clone(&self.model)
    }

    /// SHA-256 over the manifest's bytes followed by the artefact's: what a prediction names as its model.
    pub fn hash(&self) -> [u8; 32] {
        let hash = Sha256::new().chain_update(&self.manifest_bytes);
        hash.chain_update(&self.artefact_bytes).finalize().into()
    }

    /// Checks that `offered` are the model's inputs, in its order.
    ///
    /// # Errors
    /// [`Error::Inputs`] with the difference.
    pub fn check_inputs(&self, offered: &[String]) -> Result<(), Error> {
        match Difference::between(&self.manifest.inputs, offered) {
            None => Ok(()),
            Some(difference) => Err(Error::Inputs {
                model: self.to_string(),
                difference: Box::new(difference),
            }),
        }
    }

    /// Checks that the model answers what `wanted` says: a probability of one class, the probabilities of these classes, or
    /// these values, in this order. The two classes of a binary model may have names of their own, but not each other's.
    ///
    /// # Errors
    /// [`Error::Task`], [`Error::Inverted`] or [`Error::Outputs`] with the difference.
    pub fn check_outputs(&self, wanted: &Outputs) -> Result<(), Error> {
        let found = &self.manifest.outputs;
        let (has, offered) = match (found, wanted) {
            (Outputs::Binary(has), Outputs::Binary(wanted)) if has.is_inverted(wanted) => {
                return Err(Error::Inverted {
                    model: self.to_string(),
                    has: has.clone(),
                    wanted: wanted.clone(),
                });
            }
            (Outputs::Binary(_), Outputs::Binary(_)) => return Ok(()),
            (Outputs::Classes(has), Outputs::Classes(offered))
            | (Outputs::Values(has), Outputs::Values(offered)) => (has, offered),
            _ => {
                return Err(Error::Task {
                    model: self.to_string(),
                    found: task(found),
                    wanted: task(wanted),
                });
            }
        };
        match Difference::between(has, offered) {
            None => Ok(()),
            Some(difference) => Err(Error::Outputs {
                model: self.to_string(),
                difference: Box::new(difference),
            }),
        }
    }
}

/// Name and version.
impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.manifest.name, self.manifest.version)
    }
}

fn task(outputs: &Outputs) -> &'static str {
    match outputs {
        Outputs::Binary(_) => "the probability of one of two classes",
        Outputs::Classes(_) => "the probabilities of several classes",
        Outputs::Values(_) => "values",
    }
}

fn estimator(manifest: &Manifest, artefact: &[u8]) -> Result<Estimator, Error> {
    Ok(match manifest.backend {
        Backend::Forest => Estimator::Forest(Forest::decode(artefact)?),
        Backend::Logistic => Estimator::Logistic(Logistic::decode(artefact)?),
        Backend::Onnx => {
            let settings = manifest.onnx.clone().unwrap_or_default();
            scorer::check_inputs(&manifest.inputs)?;
            let output = settings.output.as_deref();
            let width = manifest.inputs.len();
            let mut examples = manifest.warm_up.as_ref().map_or(Vec::new(), WarmUp::inputs);
            // Rows of another width are refused when all parts are at hand.
            examples.truncate(examples.len() / width * width);
            if let Some(preprocess) = manifest
                .preprocess
                .as_ref()
                .filter(|it| it.columns.len() == width)
            {
                let rows = examples.clone();
                preprocess.apply(&rows, &mut examples);
            }
            let program = onnx::Program::read(artefact, &manifest.inputs, output, &examples)?;
            Estimator::Onnx(program, settings.activation)
        }
    })
}

fn verify(said: &Artefact, bytes: &[u8]) -> Result<(), Error> {
    let file = said.file.clone();
    let (expected, found) = (said.bytes, bytes.len() as u64);
    if expected != found {
        return Err(Error::ArtefactLength {
            file,
            expected,
            found,
        });
    }
    let (expected, found) = (said.sha256, Digest::of(bytes));
    if expected != found {
        return Err(Error::ArtefactHash {
            file,
            expected,
            found,
        });
    }
    Ok(())
}
