//! `quadrille model`: packages put on the log, looked at, taken away.

mod import;
mod list;
mod watch;

use std::path::{Path, PathBuf};

use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_registry::{ModelId, PackageBytes, Pushed, Registry};
use quadrille_service::Error;

use crate::{
    kafka::{Kafka, blocking},
    output, registry,
};

const EXAMPLES: &str = "\
Examples:
  quadrille model import forest.onnx --pipeline pipelines/diabetes.toml --out models/diabetes
  quadrille model push models/diabetes
  quadrille model push models/diabetes --pipeline pipelines/diabetes.toml
  quadrille model list
  quadrille model show diabetes 3
  quadrille model delete diabetes 2
  quadrille model watch models

A version does not change: the same content may be pushed again, other content is another version. Every inference
replica learns of a version from quadrille.models; which one serves is `quadrille deploy`'s to say.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Make a package of an ONNX file.
    Import(import::Args),
    /// Check a package and put it on the log.
    Push(PushArgs),
    /// Show all versions, and what each replica has made of them.
    List(list::ListArgs),
    /// Show a model's versions, or all about one.
    Show(list::ShowArgs),
    /// Take a version off the log; refused while a pipeline routes to it.
    Delete(DeleteArgs),
    /// Push packages as they appear in <DIR>/<NAME>/<VERSION>/, as TensorFlow Serving has them.
    Watch(watch::Args),
}

#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// The package's folder, as `quadrille train` writes it.
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Refuse the package unless it has this pipeline's inputs (a pipeline file).
    #[arg(long, value_name = "PATH")]
    pipeline: Option<PathBuf>,

    /// Who pushes [default: user@host].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    #[arg(value_name = "NAME")]
    name: String,

    #[arg(value_name = "VERSION")]
    version: String,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// The package is not sound, the log refuses, or Kafka does not answer.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Import(args) => blocking(move || import::run(&args)).await,
        Command::Push(args) => blocking(move || push(&args)).await,
        Command::List(args) => blocking(move || list::list(&args)).await,
        Command::Show(args) => blocking(move || list::show(&args)).await,
        Command::Delete(args) => blocking(move || delete(&args)).await,
        Command::Watch(args) => watch::run(args).await,
    }
}

/// A package that loads and verifies, as it travels.
struct Checked {
    id: ModelId,
    bytes: PackageBytes,
}

/// # Errors
/// The package is not sound, or cannot be named on the log.
fn check(package: &Package) -> Result<Checked, String> {
    let manifest = package.manifest();
    let id = ModelId {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
    };
    id.validate().map_err(|invalid| invalid.to_string())?;
    Ok(Checked {
        id,
        bytes: PackageBytes {
            manifest: package.manifest_bytes().to_vec(),
            artefact: package.artefact_bytes().to_vec(),
        },
    })
}

fn push(args: &PushArgs) -> Result<(), Error> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::Config(format!(
            "{}: {error}; `quadrille train` writes a model package",
            args.dir.display()
        ))
    };
    let package = Package::load(&args.dir).map_err(|error| wrong(&error))?;
    if let Some(path) = &args.pipeline {
        fits(&package, path)?;
    }
    let checked = check(&package).map_err(|error| wrong(&error))?;
    drop(package);
    let registry = registry::open(&args.kafka.cluster()?)?;
    let told = publish(&registry, &checked, &registry::author(args.by.as_deref()))?;
    let _ = output::print(told)?;
    Ok(())
}

/// # Errors
/// The pipeline's inputs are others; the difference is named.
fn fits(package: &Package, path: &Path) -> Result<(), Error> {
    let pipelines =
        Pipeline::load(path).map_err(|error| Error::Config(format!("--pipeline: {error}")))?;
    for pipeline in &pipelines {
        package.check_inputs(pipeline.inputs()).map_err(|error| {
            let name = pipeline.name();
            Error::Config(format!("the package does not fit pipeline {name}: {error}"))
        })?;
    }
    Ok(())
}

/// Puts a checked package on the log; says what became of it.
fn publish(registry: &Registry, checked: &Checked, by: &str) -> Result<String, Error> {
    let Checked { id, bytes } = checked;
    let pushed = registry
        .push(id, bytes, by, registry::now_ms())
        .map_err(registry::refused)?;
    Ok(match pushed {
        Pushed::New(entry) => format!(
            "pushed {id}: {} bytes in {}, SHA-256 {}",
            entry.bytes,
            registry::counted(entry.chunks(), "chunk"),
            entry.sha256
        ),
        Pushed::AlreadyThere(entry) => format!(
            "{id} is already there with the same content, pushed by {} at {}",
            registry::cell(&entry.pushed_by),
            registry::time(entry.pushed_at_ms)
        ),
    })
}

fn delete(args: &DeleteArgs) -> Result<(), Error> {
    let id = ModelId {
        name: args.name.clone(),
        version: args.version.clone(),
    };
    let registry = registry::open(&args.kafka.cluster()?)?;
    let deleted = registry.delete(&id).map_err(registry::refused)?;
    if !deleted.routed_meanwhile.is_empty() {
        output::note(format_args!(
            "while {id} was deleted, it was deployed to {}; push it again, or deploy another version",
            deleted.routed_meanwhile.join(", ")
        ));
    }
    let records = registry::counted(deleted.records, "record");
    let _ = output::print(format_args!("deleted {id} ({records})"))?;
    Ok(())
}
