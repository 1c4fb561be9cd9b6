//! What lies under deploy/ and docs/ fits the services: metrics that exist, pages for alerts, valid JSON.

use std::{collections::BTreeSet, fs, path::PathBuf};

use quadrille_telemetry::{
    Registry,
    metrics::{
        FeatureMetrics, LoopMetrics, PortMetrics, RequestMetrics, ServingMetrics, StandbysMetrics,
        StateMetrics,
    },
};

const RULES: &str = "deploy/prometheus/rules/quadrille.yml";
const DASHBOARDS: &str = "deploy/grafana/dashboards";
/// Of a histogram's or a counter's series.
const ENDS: [&str; 4] = ["_bucket", "_count", "_sum", "_total"];
const BEGINS: [&str; 5] = ["http_", "kafka_", "messaging_", "quadrille_", "rpc_"];

fn place(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(place(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboards() -> Vec<(PathBuf, serde_json::Value)> {
    let files = fs::read_dir(place(DASHBOARDS)).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    files
        .map(|path| {
            let text = fs::read_to_string(&path).expect("text");
            let json = serde_json::from_str(&text);
            let json = json.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, json)
        })
        .collect()
}

/// The names of metrics in PromQL, labels left out.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_word(c));
    let named = words.filter(|word| BEGINS.iter().any(|begin| word.starts_with(begin)));
    let base = |word: &str| {
        let end = ENDS.iter().find(|end| word.ends_with(*end));
        word[..word.len() - end.map_or(0, |end| end.len())].to_owned()
    };
    named.map(base).collect()
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                match value {
                    serde_json::Value::String(text) if key == "expr" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn rules_and_dashboards_name_metrics_that_the_services_have() {
    let registry = Registry::default();
    LoopMetrics::register(&registry);
    RequestMetrics::register(&registry);
    ServingMetrics::register(&registry);
    PortMetrics::register(&registry);
    StateMetrics::register(&registry);
    FeatureMetrics::register(&registry);
    StandbysMetrics::register(&registry);
    let mut known: BTreeSet<String> = registry.names().into_iter().collect();
    // Labels that begin as metrics do.
    known.extend(
        [
            "rpc_method",
            "rpc_response_status_code",
            "http_route",
            "http_response_status_code",
        ]
        .map(str::to_owned),
    );
    let mut texts = vec![read(RULES)];
    for (path, dashboard) in dashboards() {
        let before = texts.len();
        expressions(&dashboard, &mut texts);
        assert!(texts.len() > before, "{} shows something", path.display());
    }
    for text in texts {
        let unknown: Vec<String> = metrics(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
    }
}

#[test]
fn every_alert_has_its_page() {
    let rules = read(RULES);
    let alerts = rules.matches("- alert:").count();
    let pages = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: "));
    let pages: Vec<&str> = pages.collect();
    assert_eq!(pages.len(), alerts);
    for page in pages {
        assert!(place(page).is_file(), "{page}");
    }
}
