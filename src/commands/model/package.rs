//! A package on its way to the log: checked, and published.

use std::fmt;

use inference::serving::check as check_fit;
use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_registry::{ModelEntry, ModelId, PackageBytes, Pushed, Registry, Uri};
use quadrille_service::Error;

use crate::{preview, registry, time};

/// A package that loads and verifies, as it travels.
pub struct Checked {
    pub id: ModelId,
    pub bytes: PackageBytes,
    /// Where the artefact stays; None: it goes on the log.
    pub artefact_uri: Option<Uri>,
}

/// # Errors
/// The package is not sound, or cannot be named on the log.
pub fn check(package: &Package) -> Result<Checked, String> {
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

/// What a replica checks before it lets a version answer for a pipeline.
///
/// # Errors
/// The package does not fit one of the pipelines; the difference is named.
pub fn fits(package: &Package, pipelines: &[Pipeline]) -> Result<(), Error> {
    for pipeline in pipelines {
        check_fit(pipeline, &*package.model()).map_err(|why| {
            let name = pipeline.name();
            Error::Config(format!("{package} does not fit pipeline {name}: {why}"))
        })?;
    }
    Ok(())
}

/// A package that is on the log now.
pub struct Published {
    pub entry: ModelEntry,
    /// None of the same content was there before.
    pub is_new: bool,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.entry;
        let (id, place) = (&entry.id, registry::place(entry));
        match self.is_new {
            true => write!(
                f,
                "pushed {id}: {} bytes {place}, SHA-256 {}",
                entry.bytes, entry.sha256
            ),
            false => write!(
                f,
                "{id} is already there with the same content {place}, pushed by {} at {}",
                preview::cell(&entry.pushed_by),
                time::seconds(entry.pushed_at_ms)
            ),
        }
    }
}

/// Puts a checked package on the log.
///
/// # Errors
/// The log refuses it, or Kafka does not answer.
pub fn publish(registry: &Registry, checked: &Checked, by: &str) -> Result<Published, Error> {
    let Checked { id, bytes, .. } = checked;
    let now = time::now_ms();
    let pushed = match &checked.artefact_uri {
        None => registry.push(id, bytes, by, now),
        Some(uri) => registry.push_by_uri(id, bytes, uri, by, now),
    };
    Ok(match pushed.map_err(registry::refused)? {
        Pushed::New(entry) => Published {
            entry,
            is_new: true,
        },
        Pushed::AlreadyThere(entry) => Published {
            entry,
            is_new: false,
        },
    })
}
