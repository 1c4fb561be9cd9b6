//! Changes to the log. Each is written in one transaction and read back, so that its outcome is what all readers see.

use std::{sync::Arc, time::Duration};

use quadrille_choreography::{Cluster, TableWrite, table::write, write_table};
use quadrille_proto::Topics;
use uuid::Uuid;

use crate::{
    Deployment, Error, Follower, ModelEntry, ModelId, PackageBytes, Uri, View, follower,
    key::{self, PushKey},
    wire,
};

/// How long reading the log may take when a change begins.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
/// How long reading a change back may take; the open transaction of a writer that was killed holds up readers for 20 s or more.
const READ_BACK_WITHIN: Duration = Duration::from_secs(60);

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    New(ModelEntry),
    /// The same content was there before.
    AlreadyThere(ModelEntry),
}

/// What was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Tombstones written.
    pub records: usize,
    /// Pipelines that were routed to the version while it was deleted.
    pub routed_meanwhile: Vec<String>,
}

/// Reads and changes the log, for tools. Every call blocks.
pub struct Registry {
    follower: Follower,
}

impl Registry {
    /// Reads both topics to their ends.
    ///
    /// # Errors
    /// Kafka does not answer, or topics are missing.
    pub fn open(cluster: &Cluster) -> Result<Self, Error> {
        let follower = Follower::start(cluster)?;
        follower.wait_caught_up(CATCH_UP_WITHIN)?;
        Ok(Registry { follower })
    }

    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    pub fn view(&self) -> Arc<View> {
        self.follower.view()
    }

    /// Puts a package on the log. The caller has checked that it is a package, and of this id.
    ///
    /// # Errors
    /// The version exists with other content, perhaps because another push won the race; or Kafka refuses.
    pub fn push(
        &self,
        id: &ModelId,
        package: &PackageBytes,
        by: &str,
        at_ms: i64,
    ) -> Result<Pushed, Error> {
        self.put(id, package, None, by, at_ms)
    }

    /// Puts a package on the log all but its artefact, which stays where it was read from: replicas fetch it there.
    ///
    /// # Errors
    /// As [`Registry::push`].
    pub fn push_by_uri(
        &self,
        id: &ModelId,
        package: &PackageBytes,
        artefact: &Uri,
        by: &str,
        at_ms: i64,
    ) -> Result<Pushed, Error> {
        self.put(id, package, Some(artefact), by, at_ms)
    }

    fn put(
        &self,
        id: &ModelId,
        package: &PackageBytes,
        artefact: Option<&Uri>,
        by: &str,
        at_ms: i64,
    ) -> Result<Pushed, Error> {
        id.validate()?;
        let key = PushKey {
            id: id.clone(),
            sha256: package.sha256(),
            push: Uuid::now_v7().to_string(),
        };
        if let Some(there) = self.view().models.get(id) {
            return there_before(there, &key);
        }
        let message = wire::manifest_message(&key, package, artefact, by, at_ms);
        let manifest = wire::encode_manifest(message);
        let chunks = artefact.is_none().then(|| package.chunks());
        let chunks = (0..)
            .zip(chunks.into_iter().flatten())
            .map(|(index, chunk)| TableWrite {
                key: key.chunk(index),
                value: Some(chunk),
            });
        // The manifest last: a reader that has it has everything.
        let last = TableWrite {
            key: key.manifest(),
            value: Some(&manifest),
        };
        let records: Vec<TableWrite<'_>> = chunks.chain([last]).collect();
        self.write(Topics::MODELS, &records)?;
        self.settle_push(&key)
    }

    /// Finds out whether the push stands, and takes it away where it does not.
    fn settle_push(&self, key: &PushKey) -> Result<Pushed, Error> {
        let manifest = key.manifest();
        let (entry, void) = self.read_back(|view| {
            let entry = view.models.get(&key.id);
            let void = view.void.iter().find(|void| void.key == manifest);
            let settled = void.is_some() || entry.is_some_and(|entry| entry.push == key.push);
            settled.then(|| (entry.cloned(), void.cloned()))
        })?;
        if let Some(void) = &void {
            self.write(Topics::MODELS, &tombstones(&void.keys))?;
        }
        match (entry, void) {
            (Some(entry), None) => Ok(Pushed::New(entry)),
            (Some(first), Some(_)) => there_before(&first, key),
            (None, void) => Err(Error::Broken {
                id: key.id.clone(),
                reason: void.map_or_else(String::new, |void| void.reason),
            }),
        }
    }

    /// Takes a version off the log, and void pushes of it.
    ///
    /// # Errors
    /// There is none, a pipeline routes to it, or Kafka refuses.
    pub fn delete(&self, id: &ModelId) -> Result<Deleted, Error> {
        let view = self.view();
        let pipelines: Vec<String> = view.users(id).map(str::to_owned).collect();
        if !pipelines.is_empty() {
            return Err(Error::InUse {
                id: id.clone(),
                pipelines,
            });
        }
        let prefix = format!("{}/{}/", id.name, id.version);
        let of_version =
            |void: &&crate::Void| void.topic == Topics::MODELS && void.key.starts_with(&prefix);
        let void = view.void.iter().filter(of_version);
        let mut keys: Vec<String> = void.flat_map(|void| void.keys.clone()).collect();
        keys.extend(
            view.models
                .get(id)
                .map(ModelEntry::keys)
                .unwrap_or_default(),
        );
        if keys.is_empty() {
            return Err(Error::Unknown {
                id: id.clone(),
                known: follower::known(&view, &id.name),
            });
        }
        let push = view.models.get(id).map(|entry| entry.push.clone());
        self.write(Topics::MODELS, &tombstones(&keys))?;
        let gone = |view: &View| {
            let now = view.models.get(id).map(|entry| &entry.push);
            (now.is_none() || now != push.as_ref()).then_some(())
        };
        self.read_back(gone)?;
        let view = self.view();
        Ok(Deleted {
            records: keys.len(),
            routed_meanwhile: view.users(id).map(str::to_owned).collect(),
        })
    }

    /// Puts a deployment on the log; its revision is one more than that of the one it changes.
    ///
    /// # Errors
    /// It cannot be, routes to a version that is not on the log, or another change won the race.
    pub fn deploy(&self, deployment: &Deployment) -> Result<(), Error> {
        deployment.validate()?;
        let view = self.view();
        for route in &deployment.routes {
            if !view.models.contains_key(&route.model) {
                return Err(Error::Unknown {
                    id: route.model.clone(),
                    known: follower::known(&view, &route.model.name),
                });
            }
        }
        let Deployment {
            pipeline, revision, ..
        } = deployment;
        let key = key::event(pipeline, *revision, &Uuid::now_v7().to_string());
        let value = wire::encode_deployment(deployment);
        let record = TableWrite {
            key: key.clone(),
            value: Some(&value),
        };
        self.write(Topics::DEPLOYMENTS, &[record])?;
        self.read_back(|view| {
            let history = view.deployments.get(pipeline)?;
            let event = history.events.iter().find(|event| event.key == key)?;
            let Some(reason) = &event.void else {
                return Some(Ok(()));
            };
            let winner = history.revision(*revision).cloned();
            Some(Err(match winner {
                Some(winner) => Error::LostRace {
                    winner: Box::new(winner),
                },
                None => Error::Void(reason.clone()),
            }))
        })?
    }

    /// Writes; where the commit is in doubt, reading back decides.
    fn write(&self, topic: &str, records: &[TableWrite<'_>]) -> Result<(), Error> {
        match write_table(self.follower.cluster(), topic, records) {
            Err(write::Error::InDoubt { topic, reason }) => {
                tracing::warn!(
                    topic,
                    reason,
                    "Kafka did not say whether it committed; reading back"
                );
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn read_back<T>(&self, mut look: impl FnMut(&View) -> Option<T>) -> Result<T, Error> {
        let found = self
            .follower
            .wait(READ_BACK_WITHIN, || look(&self.follower.view()));
        found.ok_or_else(|| Error::NotReadBack {
            within: READ_BACK_WITHIN,
            why: (self.follower.behind()).unwrap_or_else(|| {
                "it was not committed, or another writer's open transaction holds up readers"
                    .to_owned()
            }),
        })
    }
}

fn there_before(there: &ModelEntry, key: &PushKey) -> Result<Pushed, Error> {
    match there.sha256 == key.sha256 {
        true => Ok(Pushed::AlreadyThere(there.clone())),
        false => Err(Error::Taken {
            first: Box::new(there.clone()),
        }),
    }
}

fn tombstones(keys: &[String]) -> Vec<TableWrite<'_>> {
    let tombstone = |key: &String| TableWrite {
        key: key.clone(),
        value: None,
    };
    keys.iter().map(tombstone).collect()
}
