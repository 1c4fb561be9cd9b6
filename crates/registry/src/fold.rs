//! The meaning of the log: records go in, in order; models and deployments come out. No clocks, no Kafka.
//!
//! Both folds are functions of the latest record of each key and its offset, so a reader that starts after a compaction sees
//! the same as one that has followed the log.

use std::collections::BTreeMap;

use quadrille_proto::Topics;

use crate::{
    Deployment, Event, History, ModelEntry, ModelId, Void,
    key::{self, Part, PushKey},
    wire::{self, Pushed},
};

/// The most invalid records that are listed: a topic full of garbage must not fill the memory.
const VOID_MAX: usize = 1_000;

/// Invalid records by key: their offset, and the reason.
#[derive(Debug, Clone, Default)]
struct Garbage(BTreeMap<String, (i64, String)>);

impl Garbage {
    fn put(&mut self, key: &[u8], offset: i64, reason: String) {
        let key = String::from_utf8_lossy(key).into_owned();
        tracing::warn!(key, offset, reason, "ignored a record that does not decode");
        if self.0.len() < VOID_MAX || self.0.contains_key(&key) {
            self.0.insert(key, (offset, reason));
        }
    }

    fn remove(&mut self, key: &[u8]) {
        self.0.remove(&*String::from_utf8_lossy(key));
    }

    fn list(&self, topic: &'static str) -> impl Iterator<Item = Void> {
        self.0.iter().map(move |(key, (offset, reason))| Void {
            topic,
            offset: *offset,
            key: key.clone(),
            reason: reason.clone(),
            keys: vec![key.clone()],
        })
    }
}

/// A chunk on the log.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    offset: i64,
    bytes: u64,
}

/// The records of one push so far.
#[derive(Debug, Clone, Default)]
struct Push {
    manifest: Option<(i64, Result<Pushed, String>)>,
    chunks: BTreeMap<u32, Chunk>,
}

impl Push {
    /// # Errors
    /// Why it is not a complete package.
    fn entry(&self, key: &PushKey) -> Result<ModelEntry, String> {
        let (manifest_offset, pushed) = match &self.manifest {
            None => return Err("its manifest is missing".to_owned()),
            Some((_, Err(reason))) => return Err(reason.clone()),
            Some((offset, Ok(pushed))) => (*offset, pushed),
        };
        let mut offsets = Vec::new();
        let mut bytes = 0;
        for index in 0..pushed.chunks {
            let chunk = self
                .chunks
                .get(&index)
                .ok_or_else(|| format!("chunk {} of {} is missing", index + 1, pushed.chunks))?;
            offsets.push(chunk.offset);
            bytes += chunk.bytes;
        }
        let said = match pushed.artefact_uri {
            None => pushed.artefact_bytes,
            Some(_) => 0,
        };
        if bytes != said || self.chunks.len() != offsets.len() {
            let chunks = self.chunks.len();
            return Err(format!(
                "{bytes} bytes in {chunks} chunks are there, the manifest says {said} in {}",
                pushed.chunks
            ));
        }
        Ok(ModelEntry {
            id: key.id.clone(),
            sha256: key.sha256,
            bytes: pushed.bytes,
            pushed_by: pushed.by.clone(),
            pushed_at_ms: pushed.at_ms,
            push: key.push.clone(),
            manifest_offset,
            artefact_bytes: pushed.artefact_bytes,
            artefact_uri: pushed.artefact_uri.clone(),
            chunk_offsets: offsets.into(),
        })
    }

    /// Its manifest's offset; without one, its first chunk's, since the manifest may still arrive.
    fn void(&self, key: &PushKey, reason: String) -> Void {
        let mut parts = Vec::new();
        if let Some((offset, _)) = &self.manifest {
            parts.push((*offset, key.manifest()));
        }
        let chunks = self.chunks.iter();
        parts.extend(chunks.map(|(index, chunk)| (chunk.offset, key.chunk(*index))));
        let (offset, first) = parts.first().cloned().unwrap_or_default();
        Void {
            topic: Topics::MODELS,
            offset,
            key: first,
            reason,
            keys: parts.into_iter().map(|(_, key)| key).collect(),
        }
    }
}

/// The models' topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Models {
    pushes: BTreeMap<PushKey, Push>,
    garbage: Garbage,
}

/// The state of the models' topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelsView {
    pub models: BTreeMap<ModelId, ModelEntry>,
    pub void: Vec<Void>,
}

impl Models {
    pub fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        let text = std::str::from_utf8(key).map_err(|_| "the key is not text");
        let (push_key, part) = match (text.and_then(PushKey::parse), value) {
            (Ok(parsed), _) => parsed,
            (Err(reason), Some(_)) => return self.garbage.put(key, offset, reason.to_owned()),
            (Err(_), None) => return self.garbage.remove(key),
        };
        let push = self.pushes.entry(push_key.clone()).or_default();
        match (part, value) {
            (Part::Manifest, Some(value)) => {
                push.manifest = Some((offset, wire::decode_manifest(&push_key, value)));
            }
            (Part::Chunk(index), Some(value)) => {
                let bytes = value.len() as u64;
                push.chunks.insert(index, Chunk { offset, bytes });
            }
            (Part::Manifest, None) => push.manifest = None,
            (Part::Chunk(index), None) => {
                push.chunks.remove(&index);
            }
        }
        if push.manifest.is_none() && push.chunks.is_empty() {
            self.pushes.remove(&push_key);
        }
    }

    /// If a version was pushed several times, the first package in the log counts.
    pub fn view(&self) -> ModelsView {
        let mut view = ModelsView::default();
        let mut sound = Vec::new();
        for (key, push) in &self.pushes {
            match push.entry(key) {
                Ok(entry) => sound.push((key, push, entry)),
                Err(reason) => view.void.push(push.void(key, reason)),
            }
        }
        sound.sort_by_key(|(_, _, entry)| entry.manifest_offset);
        for (key, push, entry) in sound {
            match view.models.get(&entry.id) {
                None => {
                    view.models.insert(entry.id.clone(), entry);
                }
                Some(first) => view.void.push(push.void(key, second(first, &entry))),
            }
        }
        view.void.extend(self.garbage.list(Topics::MODELS));
        tidy(&mut view.void);
        view
    }
}

/// Why a package does not count for its version.
fn second(first: &ModelEntry, entry: &ModelEntry) -> String {
    match first.sha256 == entry.sha256 {
        true => format!("{} pushed the same before", first.pushed_by),
        false => format!(
            "{} pushed {} with other content before (SHA-256 {}…)",
            first.pushed_by,
            first.id,
            first.sha256.short()
        ),
    }
}

/// In the order of the log; bounded to what a person looks at.
fn tidy(void: &mut Vec<Void>) {
    void.sort_by(|a, b| (a.offset, &a.key).cmp(&(b.offset, &b.key)));
    void.truncate(VOID_MAX);
}

/// The deployments' topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deployments {
    /// By key: its offset and its content.
    events: BTreeMap<String, (i64, Deployment)>,
    garbage: Garbage,
}

/// The state of the deployments' topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeploymentsView {
    pub deployments: BTreeMap<String, History>,
    pub void: Vec<Void>,
}

impl Deployments {
    pub fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        self.garbage.remove(key);
        if let Ok(text) = std::str::from_utf8(key) {
            self.events.remove(text);
        }
        let Some(value) = value else { return };
        match parse_event(key, value) {
            Ok((key, deployment)) => {
                self.events.insert(key, (offset, deployment));
            }
            Err(reason) => self.garbage.put(key, offset, reason),
        }
    }

    pub fn view(&self) -> DeploymentsView {
        let mut in_order: Vec<_> = self.events.iter().collect();
        in_order.sort_by_key(|(_, (offset, _))| *offset);
        let mut view = DeploymentsView::default();
        for (key, (offset, deployment)) in in_order {
            let history = view
                .deployments
                .entry(deployment.pipeline.clone())
                .or_default();
            let void = objection(history, deployment);
            history.events.push(Event {
                offset: *offset,
                key: key.clone(),
                deployment: deployment.clone(),
                void,
            });
        }
        view.void.extend(self.garbage.list(Topics::DEPLOYMENTS));
        tidy(&mut view.void);
        view
    }
}

/// # Errors
/// Why the record is no event.
fn parse_event(key: &[u8], value: &[u8]) -> Result<(String, Deployment), String> {
    let deployment = wire::decode_deployment(value)?;
    let key = std::str::from_utf8(key).map_err(|_| "the key is not text".to_owned())?;
    let id = key.rsplit('/').next().unwrap_or_default();
    let own = key::event(&deployment.pipeline, deployment.revision, id);
    if id.is_empty() || own != key {
        return Err("the deployment differs from its key".to_owned());
    }
    Ok((key.to_owned(), deployment))
}

/// Why an event is void, given those before it.
fn objection(history: &History, deployment: &Deployment) -> Option<String> {
    if let Err(invalid) = deployment.validate() {
        return Some(invalid.to_string());
    }
    let current = history.current()?;
    if deployment.revision == current.revision + 1 {
        return None;
    }
    Some(match history.revision(deployment.revision) {
        Some(first) => format!("{} wrote revision {} first", first.by, first.revision),
        None => format!(
            "it is revision {} and comes after {}",
            deployment.revision, current.revision
        ),
    })
}

#[cfg(test)]
mod tests;
