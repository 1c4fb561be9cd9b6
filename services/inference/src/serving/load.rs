//! From a package's files to a package that has scored: verify, load, warm up.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quadrille_model::{Package, package};
use quadrille_registry::ModelId;

use super::source::Files;

/// A step on a version's way into service, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Fetch,
    Verify,
    Load,
    Check,
    WarmUp,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Fetch => "fetch",
            Step::Verify => "verify",
            Step::Load => "load",
            Step::Check => "check",
            Step::WarmUp => "warm_up",
        }
    }
}

/// Where a version's way ended, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", step.name())]
pub struct Error {
    pub step: Step,
    pub why: String,
}

impl Error {
    pub(super) fn at(step: Step, why: impl ToString) -> Self {
        Error {
            step,
            why: why.to_string(),
        }
    }
}

/// From a package's files to a model that has scored: verify, load, warm up. Nothing in a package may hurt the
/// replica: what panics has failed.
pub(super) fn load(id: &ModelId, hash: &[u8; 32], files: Files) -> Result<Package, Error> {
    let package = guarded(Step::Load, || {
        Package::from_bytes(files.manifest, files.artefact).map_err(|error| {
            let step = match error {
                package::Error::ArtefactLength { .. } | package::Error::ArtefactHash { .. } => {
                    Step::Verify
                }
                _ => Step::Load,
            };
            Error::at(step, error)
        })
    })?;
    let manifest = package.manifest();
    if (manifest.name.as_str(), manifest.version.as_str()) != (&id.name, &id.version) {
        let why = format!(
            "the package says that it is {} {}",
            manifest.name, manifest.version
        );
        return Err(Error::at(Step::Verify, why));
    }
    if package.hash() != *hash {
        let why = "the package's SHA-256 is not the one that was pushed";
        return Err(Error::at(Step::Verify, why));
    }
    guarded(Step::WarmUp, || warm_up(&package))?;
    Ok(package)
}

/// Scores the rows that the package recorded, whose answers must be the same; and once more, so that the first
/// record meets a model whose pages and caches are there.
fn warm_up(package: &Package) -> Result<(), Error> {
    package
        .warm_up()
        .map_err(|error| Error::at(Step::WarmUp, error))?;
    let model = package.model();
    let row = vec![0.0; model.inputs().len()];
    let mut outputs = Vec::new();
    model.score(&row, &mut outputs);
    let width = model.outputs().width();
    if outputs.len() == width {
        return Ok(());
    }
    let why = format!(
        "a row has {width} outputs, the model gave {}",
        outputs.len()
    );
    Err(Error::at(Step::WarmUp, why))
}

fn guarded<T>(step: Step, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Error::at(
            step,
            format!("it panicked: {}", text.unwrap_or("no message")),
        ))
    })
}
