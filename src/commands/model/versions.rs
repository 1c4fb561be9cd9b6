//! The versions on the log: who serves with them, and what each replica has made of them.

use quadrille_choreography::Cluster;
use quadrille_registry::{
    ModelEntry, ModelId, ModelState, Registry, Replica, View, compare_versions,
};
use quadrille_service::Error;
use serde_json::{Value, json};

use crate::{preview, registry, time};

/// The log and what replicas say, at one moment.
pub struct Known {
    pub registry: Registry,
    pub replicas: Vec<Replica>,
}

pub fn know(cluster: &Cluster) -> Result<Known, Error> {
    Ok(Known {
        registry: registry::open(cluster)?,
        replicas: registry::replicas(cluster)?,
    })
}

/// By name, then by version, the newest last.
pub fn in_order<'a>(view: &'a View, name: Option<&str>) -> Vec<&'a ModelEntry> {
    let wanted = |entry: &&ModelEntry| name.is_none_or(|name| entry.id.name == name);
    let mut entries: Vec<&ModelEntry> = view.models.values().filter(wanted).collect();
    entries.sort_by(|a, b| {
        let names = a.id.name.cmp(&b.id.name);
        names.then_with(|| compare_versions(&a.id.version, &b.id.version))
    });
    entries
}

pub fn or_none(cells: &[String]) -> String {
    match cells.is_empty() {
        true => "-".to_owned(),
        false => cells.join("; "),
    }
}

/// The routes that lead to a version now.
pub fn serves(view: &View, id: &ModelId) -> Vec<String> {
    let mut serves = Vec::new();
    for pipeline in view.users(id) {
        let deployment = view.current(pipeline);
        let routes = deployment.into_iter().flat_map(|current| &current.routes);
        for route in routes.filter(|route| route.model == *id) {
            serves.push(format!("{pipeline}: {}", registry::role(route.role)));
        }
    }
    serves
}

/// How many replicas are ready; those that are not, by name.
pub fn states(id: &ModelId, replicas: &[Replica]) -> Vec<String> {
    let mut ready = 0;
    let mut others = Vec::new();
    for replica in replicas {
        match replica.state(id) {
            None => {}
            Some(ModelState::Ready) => ready += 1,
            Some(state) => others.push(format!(
                "{} {}",
                preview::cell(&replica.instance),
                state_text(state)
            )),
        }
    }
    if ready > 0 {
        others.insert(0, format!("{ready} ready"));
    }
    others
}

pub fn state_text(state: &ModelState) -> String {
    match state {
        ModelState::Failed { why } => {
            format!("failed: {}", preview::text(why, preview::MESSAGE_CHARS_MAX))
        }
        state => state.name().to_owned(),
    }
}

pub fn to_json(view: &View, entry: &ModelEntry, replicas: &[Replica]) -> Value {
    let on = replicas.iter().filter_map(|replica| {
        let state = replica.state(&entry.id)?;
        let why = match state {
            ModelState::Failed { why } => Some(why),
            _ => None,
        };
        Some(json!({
            "service": replica.service,
            "instance": replica.instance,
            "state": state.name(),
            "why": why,
            "at": time::seconds(replica.at_ms),
        }))
    });
    json!({
        "name": entry.id.name,
        "version": entry.id.version,
        "sha256": entry.sha256.to_string(),
        "bytes": entry.bytes,
        "chunks": entry.chunks(),
        "artefact_uri": entry.artefact_uri(),
        "offset": entry.offset(),
        "pushed_at": time::seconds(entry.pushed_at_ms),
        "pushed_by": entry.pushed_by,
        "serves": view.users(&entry.id).collect::<Vec<&str>>(),
        "replicas": on.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quadrille_registry::ReplicaModel;

    use super::*;

    fn id() -> ModelId {
        registry::model_id("m:1").unwrap()
    }

    fn replica(instance: &str, state: ModelState) -> Replica {
        Replica {
            service: "inference".to_owned(),
            instance: instance.to_owned(),
            at_ms: 0,
            models: vec![ReplicaModel { id: id(), state }],
            revisions: BTreeMap::new(),
            models_offset: 0,
            deployments_offset: 0,
            ..Replica::default()
        }
    }

    #[test]
    fn ready_replicas_are_counted_and_others_named_with_the_reason() {
        let why = "chunk 3 is\x1b[2J wrong".to_owned();
        let replicas = [
            replica("a", ModelState::Ready),
            replica("b", ModelState::Failed { why }),
            replica("c", ModelState::Loading),
            replica("d", ModelState::Ready),
        ];
        let found = states(&id(), &replicas);
        assert_eq!(found[0], "2 ready");
        assert_eq!(found[1], "b failed: chunk 3 is\\u{1b}[2J wrong");
        assert_eq!(found[2], "c loading");
        let other = registry::model_id("m:2").unwrap();
        assert_eq!(or_none(&states(&other, &replicas)), "-");
    }
}
