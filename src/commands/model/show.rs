//! `quadrille model show`: a model's versions, or all about one.

use quadrille_registry::{ModelEntry, Replica, View};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::versions::{Known, in_order, know, or_none, serves, state_text, to_json};
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputOrJson},
    preview, registry, time,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model's name, or NAME:VERSION.
    #[arg(value_name = "NAME")]
    name: String,

    /// [default: all versions].
    #[arg(value_name = "VERSION")]
    version: Option<String>,

    /// Print the package's manifest.json and nothing else.
    #[arg(long)]
    manifest: bool,

    #[command(flatten)]
    output: OutputOrJson,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// There is no such model or version, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let (name, version) = registry::name_and_version(&args.name, args.version.as_deref())?;
    if args.manifest && version.is_none() {
        let message = "--manifest shows one version; give NAME:VERSION";
        return Err(Error::Config(message.to_owned()));
    }
    let Known { registry, replicas } = know(&args.kafka.cluster()?)?;
    let view = registry.view();
    let mut entries = in_order(&view, Some(&name));
    let names: Vec<&str> = entries.iter().map(|e| e.id.version.as_str()).collect();
    let known = names.join(", ");
    if let Some(version) = &version {
        entries.retain(|entry| entry.id.version == *version);
    }
    if entries.is_empty() {
        return Err(Error::Config(match known.as_str() {
            "" => format!("there is no model {name}; see `quadrille model list`"),
            known => format!(
                "model {name} has no version {}; versions are: {known}",
                version.as_deref().unwrap_or_default()
            ),
        }));
    }
    if args.output.get() == Output::Json && !args.manifest {
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
        time::seconds(entry.pushed_at_ms),
        preview::cell(&entry.pushed_by),
        or_none(&serves(view, &entry.id)),
    );
    for replica in replicas {
        if let Some(state) = replica.state(&entry.id) {
            let name = preview::cell(&replica.instance);
            text.push_str(&format!("  replica  {name}: {}\n", state_text(state)));
        }
    }
    for (name, value) in plain_fields(manifest) {
        text.push_str(&format!("  {name}: {value}\n"));
    }
    text
}

/// The manifest's fields that are a word or a number, but for those shown already.
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
        let shown = ["name", "version"].contains(&name.as_str());
        let value = preview::text(&value, preview::PAYLOAD_CHARS_MAX);
        (!shown).then(|| (preview::cell(&name), value))
    };
    fields.into_iter().filter_map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_manifest_the_plain_fields_are_shown() {
        let manifest = br#"{"name": "m", "format": 1, "algorithm": "forest", "inputs": ["a", "b"], "labels": {}}"#;
        let fields = plain_fields(manifest);
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert!(fields.contains(&field("format", "1")));
        assert!(fields.contains(&field("inputs", "2 of them")));
        assert_eq!(fields.len(), 3);
        assert_eq!(plain_fields(b"not JSON"), []);
    }
}
