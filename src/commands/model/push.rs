//! `quadrille model push`: a package checked and put on the log.

use std::path::PathBuf;

use quadrille_model::{
    Package,
    package::{ARTEFACT_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest},
};
use quadrille_pipeline::Pipeline;
use quadrille_registry::{S3Settings, Sha256Hex, Store, Uri, store};
use quadrille_service::Error;
use serde_json::json;

use super::package::{Checked, check, fits, publish};
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputArg},
    registry,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The package's folder, as `quadrille train` writes it.
    #[arg(value_name = "DIR", required_unless_present = "uri")]
    pub dir: Option<PathBuf>,

    /// Leave the package where it is: a folder, s3://bucket/prefix/ or file:///path/ (which every replica must have).
    #[arg(long, value_name = "URI", conflicts_with = "dir")]
    pub uri: Option<String>,

    /// Refuse the package unless it has this SHA-256 (of the manifest followed by the artefact).
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,

    /// Refuse the package unless it fits this pipeline (a pipeline file): its inputs, and what it answers.
    #[arg(long, value_name = "PATH")]
    pub pipeline: Option<PathBuf>,

    /// Who pushes [default: user@host].
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,

    #[command(flatten)]
    pub output: OutputArg,

    #[command(flatten)]
    pub kafka: Kafka,
}

pub fn run(args: &Args) -> Result<(), Error> {
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
    let published = publish(&registry, &checked, &registry::author(args.by.as_deref()))?;
    let _ = match args.output.get() {
        Output::Text => output::print(published)?,
        Output::Json => output::print(json!({
            "name": published.entry.id.name,
            "version": published.entry.id.version,
            "sha256": published.entry.sha256.to_string(),
            "bytes": published.entry.bytes,
            "artefact_uri": published.entry.artefact_uri(),
            "new": published.is_new,
        }))?,
    };
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
    let unread = |error: store::Error| match error {
        store::Error::Away { .. } => Error::Failed(error.to_string()),
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
