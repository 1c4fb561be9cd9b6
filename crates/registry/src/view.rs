//! A snapshot of the log.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Deployment, ModelId, Sha256Hex, key::PushKey};

/// Models and deployments, as far as the log was read. Immutable: replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub models: BTreeMap<ModelId, ModelEntry>,
    /// By pipeline.
    pub deployments: BTreeMap<String, History>,
    /// Void records, with the reasons; the first ones, if there are many.
    pub void: Vec<Void>,
}

impl View {
    /// The deployment that serves a pipeline.
    pub fn current(&self, pipeline: &str) -> Option<&Deployment> {
        self.deployments.get(pipeline)?.current()
    }

    /// The versions of a model, in no particular order.
    pub fn versions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ModelEntry> {
        self.models
            .values()
            .filter(move |entry| entry.id.name == name)
    }

    /// The pipelines that currently route to a version.
    pub fn users<'a>(&'a self, id: &'a ModelId) -> impl Iterator<Item = &'a str> {
        let uses = move |deployment: &&Deployment| {
            deployment.routes.iter().any(|route| route.model == *id)
        };
        self.deployments
            .values()
            .filter_map(History::current)
            .filter(uses)
            .map(|deployment| deployment.pipeline.as_str())
    }
}

/// A version of a model, and where its package is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    pub id: ModelId,
    /// Of the package: over its manifest's bytes followed by its artefact's.
    pub sha256: Sha256Hex,
    /// Bytes of manifest and artefact together.
    pub bytes: u64,
    pub pushed_by: String,
    /// Milliseconds since the Unix epoch.
    pub pushed_at_ms: i64,
    pub(crate) push: String,
    pub(crate) manifest_offset: i64,
    pub(crate) artefact_bytes: u64,
    pub(crate) artefact_uri: Option<String>,
    /// Offsets of the artefact's chunks, in order; empty if it is stored elsewhere.
    pub(crate) chunk_offsets: Arc<[i64]>,
}

impl ModelEntry {
    /// The artefact's URI, if it is not in chunks on the log: untrusted text.
    pub fn artefact_uri(&self) -> Option<&str> {
        self.artefact_uri.as_deref()
    }

    /// The artefact's chunks on the log.
    pub fn chunks(&self) -> usize {
        self.chunk_offsets.len()
    }

    /// The offset of the manifest on the models' topic: the order of pushes.
    pub fn offset(&self) -> i64 {
        self.manifest_offset
    }

    /// The keys of all its records, the manifest's first: without it the others are void.
    pub(crate) fn keys(&self) -> Vec<String> {
        let key = PushKey {
            id: self.id.clone(),
            sha256: self.sha256,
            push: self.push.clone(),
        };
        let chunks = (0..).zip(self.chunk_offsets.iter());
        let chunks = chunks.map(|(index, _)| key.chunk(index));
        [key.manifest()].into_iter().chain(chunks).collect()
    }
}

/// All events of one pipeline in the order of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Void ones included.
    pub events: Vec<Event>,
}

impl History {
    /// The last valid event.
    pub fn current(&self) -> Option<&Deployment> {
        let valid = self.events.iter().rfind(|event| event.void.is_none());
        valid.map(|event| &event.deployment)
    }

    /// The valid event of a revision.
    pub fn revision(&self, revision: u64) -> Option<&Deployment> {
        let is = |event: &&Event| event.void.is_none() && event.deployment.revision == revision;
        self.events.iter().find(is).map(|event| &event.deployment)
    }

    /// The valid events, in the order of the log.
    pub fn valid(&self) -> impl DoubleEndedIterator<Item = &Deployment> {
        let valid = self.events.iter().filter(|event| event.void.is_none());
        valid.map(|event| &event.deployment)
    }
}

/// A deployment's event on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub offset: i64,
    pub(crate) key: String,
    pub deployment: Deployment,
    /// Why it is void, if it is.
    pub void: Option<String>,
}

/// A void record or package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    pub topic: &'static str,
    pub offset: i64,
    /// The offset of the record; of a package, of its manifest.
    pub key: String,
    pub reason: String,
    /// All keys to delete to remove it.
    pub(crate) keys: Vec<String>,
}
