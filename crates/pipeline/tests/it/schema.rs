//! The JSON Schema and the parser say the same of a file.

use std::collections::BTreeSet;

use proptest::prelude::*;
use quadrille_pipeline::{Pipeline, schema};
use serde_json::{Value, json};

use crate::generated::{pipeline, toml};
use crate::properties::PLAIN;
use crate::{WARD, repository};

/// What the schema has against a value; it knows the keywords that our schema uses, and no others.
fn fault(schema: &Value, value: &Value) -> Option<String> {
    let rules = match schema {
        Value::Bool(true) => return None,
        Value::Bool(false) => return Some(format!("{value} must not be here")),
        schema => schema.as_object().expect("a schema"),
    };
    rules.iter().find_map(|(keyword, rule)| {
        let broken = match keyword.as_str() {
            "$schema" | "title" | "description" => None,
            "if" if fault(rule, value).is_none() => fault(&rules["then"], value),
            "if" | "then" => None,
            "allOf" => rule
                .as_array()
                .unwrap()
                .iter()
                .find_map(|it| fault(it, value)),
            "const" => (rule != value).then(String::new),
            "enum" => (!rule.as_array().unwrap().contains(value)).then(String::new),
            "type" => {
                let kinds = rule
                    .as_array()
                    .map_or(std::slice::from_ref(rule), Vec::as_slice);
                let fits = |kind: &Value| is(value, kind.as_str().unwrap());
                (!kinds.iter().any(fits)).then(String::new)
            }
            "properties" | "required" | "additionalProperties" => {
                let entries = value.as_object();
                entries.and_then(|it| of_object(rules, keyword, rule, it))
            }
            "items" | "minItems" | "uniqueItems" => {
                value.as_array().and_then(|it| of_list(keyword, rule, it))
            }
            "minLength" | "maxLength" | "pattern" => {
                value.as_str().and_then(|it| of_text(keyword, rule, it))
            }
            "minimum" | "maximum" => value.as_f64().and_then(|it| of_number(keyword, rule, it)),
            other => panic!("keyword {other}"),
        };
        broken.map(|why| format!("{why} {keyword} {rule}: {value}"))
    })
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("type {other}"),
    }
}

fn of_object(
    rules: &serde_json::Map<String, Value>,
    keyword: &str,
    rule: &Value,
    entries: &serde_json::Map<String, Value>,
) -> Option<String> {
    match keyword {
        "properties" => {
            let known = rule.as_object().unwrap().iter();
            let mut there = known.filter_map(|(name, rule)| Some((rule, entries.get(name)?)));
            there.find_map(|(rule, value)| fault(rule, value))
        }
        "required" => {
            let mut names = rule
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap());
            names
                .find(|name| !entries.contains_key(*name))
                .map(str::to_owned)
        }
        "additionalProperties" => {
            assert_eq!(rule, &json!(false));
            let known = rules["properties"].as_object().unwrap();
            entries
                .keys()
                .find(|name| !known.contains_key(*name))
                .cloned()
        }
        other => panic!("keyword {other} of an object"),
    }
}

fn of_list(keyword: &str, rule: &Value, items: &[Value]) -> Option<String> {
    match keyword {
        "items" => items.iter().find_map(|item| fault(rule, item)),
        "minItems" => (items.len() < rule.as_u64().unwrap() as usize).then(String::new),
        "uniqueItems" => {
            let same = |(at, item): &(usize, &Value)| items[..*at].contains(item);
            items
                .iter()
                .enumerate()
                .any(|item| same(&item))
                .then(String::new)
        }
        other => panic!("keyword {other} of a list"),
    }
}

fn of_text(keyword: &str, rule: &Value, text: &str) -> Option<String> {
    let length = text.chars().count() as u64;
    let broken = match (keyword, rule.as_str()) {
        ("minLength", _) => length < rule.as_u64().unwrap(),
        ("maxLength", _) => length > rule.as_u64().unwrap(),
        ("pattern", Some("^[0-9]+(ms|s|m|h|d)$")) => {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
            unit.len() == text.len() || !["ms", "s", "m", "h", "d"].contains(&unit)
        }
        ("pattern", Some("^[a-z0-9][a-z0-9._-]*$")) => {
            let low = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            !text.starts_with(low) || !text.chars().all(|c| low(c) || "._-".contains(c))
        }
        other => panic!("{other:?} of a text"),
    };
    broken.then(String::new)
}

fn of_number(keyword: &str, rule: &Value, number: f64) -> Option<String> {
    let bound = rule.as_f64().unwrap();
    let broken = match keyword {
        "minimum" => number < bound,
        "maximum" => number > bound,
        other => panic!("keyword {other} of a number"),
    };
    broken.then(String::new)
}

fn parse(file: &Value) -> Result<Pipeline, quadrille_pipeline::Error> {
    Pipeline::parse("x.toml", &toml(file, PLAIN))
}

fn from_toml(text: &str) -> Value {
    let table: toml::Table = text.parse().expect("TOML");
    serde_json::to_value(table).expect("JSON")
}

/// Files that have every key between them.
fn samples() -> Vec<Value> {
    let record = json!({
        "id": "id", "key": "k", "event_time": "at", "unknown_fields": "keep", "future_max": "5m",
        "past_max": "20000d", "fields": [
            { "name": "n", "type": "number", "min": 0, "max": 9.5, "missing": [-1, 0], "required": false },
            { "name": "i", "type": "integer", "min": 0, "max": 9, "missing": [-1] },
            { "name": "b", "type": "boolean", "required": false },
            { "name": "c", "type": "category", "categories": ["x", "y"], "missing": ["?"] },
            { "name": "v", "type": "vector", "length": 2, "min": 0, "max": 9, "missing": [-1] },
        ],
    });
    let features = json!([
        { "name": "pass", "kind": "pass", "field": "n" },
        { "name": "missing", "kind": "missing", "field": "n" },
        { "name": "one_hot", "kind": "one_hot", "field": "c" },
        { "name": "bucket", "kind": "bucket", "field": "n", "edges": [1, 2] },
        { "name": "clip", "kind": "clip", "field": "n", "min": 1, "max": 2 },
        { "name": "log", "kind": "log", "field": "n" },
        { "name": "difference", "kind": "difference", "field": "n", "minus": "i" },
        { "name": "ratio", "kind": "ratio", "field": "n", "over": "i" },
    ]);
    let of = |features: &Value, decision: Value, label: Value| {
        json!({
            "format": 1, "name": "p", "record": record, "features": features,
            "model": { "inputs": ["pass", "one_hot"] }, "decision": decision, "label": label,
            "operate": { "latency_objective": "1s" },
        })
    };
    let file = |decision, label| of(&features, decision, label);
    let looking_back = |features: Value| {
        let mut file = of(
            &features,
            json!({ "threshold": 0.5, "positive": "p", "negative": "n" }),
            json!({ "field": "l", "positive": "1", "negative": "0" }),
        );
        file["state"] = json!({
            "lateness": "1h", "late": "absorb", "forget_after": "400d", "events_max": 100,
            "emit": { "field": "c", "is": ["x"] }, "reset": { "field": "b", "is": [true] },
        });
        file["model"]["inputs"] = json!(["pass"]);
        file
    };
    let mut old = file(
        json!({ "threshold": 0.5, "positive": "p", "negative": "n" }),
        json!({ "field": "l", "positive": "1", "negative": "0" }),
    );
    old["latency_objective"] = old["operate"]["latency_objective"].take();
    old.as_object_mut().unwrap().remove("operate");
    vec![
        old,
        file(
            json!({ "kind": "argmax", "classes": ["a", "b"] }),
            json!({ "field": "l", "classes": ["1", "2"] }),
        ),
        file(
            json!({ "kind": "value", "values": ["v"], "edges": [1], "names": ["low", "high"] }),
            json!({ "field": "l" }),
        ),
        looking_back(json!([
            { "name": "pass", "kind": "pass", "field": "n" },
            { "name": "count", "kind": "count", "from": "1d", "to": "8d", "current": false },
            { "name": "sum", "kind": "sum", "field": "i", "from": "0s", "to": "8d" },
            { "name": "rate", "kind": "rate", "from": "0s", "to": "8d", "per": "1h" },
            { "name": "ewma", "kind": "ewma", "field": "n", "half_life": "1d" },
            { "name": "time_since", "kind": "time_since", "where": { "field": "c", "is": ["x", "y"] } },
            { "name": "lag", "kind": "lag", "field": "b", "from": "0s", "to": "8d", "n": 2 },
            { "name": "ratio", "kind": "ratio", "field": "n", "over": "sum" },
        ])),
        looking_back(json!([
            { "name": "pass", "kind": "pass", "field": "n" },
            { "name": "mean", "kind": "mean", "field": "n", "newest": 3 },
            { "name": "min", "kind": "min", "field": "n", "newest": 3 },
            { "name": "max", "kind": "max", "field": "n", "newest": 3 },
            { "name": "median", "kind": "median", "field": "n", "newest": 3 },
            { "name": "stddev", "kind": "stddev", "field": "n", "newest": 3 },
            { "name": "last", "kind": "last", "field": "c", "newest": 3 },
            { "name": "distinct", "kind": "distinct", "field": "c", "newest": 3 },
        ])),
    ]
}

/// Where each key and each table of a file is, as JSON pointers.
fn places(value: &Value, at: &str, keys: &mut Vec<String>, tables: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            tables.push(at.to_owned());
            for (name, value) in entries {
                keys.push(format!("{at}/{name}"));
                places(value, &format!("{at}/{name}"), keys, tables);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), keys, tables);
            }
        }
        _ => {}
    }
}

/// Every key of the schema, by the names on the way to it.
fn described(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, inner) in properties {
            found.insert(format!("{at}.{name}"));
            described(inner, &format!("{at}.{name}"), found);
        }
    }
    if !schema["items"].is_null() {
        described(&schema["items"], at, found);
    }
}

#[test]
fn every_shipped_pipeline_is_valid_by_the_schema() {
    let schema = schema();
    let mut files = Vec::new();
    for folder in ["pipelines", "examples"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.extend(
                [path.join("pipeline.toml"), path]
                    .into_iter()
                    .filter(|it| it.is_file()),
            );
        }
    }
    files.retain(|file| file.extension().is_some_and(|it| it == "toml"));
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let value = from_toml(&std::fs::read_to_string(&file).unwrap());
        assert_eq!(fault(&schema, &value), None, "{}", file.display());
        let warnings = Pipeline::load(&file).unwrap()[0].warnings().to_vec();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    assert_eq!(fault(&schema, &from_toml(WARD)), None);
}

#[test]
fn the_samples_have_every_key_of_the_schema_and_both_take_them() {
    let (schema, mut seen) = (schema(), BTreeSet::new());
    for sample in samples() {
        parse(&sample).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fault(&schema, &sample), None);
        let (mut keys, mut tables) = (Vec::new(), Vec::new());
        places(&sample, "", &mut keys, &mut tables);
        let name = |pointer: &String| {
            let parts = pointer
                .split('/')
                .filter(|part| part.parse::<usize>().is_err());
            parts.collect::<Vec<&str>>().join(".")
        };
        seen.extend(keys.iter().map(name));
    }
    let mut all = BTreeSet::new();
    described(&schema, "", &mut all);
    assert_eq!(all, seen);
}

#[test]
fn a_key_that_nobody_knows_is_refused_by_both_in_every_table() {
    let schema = schema();
    for sample in samples() {
        let (mut keys, mut tables) = (Vec::new(), Vec::new());
        places(&sample, "", &mut keys, &mut tables);
        for table in tables {
            let mut file = sample.clone();
            file.pointer_mut(&table).unwrap()["nobody"] = json!(1);
            let error = parse(&file).expect_err(&table).to_string();
            assert!(error.contains("unknown key \"nobody\""), "{table}: {error}");
            assert!(fault(&schema, &file).is_some(), "{table}");
        }
    }
}

#[test]
fn a_key_that_is_missing_or_of_another_type_is_refused_by_both() {
    let schema = schema();
    for sample in samples() {
        let (mut keys, mut tables) = (Vec::new(), Vec::new());
        places(&sample, "", &mut keys, &mut tables);
        for key in keys {
            let wrong = match sample.pointer(&key).unwrap() {
                Value::String(_) | Value::Array(_) | Value::Object(_) => json!(5),
                _ => json!("x"),
            };
            let mut file = sample.clone();
            *file.pointer_mut(&key).unwrap() = wrong;
            assert!(parse(&file).is_err(), "{key}");
            assert!(fault(&schema, &file).is_some(), "{key}");

            let (table, name) = key.rsplit_once('/').unwrap();
            let mut file = sample.clone();
            file.pointer_mut(table)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(name);
            let refused = parse(&file).err().map(|error| error.to_string());
            let missing = refused
                .as_ref()
                .is_some_and(|it| it.contains(&format!("{name:?} is missing; add")));
            match fault(&schema, &file) {
                None => assert!(!missing, "{key}: {refused:?}"),
                Some(fault) => assert!(refused.is_some(), "{key}: the schema alone says {fault}"),
            }
        }
    }
}

#[test]
fn a_key_of_another_kind_is_refused_by_both() {
    let schema = schema();
    let mut refused = 0;
    for sample in samples() {
        for list in ["/record/fields", "/features"] {
            let items = sample.pointer(list).unwrap().as_array().unwrap();
            for (at, own) in items.iter().enumerate() {
                for (name, value) in items.iter().flat_map(|item| item.as_object().unwrap()) {
                    if !own[name].is_null() {
                        continue;
                    }
                    let mut file = sample.clone();
                    file.pointer_mut(list).unwrap()[at][name] = value.clone();
                    let parsed = parse(&file).err().map(|error| error.to_string());
                    let found = fault(&schema, &file);
                    assert_eq!(
                        parsed.is_some(),
                        found.is_some(),
                        "{own} {name}: {parsed:?} {found:?}"
                    );
                    refused += usize::from(found.is_some());
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_format_that_is_not_read_yet_is_refused_by_both() {
    for format in [json!(0), json!(2), json!(1.5), json!(-1), json!("1")] {
        let mut file = samples().remove(0);
        file["format"] = format;
        assert!(
            parse(&file).is_err() && fault(&schema(), &file).is_some(),
            "{file}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_parser_takes_the_schema_takes(value in pipeline()) {
        let parsed = parse(&value).unwrap();
        prop_assert_eq!(fault(&schema(), &value), None);
        let canonical: Value = serde_json::from_str(&parsed.canonical()).unwrap();
        prop_assert_eq!(fault(&schema(), &canonical), None);
    }
}
