//! `quadrille model`: packages put on the log, looked at, taken away.

mod import;
mod list;
mod watch;

use std::path::PathBuf;

use inference::serving::check as check_fit;
use quadrille_model::{
    Package,
    package::{ARTEFACT_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest},
};
use quadrille_pipeline::Pipeline;
use quadrille_registry::{
    ModelId, PackageBytes, Pushed, Registry, S3Settings, Sha256Hex, Store, StoreError, Uri,
};
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
  quadrille model push --uri s3://models/diabetes/3/
  quadrille model push --uri file:///mnt/models/diabetes/3/
  quadrille model list
  quadrille model show diabetes 3
  quadrille model delete diabetes 2
  quadrille model watch models

A version does not change: the same content may be pushed again, other content is another version. Every inference
replica learns of a version from quadrille.models; which one serves is `quadrille deploy`'s to say.

By --uri the artefact stays where it is, and every replica fetches it from there when it needs it. The store of s3: is
that of AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, or AWS in AWS_REGION [default: us-east-1]; the keys are AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, none for a public bucket. Replicas have the same variables.";

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
    #[arg(value_name = "DIR", required_unless_present = "uri")]
    dir: Option<PathBuf>,

    /// Leave the package where it is: a folder, s3://bucket/prefix/ or file:///path/ (which every replica must have).
    #[arg(long, value_name = "URI", conflicts_with = "dir")]
    uri: Option<String>,

    /// Refuse the package unless it has this SHA-256 (of the manifest followed by the artefact).
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,

    /// Refuse the package unless it fits this pipeline (a pipeline file): its inputs, and what it answers.
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
    /// Where the artefact stays; None: it goes on the log.
    artefact_uri: Option<Uri>,
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
        artefact_uri: None,
    })
}

fn push(args: &PushArgs) -> Result<(), Error> {
    let (place, package, artefact_uri) = match (&args.dir, &args.uri) {
        (Some(dir), _) => {
            let place = dir.display().to_string();
            let package = Package::load(dir).map_err(|error| no_package(&place, &error))?;
            (place, package, None)
        }
        (None, Some(uri)) => {
            let (package, artefact) = read(uri)?;
            (uri.clone(), package, Some(artefact))
        }
        (None, None) => {
            let message = "name a package's folder, or where it lies with --uri";
            return Err(Error::Config(message.to_owned()));
        }
    };
    if let Some(wanted) = &args.sha256 {
        has(&package, wanted)?;
    }
    if let Some(path) = &args.pipeline {
        let pipelines =
            Pipeline::load(path).map_err(|error| Error::Config(format!("--pipeline: {error}")))?;
        fits(&package, &pipelines)?;
    }
    let checked = Checked {
        artefact_uri,
        ..check(&package).map_err(|error| no_package(&place, &error))?
    };
    drop(package);
    let registry = registry::open(&args.kafka.cluster()?)?;
    let told = publish(&registry, &checked, &registry::author(args.by.as_deref()))?;
    let _ = output::print(told)?;
    Ok(())
}

fn no_package(place: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!(
        "{place}: {error}; `quadrille train` writes a model package"
    ))
}

/// The package in a folder outside the log, and where its artefact is.
///
/// # Errors
/// The URI cannot be, a file cannot be read, or the package is not sound.
fn read(uri: &str) -> Result<(Package, Uri), Error> {
    let folder = Uri::parse(uri).map_err(|error| Error::Config(format!("--uri: {error}")))?;
    let store = Store::new(S3Settings::from_env());
    let unread = |error: StoreError| match error {
        StoreError::Away { .. } => Error::Failed(error.to_string()),
        error => Error::Config(error.to_string()),
    };
    let unsound = |error| no_package(uri, &error);
    let manifest = store.read(&folder.join(MANIFEST_FILE), MANIFEST_BYTES_MAX);
    let manifest = manifest.map_err(unread)?;
    let file = Manifest::parse(&manifest).map_err(unsound)?.artefact.file;
    let artefact_uri = folder.join(&file);
    let artefact = store.read(&artefact_uri, ARTEFACT_BYTES_MAX);
    let package = Package::from_bytes(manifest, artefact.map_err(unread)?).map_err(unsound)?;
    Ok((package, artefact_uri))
}

/// # Errors
/// It is another package, or this is no hash.
fn has(package: &Package, wanted: &str) -> Result<(), Error> {
    let wanted = Sha256Hex::parse(&wanted.to_ascii_lowercase())
        .ok_or_else(|| Error::Config("--sha256: a SHA-256 is 64 hexadecimal digits".to_owned()))?;
    let found = Sha256Hex(package.hash());
    match found == wanted {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "--sha256: the package has SHA-256 {found}, wanted {wanted}; it is not the one you mean"
        ))),
    }
}

/// What a replica checks before it lets a version answer for a pipeline.
///
/// # Errors
/// The package does not fit one of the pipelines; the difference is named.
fn fits(package: &Package, pipelines: &[Pipeline]) -> Result<(), Error> {
    for pipeline in pipelines {
        check_fit(pipeline, &*package.model()).map_err(|why| {
            let name = pipeline.name();
            Error::Config(format!("{package} does not fit pipeline {name}: {why}"))
        })?;
    }
    Ok(())
}

/// Puts a checked package on the log; says what became of it.
fn publish(registry: &Registry, checked: &Checked, by: &str) -> Result<String, Error> {
    let Checked { id, bytes, .. } = checked;
    let now = registry::now_ms();
    let pushed = match &checked.artefact_uri {
        None => registry.push(id, bytes, by, now),
        Some(uri) => registry.push_by_uri(id, bytes, uri, by, now),
    };
    Ok(match pushed.map_err(registry::refused)? {
        Pushed::New(entry) => format!(
            "pushed {id}: {} bytes {}, SHA-256 {}",
            entry.bytes,
            registry::place(&entry),
            entry.sha256
        ),
        Pushed::AlreadyThere(entry) => format!(
            "{id} is already there with the same content {}, pushed by {} at {}",
            registry::place(&entry),
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
