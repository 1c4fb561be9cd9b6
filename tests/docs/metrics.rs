//! `docs/reference/metrics.md`: every metric, as the services register it and `/metrics` shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use quadrille_telemetry::{
    Registry,
    metrics::{
        AskedBy, Committed, FeatureMetrics, LoopMetrics, Missed, ModelState, PortMetrics,
        RequestMetrics, ServingMetrics, StandbysMetrics, StateMetrics,
    },
};

use crate::{files, generated, options};

const INTRODUCTION: &str = "\
`GET /metrics` of each service is OpenMetrics text under the names below. The same metrics are pushed to an OpenTelemetry collector
under OpenTelemetry's names (with dots, without the unit) where [one is set](configuration.md#telemetry-and-logs). Base units: seconds, bytes. A counter's series ends in
`_total`; a histogram has `_bucket`, `_sum` and `_count`. The buckets of durations carry the id of one trace as an exemplar, where records are traced.
No label holds the id or the key of a record, so the number of series follows from the pipelines, partitions, lanes and model versions alone.
";

const GROUPS: [&str; 7] = [
    "Records, batches and lag: every service",
    "Requests: every service",
    "The port: every service",
    "Features on request: feature",
    "Models and deployments: inference",
    "State of pipelines that look back: feature",
    "Standbys: feature, where QUADRILLE_STANDBY is all",
];

/// Registered only where traces are exported, which a test does not do.
const OF_EXPORT: &str = "\
## Export of traces: every service that exports them

| metric | type | labels | meaning |
| --- | --- | --- | --- |
| `otel_sdk_processor_span_processed_total` | counter | `error_type` | Spans that ended; `error_type=\"queue_full\"`: dropped, because the collector is too slow. |
| `otel_sdk_exporter_span_exported_total` | counter | `error_type` | Spans that the collector took; `error_type=\"rejected\"`: it did not take them. |
";

#[derive(Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: String,
    labels: BTreeSet<String>,
}

/// One group each: what is registered, with a sample in every family, since a family without one is not shown.
fn registries() -> [Registry; 7] {
    let all = std::array::from_fn(|_| Registry::default());
    let [
        of_loop,
        of_requests,
        of_port,
        of_features,
        of_models,
        of_state,
        of_standbys,
    ] = &all;
    let stage = LoopMetrics::register(of_loop).stage("p", "g", "t");
    stage.committed(&Committed {
        age: Some(Duration::ZERO),
        ..Committed::default()
    });
    stage.dead_letters("r", 1);
    stage.absorbed("r", 1);
    stage.extras_dropped("r", 1);
    stage.lag(0, 0, Duration::ZERO);
    stage.queue(0, 0);

    let requests = RequestMetrics::register(of_requests);
    requests.rpc("m", "OK").observe(Duration::ZERO, None);
    requests.http("GET", "/", 200, Duration::ZERO, None);

    let port = PortMetrics::register(of_port);
    port.connections(0);
    port.refused("r");

    let features = FeatureMetrics::register(of_features);
    features.request("p", AskedBy::Client, "o");

    let serving = ServingMetrics::register(of_models);
    serving.state("m", "1", Some(ModelState::Ready));
    serving.swapped("p", 1);
    serving.view_age(Some(Duration::ZERO));
    serving.loaded(Duration::ZERO);
    serving.load_failed("s");
    let variant = serving.variant("p", "live", "m", "1");
    variant.scored(1);
    variant.missed(Missed::Budget, 1);
    serving.times("m", "1").compute(Duration::ZERO);
    serving.queue("m", "1").closed("size", 1, Duration::ZERO);

    StateMetrics::register(of_state).pipeline("p");
    let standbys = StandbysMetrics::register(of_standbys).pipeline("p");
    standbys.partitions(0, 0);
    standbys.lag(0, 0);
    all
}

pub fn page() -> String {
    let export = files::read("crates/telemetry/src/traces/export.rs");
    for name in OF_EXPORT.split('`').filter(|it| it.starts_with("otel_")) {
        let base = name.trim_end_matches("_total").replace('_', ".");
        assert!(export.contains(&base), "{base} is not registered");
    }
    let mut text = INTRODUCTION.to_owned();
    for (title, registry) in GROUPS.into_iter().zip(registries()) {
        let families = families(&registry.encode());
        let shown: BTreeSet<&String> = families.keys().collect();
        let registered = registry.names();
        let registered: BTreeSet<&String> = registered.iter().collect();
        assert_eq!(shown, registered, "give each a sample in registries()");
        let _ = write!(
            text,
            "\n## {title}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
        );
        for (name, family) in &families {
            let end = if family.kind == "counter" {
                "_total"
            } else {
                ""
            };
            let unit = family.unit.as_ref().map(|unit| format!(", {unit}"));
            let labels: Vec<String> = family.labels.iter().map(|it| format!("`{it}`")).collect();
            let _ = writeln!(
                text,
                "| `{name}{end}` | {}{} | {} | {} |",
                family.kind,
                unit.unwrap_or_default(),
                labels.join(", "),
                options::escaped(&family.help),
            );
        }
    }
    text.push('\n');
    text.push_str(OF_EXPORT);
    generated("Metrics", &text)
}

/// OpenMetrics text, read back.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (Some(what), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let value = words.next().unwrap_or_default().to_owned();
            last = name.to_owned();
            let family = families.entry(last.clone()).or_default();
            match what {
                "HELP" => family.help = value,
                "TYPE" => family.kind = value,
                "UNIT" => family.unit = Some(value),
                other => panic!("{other} in {line}"),
            }
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|pair| pair.split_once('='));
            let names = names
                .map(|(name, _)| name.to_owned())
                .filter(|name| name != "le");
            families
                .entry(last.clone())
                .or_default()
                .labels
                .extend(names);
        }
    }
    families
}
