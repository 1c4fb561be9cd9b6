//! Pipelines nobody wrote: valid files of every shape, and their text in any layout.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

/// A valid pipeline, with the keys of the file.
pub fn pipeline() -> impl Strategy<Value = Value> {
    (
        vec(field(), 1..8),
        vec((0..8usize, any::<[Index; 2]>(), -5i32..5), 1..8),
        0.0..=1.0f64,
    )
        .prop_map(|(kinds, features, threshold)| {
            let fields: Vec<Value> = kinds.into_iter().enumerate().map(named).collect();
            let features: Vec<Value> = features
                .into_iter()
                .enumerate()
                .map(|(at, (kind, [one, two], edge))| {
                    feature(at, kind, one.get(&fields), two.get(&fields), edge)
                })
                .collect();
            let inputs: Vec<&Value> = features.iter().map(|feature| &feature["name"]).collect();
            json!({
                "name": "p-1",
                "record": { "id": "id", "key": "key", "event_time": "at", "fields": fields,
                    "unknown_fields": "keep" },
                "features": features,
                "model": { "inputs": inputs },
                "decision": { "threshold": threshold, "positive": "y", "negative": "n" },
                "label": { "field": "truth", "positive": "1", "negative": "0" },
            })
        })
}

fn field() -> impl Strategy<Value = Value> {
    let range = (-1e6..0.0f64, 0.0..1e6f64, any::<bool>());
    prop_oneof![
        range.prop_map(|(min, max, required)| {
            json!({ "type": "number", "min": min, "max": max, "required": required })
        }),
        (-99..0i64, 0..99i64).prop_map(|(min, max)| {
            json!({ "type": "integer", "min": min, "max": max, "missing": [-100, 100] })
        }),
        any::<bool>().prop_map(|required| json!({ "type": "boolean", "required": required })),
        vec("[a-zé \\\\\"]{0,6}", 1..4).prop_map(|names| {
            let name = |(at, name)| format!("{at}{name}x");
            let names: Vec<String> = names.into_iter().enumerate().map(name).collect();
            json!({ "type": "category", "categories": names, "missing": ["?"] })
        }),
    ]
}

fn named((at, mut field): (usize, Value)) -> Value {
    field["name"] = json!(format!("field {at}"));
    field
}

/// A feature of the kind, or one that fits any field where the kind does not fit.
fn feature(at: usize, kind: usize, field: &Value, other: &Value, edge: i32) -> Value {
    let name = format!("f{at}");
    let numeric = |field: &Value| field["type"] == "number" || field["type"] == "integer";
    let (one, two) = (&field["name"], &other["name"]);
    match kind {
        1 if field["type"] == "category" => {
            json!({ "name": name, "kind": "one_hot", "field": one })
        }
        2 if numeric(field) => {
            json!({ "name": name, "kind": "bucket", "field": one, "edges": [edge, edge + 1] })
        }
        3 if numeric(field) => json!({ "name": name, "kind": "clip", "field": one, "min": edge }),
        4 if numeric(field) => json!({ "name": name, "kind": "log", "field": one }),
        5 if numeric(field) && numeric(other) => {
            json!({ "name": name, "kind": "difference", "field": one, "minus": two })
        }
        6 if numeric(field) && numeric(other) => {
            json!({ "name": name, "kind": "ratio", "field": one, "over": two })
        }
        7 => json!({ "name": name, "kind": "missing", "field": one }),
        _ => json!({ "name": name, "kind": "pass", "field": one }),
    }
}

/// How a value is written down as TOML.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub reversed: bool,
    pub comments: bool,
}

pub fn layout() -> impl Strategy<Value = Layout> {
    any::<(bool, bool)>().prop_map(|(reversed, comments)| Layout { reversed, comments })
}

/// The text of a whole file.
pub fn toml(root: &Value, layout: Layout) -> String {
    let mut lines = String::new();
    for (key, value) in ordered(root.as_object().unwrap(), layout) {
        let comment = if layout.comments {
            "   # \"why\" = [not]"
        } else {
            ""
        };
        lines += &format!("{key} = {}{comment}\n", inline(value, layout));
        lines += if layout.comments { "\n# more\n" } else { "" };
    }
    lines
}

fn ordered(table: &Map<String, Value>, layout: Layout) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = table.iter().collect();
    if layout.reversed {
        entries.reverse();
    }
    entries
}

fn inline(value: &Value, layout: Layout) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| inline(item, layout)).collect();
            format!(
                "[{}]",
                items.join(if layout.comments { ", # here\n " } else { "," })
            )
        }
        Value::Object(table) => {
            let entry = |(key, value)| format!("{key} = {}", inline(value, layout));
            let entries: Vec<String> = ordered(table, layout).into_iter().map(entry).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(), // JSON's strings and numbers are TOML's
    }
}

/// A record the pipeline must accept; each seed decides one field.
pub fn record(pipeline: &Value, seeds: &[u8]) -> Map<String, Value> {
    let fields = pipeline["record"]["fields"].as_array().unwrap();
    let mut record = Map::new();
    record.insert("key".into(), json!("k"));
    for (field, seed) in fields.iter().zip(seeds.iter().cycle()) {
        let optional = field["required"] == json!(false);
        let value = match (field["type"].as_str().unwrap(), seed % 5) {
            (_, 0) if optional => continue,
            (_, 1) if optional => Value::Null,
            ("category" | "integer", 0) => field["missing"][0].clone(),
            ("category", seed) => {
                let categories = field["categories"].as_array().unwrap();
                categories[usize::from(seed) % categories.len()].clone()
            }
            ("boolean", seed) => json!(seed > 2),
            (_, 2) => field["min"].clone(),
            (_, 3) => field["max"].clone(),
            _ => json!(0),
        };
        record.insert(field["name"].as_str().unwrap().into(), value);
    }
    record
}
