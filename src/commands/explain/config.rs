//! Whether pipeline file and package are those that predicted, and which of them is not.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use quadrille_choreography::{Cluster, PipelineFile, pipeline_files};
use quadrille_model::Package;
use quadrille_pipeline::Pipeline;
use quadrille_proto::{SchemaId, Topics, v1::StoredPrediction};
use quadrille_registry::ModelEntry;
use quadrille_service::Error;

use super::{model_id, not_on_the_log};
use crate::{output::hex, preview::cell, registry, time::rfc3339};

/// The variant of a service without a deployment, whose package is its own folder's.
const LOCAL: &str = "local";

/// The package that is scored with, and what is known of it.
pub struct Used {
    pub package: Package,
    /// None: of the log.
    folder: Option<PathBuf>,
    on_log: Option<OnLog>,
}

/// A version as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnLog {
    pub hash: [u8; 32],
    pub pushed_at_ms: i64,
}

impl OnLog {
    fn of(entry: &ModelEntry) -> Self {
        OnLog {
            hash: entry.sha256.0,
            pushed_at_ms: entry.pushed_at_ms,
        }
    }
}

/// The pipeline file by which a prediction was made.
#[derive(Debug)]
pub struct FileOfThen {
    pub pipeline: Pipeline,
    /// How the log has it; None: it is the file that was given.
    pub kept: Option<Kept>,
}

/// Who began to predict by a file, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub by: String,
    pub at_ms: i64,
}

impl FileOfThen {
    /// None where this release does not read the file, or it is not what its hash says.
    fn kept(file: PipelineFile) -> Option<Self> {
        let pipeline = Pipeline::parse(Topics::PIPELINES, &file.text).ok()?;
        let kept = Some(Kept {
            by: file.by,
            at_ms: file.at_ms,
        });
        (pipeline.hash() == file.sha256).then_some(FileOfThen { pipeline, kept })
    }
}

impl Used {
    /// # Errors
    /// There is no sound package, or it is of another model or version than predicted.
    pub fn of_folder(dir: &Path, stored: &StoredPrediction) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Config(format!("--model {}: {reason}", dir.display()));
        let package = Package::load(dir).map_err(|error| wrong(error.to_string()))?;
        let manifest = package.manifest();
        if (&manifest.name, &manifest.version) != (&stored.model, &stored.version) {
            return Err(wrong(format!(
                "it is {package}; {} {} predicted {}: give that one, or leave --model out",
                cell(&stored.model),
                cell(&stored.version),
                cell(&stored.id)
            )));
        }
        Ok(Used {
            package,
            folder: Some(dir.to_owned()),
            on_log: None,
        })
    }

    /// # Errors
    /// The version is not on the log, or what is there is not sound; or Kafka does not answer.
    pub fn of_log(cluster: &Cluster, stored: &StoredPrediction) -> Result<Self, Error> {
        let id = model_id(stored);
        let registry = registry::open(cluster)?;
        let bytes = registry.follower().fetch(&id).map_err(not_on_the_log)?;
        let package = Package::from_bytes(bytes.manifest, bytes.artefact)
            .map_err(|error| Error::Failed(format!("the log's package of {id}: {error}")))?;
        let view = registry.view();
        Ok(Used {
            package,
            folder: None,
            on_log: view.models.get(&id).map(OnLog::of),
        })
    }

    /// The pipeline file that predicted: the given one, or the one of then that the log keeps.
    ///
    /// # Errors
    /// Neither is, or the package is another one; says which, as far as that can be known.
    pub fn file_of_then(
        &self,
        cluster: &Cluster,
        pipeline: Pipeline,
        schema: SchemaId,
        stored: &StoredPrediction,
    ) -> Result<FileOfThen, Error> {
        let hash = self.package.hash();
        let found = pipeline.config_hash(&hash);
        if found[..] == stored.config_hash[..] {
            let kept = None;
            return Ok(FileOfThen { pipeline, kept });
        }
        let kept = pipeline_files(cluster, pipeline.name());
        let kept = kept.map(|files| {
            let all = files.len();
            let read: Vec<FileOfThen> = files.into_iter().filter_map(FileOfThen::kept).collect();
            (all - read.len(), read)
        });
        let fits = |file: &Pipeline, package: &[u8; 32]| {
            file.config_hash(package)[..] == stored.config_hash[..]
        };
        let (files, lacks) = match kept {
            Ok((unread, files)) => (files, Lacks::of(unread)),
            Err(error) => (Vec::new(), Lacks::Unreadable(error.to_string())),
        };
        let (of_then, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|it| fits(&it.pipeline, &hash));
        if let Some(file) = of_then.into_iter().next() {
            return Ok(file);
        }
        let look = || {
            let registry = registry::open(cluster).ok()?;
            let view = registry.view();
            view.models.get(&model_id(stored)).map(OnLog::of)
        };
        let on_log = self.on_log.or_else(look);
        let suspect = Evidence {
            hash,
            on_log,
            log_fits: on_log.is_some_and(|it| {
                let mut all = files.iter().map(|it| &it.pipeline);
                fits(&pipeline, &it.hash) || all.any(|file| fits(file, &it.hash))
            }),
            other_features: schema != pipeline.feature_schema_id(),
            stored,
        }
        .suspect();
        Err(Error::Config(format!(
            "{} (config hash recorded {}, found {})",
            self.words(suspect, &lacks, stored),
            hex(&stored.config_hash),
            hex(&found)
        )))
    }

    fn words(&self, suspect: Suspect, lacks: &Lacks, stored: &StoredPrediction) -> String {
        let id = cell(&stored.id);
        let then = rfc3339(stored.predicted_at.as_ref());
        let file = format!(
            "{lacks}; give it as it was at {then} by --pipeline, your version control has it"
        );
        let package = match &self.folder {
            Some(dir) => format!("the package in {}", dir.display()),
            None => "the log's package".to_owned(),
        };
        match suspect {
            Suspect::Pipeline => format!(
                "the pipeline file differs from the one that predicted {id}, the package is the same: {file}"
            ),
            Suspect::Package => format!(
                "{package} differs from the one that predicted {id}, the pipeline file is not at fault: leave --model out, the log \
                 has the right one"
            ),
            Suspect::PipelineAtLeast => format!(
                "the pipeline file differs from the one that predicted {id}, it computes other features; whether {package} is \
                 the same is not known: {file}"
            ),
            Suspect::Either => format!(
                "the pipeline file or the package differs from what predicted {id}: {file}, or the package by --model; it is \
                 not known that {package} is the one of then"
            ),
        }
    }
}

/// Why the log's files were of no help.
enum Lacks {
    It,
    /// So many files of the pipeline have a form that this release does not read.
    Newer(usize),
    Unreadable(String),
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lacks::It => f.write_str("the log does not keep the file of then"),
            Lacks::Newer(unread) => write!(
                f,
                "the log keeps {unread} of the pipeline's files in a form that this release cannot read, and no other is of then"
            ),
            Lacks::Unreadable(why) => {
                write!(
                    f,
                    "whether the log keeps the file of then is not known: {why}"
                )
            }
        }
    }
}

impl Lacks {
    fn of(unread: usize) -> Self {
        match unread {
            0 => Lacks::It,
            unread => Lacks::Newer(unread),
        }
    }
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    Pipeline,
    Package,
    /// And perhaps the package.
    PipelineAtLeast,
    Either,
}

/// What is known when file and package together are not what predicted.
pub struct Evidence<'a> {
    /// The package's that was used.
    pub hash: [u8; 32],
    /// The log's package of the same version, if there is one.
    pub on_log: Option<OnLog>,
    /// Whether this file and the log's package are what predicted.
    pub log_fits: bool,
    /// Whether the file computes other features than those that were scored.
    pub other_features: bool,
    pub stored: &'a StoredPrediction,
}

impl Evidence<'_> {
    pub fn suspect(&self) -> Suspect {
        if self.log_fits {
            return Suspect::Package;
        }
        match self.other_features {
            _ if self.is_the_package_of_then() => Suspect::Pipeline,
            true => Suspect::PipelineAtLeast,
            false => Suspect::Either,
        }
    }

    /// A version does not change while it is on the log: what was there before the prediction is what predicted.
    fn is_the_package_of_then(&self) -> bool {
        let predicted_at_ms = self.stored.predicted_at.map_or(i64::MIN, |at| {
            at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
        });
        let from_the_log = self.stored.variant != LOCAL;
        let same = |it: OnLog| it.hash == self.hash && it.pushed_at_ms <= predicted_at_ms;
        from_the_log && self.on_log.is_some_and(same)
    }
}
