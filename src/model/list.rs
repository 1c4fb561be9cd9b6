//! `quadrille model list` and `show`: versions, who serves with them, and what each replica has made of them.

use quadrille_choreography::Cluster;
use quadrille_registry::{
    ModelEntry, ModelId, ModelState, Registry, Replica, View, Void, compare_versions,
};
use quadrille_service::Error;
use serde_json::{Value, json};

use crate::{
    kafka::Kafka,
    output::{self, Table},
    preview, registry,
};

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only versions of this model.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Show also what is on the log and counts for nothing.
    #[arg(long)]
    void: bool,

    /// One object for scripts.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[arg(value_name = "NAME")]
    name: String,

    /// [default: all versions].
    #[arg(value_name = "VERSION")]
    version: Option<String>,

    /// Print the package's manifest.json and nothing else.
    #[arg(long, requires = "version")]
    manifest: bool,

    /// One object for scripts.
    #[arg(long, conflicts_with = "manifest")]
    json: bool,

    #[command(flatten)]
    kafka: Kafka,
}

/// The log and what replicas say, at one moment.
struct Known {
    registry: Registry,
    replicas: Vec<Replica>,
}

fn know(cluster: &Cluster) -> Result<Known, Error> {
    Ok(Known {
        registry: registry::open(cluster)?,
        replicas: registry::replicas(cluster)?,
    })
}

/// By name, then by version, the newest last.
fn in_order<'a>(view: &'a View, name: Option<&str>) -> Vec<&'a ModelEntry> {
    let wanted = |entry: &&ModelEntry| name.is_none_or(|name| entry.id.name == name);
    let mut entries: Vec<&ModelEntry> = view.models.values().filter(wanted).collect();
    entries.sort_by(|a, b| {
        let names = a.id.name.cmp(&b.id.name);
        names.then_with(|| compare_versions(&a.id.version, &b.id.version))
    });
    entries
}

pub fn list(args: &ListArgs) -> Result<(), Error> {
    let Known { registry, replicas } = know(&args.kafka.cluster()?)?;
    let view = registry.view();
    let entries = in_order(&view, args.name.as_deref());
    if args.json {
        let models = entries.iter().map(|entry| to_json(&view, entry, &replicas));
        let models: Vec<Value> = models.collect();
        let void: Vec<Value> = view.void.iter().map(void_json).collect();
        let _ = output::print(json!({ "models": models, "void": void }))?;
        return Ok(());
    }
    if entries.is_empty() {
        output::note("no models; push one with `quadrille model push DIR`");
    } else {
        let header = [
            "NAME", "VERSION", "SHA-256", "BYTES", "PLACE", "PUSHED", "BY", "SERVES", "REPLICAS",
        ];
        let mut table = Table::new(&header);
        for entry in entries {
            table.row(row(&view, entry, &replicas));
        }
        let _ = output::print(table)?;
    }
    show_void(&view.void, args.void)
}

fn show_void(void: &[Void], all: bool) -> Result<(), Error> {
    if void.is_empty() {
        return Ok(());
    }
    if !all {
        let count = void.len();
        output::note(format_args!(
            "{count} on the log count for nothing; --void shows them with the reason"
        ));
        return Ok(());
    }
    let mut table = Table::new(&["TOPIC", "OFFSET", "VOID", "WHY"]);
    for void in void {
        table.row(vec![
            void.topic.to_owned(),
            void.offset.to_string(),
            preview::text(&void.key, preview::PAYLOAD_CHARS_MAX),
            preview::text(&void.reason, preview::MESSAGE_CHARS_MAX),
        ]);
    }
    let _ = output::print(table)?;
    Ok(())
}

fn row(view: &View, entry: &ModelEntry, replicas: &[Replica]) -> Vec<String> {
    vec![
        entry.id.name.clone(),
        registry::cell(&entry.id.version),
        entry.sha256.short(),
        entry.bytes.to_string(),
        entry.artefact_uri().map_or("log".to_owned(), |uri| {
            preview::text(uri, preview::PAYLOAD_CHARS_MAX)
        }),
        registry::time(entry.pushed_at_ms),
        registry::cell(&entry.pushed_by),
        or_none(&serves(view, &entry.id)),
        or_none(&states(&entry.id, replicas)),
    ]
}

fn or_none(cells: &[String]) -> String {
    match cells.is_empty() {
        true => "-".to_owned(),
        false => cells.join("; "),
    }
}

/// The routes that lead to a version now.
fn serves(view: &View, id: &ModelId) -> Vec<String> {
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
fn states(id: &ModelId, replicas: &[Replica]) -> Vec<String> {
    let mut ready = 0;
    let mut others = Vec::new();
    for replica in replicas {
        match replica.state(id) {
            None => {}
            Some(ModelState::Ready) => ready += 1,
            Some(state) => others.push(format!(
                "{} {}",
                registry::cell(&replica.instance),
                told(state)
            )),
        }
    }
    if ready > 0 {
        others.insert(0, format!("{ready} ready"));
    }
    others
}

fn told(state: &ModelState) -> String {
    match state {
        ModelState::Failed { why } => {
            format!("failed: {}", preview::text(why, preview::MESSAGE_CHARS_MAX))
        }
        state => state.name().to_owned(),
    }
}

fn to_json(view: &View, entry: &ModelEntry, replicas: &[Replica]) -> Value {
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
            "at": registry::time(replica.at_ms),
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
        "pushed_at": registry::time(entry.pushed_at_ms),
        "pushed_by": entry.pushed_by,
        "serves": view.users(&entry.id).collect::<Vec<&str>>(),
        "replicas": on.collect::<Vec<Value>>(),
    })
}

fn void_json(void: &Void) -> Value {
    json!({ "topic": void.topic, "offset": void.offset, "key": void.key, "reason": void.reason })
}

pub fn show(args: &ShowArgs) -> Result<(), Error> {
    let Known { registry, replicas } = know(&args.kafka.cluster()?)?;
    let view = registry.view();
    let mut entries = in_order(&view, Some(&args.name));
    let names: Vec<&str> = entries.iter().map(|e| e.id.version.as_str()).collect();
    let known = names.join(", ");
    if let Some(version) = &args.version {
        entries.retain(|entry| entry.id.version == *version);
    }
    if entries.is_empty() {
        return Err(Error::Config(match known.as_str() {
            "" => format!(
                "there is no model {}; see `quadrille model list`",
                args.name
            ),
            known => format!(
                "model {} has no version {}; versions are: {known}",
                args.name,
                args.version.as_deref().unwrap_or_default()
            ),
        }));
    }
    if args.json {
        let models = entries.iter().map(|entry| to_json(&view, entry, &replicas));
        let _ = output::print(json!({ "models": models.collect::<Vec<Value>>() }))?;
        return Ok(());
    }
    for entry in entries {
        let manifest = registry.follower().manifest(&entry.id);
        let manifest = manifest.map_err(registry::refused)?;
        let text = match args.manifest {
            true => String::from_utf8_lossy(&manifest).trim_end().to_owned(),
            false => paragraph(&view, entry, &replicas, &manifest),
        };
        if output::print(text)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn paragraph(view: &View, entry: &ModelEntry, replicas: &[Replica], manifest: &[u8]) -> String {
    let mut text = format!(
        "{}\n  SHA-256  {}\n  size     {} bytes {}, offset {}\n  pushed   {} by {}\n  serves   {}\n",
        entry.id,
        entry.sha256,
        entry.bytes,
        registry::place(entry),
        entry.offset(),
        registry::time(entry.pushed_at_ms),
        registry::cell(&entry.pushed_by),
        or_none(&serves(view, &entry.id)),
    );
    for replica in replicas {
        if let Some(state) = replica.state(&entry.id) {
            let name = registry::cell(&replica.instance);
            text.push_str(&format!("  replica  {name}: {}\n", told(state)));
        }
    }
    for (name, value) in plain_fields(manifest) {
        text.push_str(&format!("  {name}: {value}\n"));
    }
    text
}

/// The manifest's fields that are a word or a number, but for those told already.
fn plain_fields(manifest: &[u8]) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(manifest) else {
        return Vec::new();
    };
    let plain = |(name, value): (String, Value)| {
        let value = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Array(list) => format!("{} of them", list.len()),
            _ => return None,
        };
        let told = ["name", "version"].contains(&name.as_str());
        let value = preview::text(&value, preview::PAYLOAD_CHARS_MAX);
        (!told).then(|| (registry::cell(&name), value))
    };
    fields.into_iter().filter_map(plain).collect()
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
        let told = states(&id(), &replicas);
        assert_eq!(told[0], "2 ready");
        assert_eq!(told[1], "b failed: chunk 3 is\\u{1b}[2J wrong");
        assert_eq!(told[2], "c loading");
        let other = registry::model_id("m:2").unwrap();
        assert_eq!(or_none(&states(&other, &replicas)), "-");
    }

    #[test]
    fn of_a_manifest_the_plain_fields_are_told() {
        let manifest = br#"{"name": "m", "format": 1, "algorithm": "forest", "inputs": ["a", "b"], "labels": {}}"#;
        let fields = plain_fields(manifest);
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert!(fields.contains(&field("format", "1")));
        assert!(fields.contains(&field("inputs", "2 of them")));
        assert_eq!(fields.len(), 3);
        assert_eq!(plain_fields(b"not JSON"), []);
    }
}
