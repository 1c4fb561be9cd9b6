//! The pipeline file as a JSON Schema (draft 2020-12), for editors: made of the keys that the parser knows.
//!
//! It refuses only what the parser refuses. What needs a look at other tables (that a feature's field exists, that limits
//! ascend) the parser alone finds.

use serde_json::{Map, Value, json};

use crate::keys::{Key, Keys, NAME_LEN_MAX, PIPELINE_NAME_LEN_MAX, ROOT, Selector, Shape};

/// What an editor has to know of a pipeline file.
pub fn schema() -> Value {
    let mut schema = table(&ROOT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Quadrille pipeline");
    schema
}

fn table(keys: &Keys) -> Value {
    let mut properties = Map::new();
    for name in keys.names() {
        properties.insert(name.to_owned(), property(keys, name));
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "required": required(keys.keys.iter().filter(|key| key.kinds.is_empty())),
        "additionalProperties": false,
    });
    if let Some(selector) = &keys.selector {
        let cases = selector.kinds.iter().map(|kind| case(keys, selector, kind));
        schema["allOf"] = cases.collect();
    }
    schema
}

/// A key, whatever kind the table is of.
fn property(keys: &Keys, name: &str) -> Value {
    let mut same = keys.keys.iter().filter(|key| key.name == name);
    match (same.next(), same.next()) {
        (Some(key), None) => {
            let mut schema = shape(key.shape);
            schema["description"] = json!(key.about);
            schema
        }
        // What it looks like is a matter of the kind.
        (Some(key), Some(_)) => json!({ "description": key.about }),
        (None, _) => json!(true),
    }
}

/// What holds for one kind alone.
fn case(keys: &Keys, selector: &Selector, kind: &str) -> Value {
    let mut properties = Map::new();
    for name in keys.names() {
        let mut same = keys.keys.iter().filter(|key| key.name == name);
        let several = same.clone().count() > 1;
        let fits = |key: &&Key| key.kinds.is_empty() || key.kinds.contains(&kind);
        match same.find(fits) {
            None => properties.insert(name.to_owned(), json!(false)),
            Some(key) if several => properties.insert(name.to_owned(), shape(key.shape)),
            Some(_) => None,
        };
    }
    let own = keys.keys.iter().filter(|key| key.kinds.contains(&kind));
    let named = match selector.default == Some(kind) {
        true => json!([]),
        false => json!([selector.key]),
    };
    json!({
        "if": { "properties": { selector.key: { "const": kind } }, "required": named },
        "then": { "properties": properties, "required": required(own) },
    })
}

fn required<'a>(keys: impl Iterator<Item = &'a Key>) -> Value {
    keys.filter(|key| key.required)
        .map(|key| key.name)
        .collect()
}

fn shape(shape: Shape) -> Value {
    let list = |items: Value, least: usize| json!({ "type": "array", "items": items, "minItems": least, "uniqueItems": true });
    let name = || json!({ "type": "string", "minLength": 1, "maxLength": NAME_LEN_MAX });
    match shape {
        Shape::PipelineName => json!({
            "type": "string",
            "pattern": "^[a-z0-9][a-z0-9._-]*$",
            "maxLength": PIPELINE_NAME_LEN_MAX,
        }),
        Shape::Name => name(),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Number => json!({ "type": "number" }),
        Shape::NumberBetween(min, max) => {
            json!({ "type": "number", "minimum": min, "maximum": max })
        }
        Shape::WholeBetween(min, max) => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        Shape::Choice(values) => json!({ "type": "string", "enum": values }),
        Shape::Names(least) => list(name(), least),
        Shape::Values(least) => list(json!({ "type": ["string", "boolean"] }), least),
        Shape::Texts(least) => list(json!({ "type": "string" }), least),
        Shape::Numbers(least) => list(json!({ "type": "number" }), least),
        Shape::Table(keys) => table(keys),
        Shape::Tables(keys) => json!({ "type": "array", "items": table(keys), "minItems": 1 }),
    }
}
