//! An explanation for people, and for machines.

use quadrille_model::{Attribution, Contributions, Quantity};
use serde_json::{Value, json};

use super::{Compared, Explanation, place};
use crate::{
    output::{Table, hex},
    preview::cell,
    time::{self, rfc3339},
};

pub fn page(it: &Explanation) -> String {
    let mut parts = vec![headline(it), about(it).to_string(), outputs(it).to_string()];
    match &it.contributions {
        None => {
            parts.push(inputs(it).to_string());
            parts.push("This model cannot say what each input had to do with it.".to_owned());
        }
        Some(contributions) => {
            let method = format!(
                "What each input adds to {}, by {}.",
                quantity(contributions.of),
                contributions.method
            );
            parts.push(method);
            let tables = contributions.outputs.iter();
            parts.extend(tables.map(|attribution| shares(it, attribution).to_string()));
        }
    }
    parts.join("\n\n")
}

fn headline(it: &Explanation) -> String {
    let id = cell(&it.stored.id);
    match it.is_equal() {
        true => format!("{id}: equal, bit for bit"),
        false => format!("{id}: NOT EQUAL to what was recorded"),
    }
}

fn about(it: &Explanation) -> Table {
    let stored = &it.stored;
    let mut table = Table::new(&["pipeline", &cell(&it.pipeline)]);
    let decision = match it.decision == stored.decision {
        true => cell(&stored.decision),
        false => format!("{}, now {}", cell(&stored.decision), cell(&it.decision)),
    };
    for (name, value) in [
        ("key", cell(&stored.key)),
        ("decision", decision),
        (
            "model",
            cell(&format!("{} {}", stored.model, stored.version)),
        ),
        ("variant", cell(&stored.variant)),
        ("predicted at", rfc3339(stored.predicted_at.as_ref())),
        (
            "config",
            format!("{}, of pipeline file and package", hex(&stored.config_hash)),
        ),
        ("pipeline file", file(it)),
        ("scored from", place(stored)),
    ] {
        table.row(vec![name.to_owned(), value]);
    }
    table
}

/// Which version of the pipeline file was used.
fn file(it: &Explanation) -> String {
    let hash = hex(&it.file_sha256);
    match &it.kept {
        None => format!("{hash}, the one given"),
        Some(kept) => format!(
            "{hash}, as the log keeps it since {} (by {}); the one given is another by now",
            time::seconds(kept.at_ms),
            cell(&kept.by)
        ),
    }
}

fn outputs(it: &Explanation) -> Table {
    let mut table = Table::new(&["OUTPUT", "RECORDED", "COMPUTED AGAIN", "DIFFERENCE"]);
    for output in &it.outputs {
        let difference = match output.is_equal() {
            true => "equal".to_owned(),
            false => format!("{:+e}", output.again - output.recorded),
        };
        table.row(vec![
            cell(&output.name),
            output.recorded.to_string(),
            output.again.to_string(),
            difference,
        ]);
    }
    table
}

/// An input as people read it.
fn number(value: f64) -> String {
    match value.is_nan() {
        true => "missing".to_owned(),
        false => value.to_string(),
    }
}

fn inputs(it: &Explanation) -> Table {
    let mut table = Table::new(&["INPUT", "VALUE"]);
    for (name, value) in it.inputs.iter().zip(&it.row) {
        table.row(vec![cell(name), number(*value)]);
    }
    table
}

/// The places of the inputs, the one with the largest share first.
pub fn by_size(shares: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..shares.len()).collect();
    places.sort_by(|a, b| shares[*b].abs().total_cmp(&shares[*a].abs()));
    places
}

fn shares(it: &Explanation, attribution: &Attribution) -> Table {
    let share = |share: f64| format!("{share:+.6}");
    let output = cell(&attribution.output);
    let mut table = Table::new(&["INPUT", "VALUE", &format!("SHARE OF {output}")]);
    for at in by_size(&attribution.inputs) {
        let (Some(name), Some(value)) = (it.inputs.get(at), it.row.get(at)) else {
            continue;
        };
        let part = share(attribution.inputs[at]);
        table.row(vec![cell(name), number(*value), part]);
    }
    let last = |name: &str, value| vec![name.to_owned(), String::new(), share(value)];
    table.row(last("(without any input)", attribution.bias));
    table.row(last("(sum)", attribution.total()));
    table
}

fn quantity(of: Quantity) -> &'static str {
    match of {
        Quantity::Output => "the output",
        Quantity::LogOdds => "the log-odds, the logarithm of p / (1 - p) of the output p",
        Quantity::Score => "the score before the model's last transform",
    }
}

pub fn json(it: &Explanation) -> Value {
    let stored = &it.stored;
    let inputs = it.inputs.iter().zip(&it.row);
    let inputs: Vec<Value> = inputs
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let outputs: Vec<Value> = it.outputs.iter().map(output_json).collect();
    json!({
        "id": stored.id,
        "pipeline": it.pipeline,
        "key": stored.key,
        "equal": it.is_equal(),
        "model": stored.model,
        "version": stored.version,
        "variant": stored.variant,
        "predicted_at": rfc3339(stored.predicted_at.as_ref()),
        "config_hash": hex(&stored.config_hash),
        "pipeline_file": {
            "sha256": hex(&it.file_sha256),
            "from": if it.kept.is_some() { "log" } else { "file" },
            "kept_at": it.kept.as_ref().map(|kept| time::seconds(kept.at_ms)),
            "kept_by": it.kept.as_ref().map(|kept| &kept.by),
        },
        "input_topic": stored.input_topic,
        "input_partition": stored.input_partition,
        "input_offset": stored.input_offset,
        "inputs": inputs,
        "outputs": outputs,
        "decision": {"recorded": stored.decision, "again": it.decision},
        "contributions": it.contributions.as_ref().map(|found| contributions_json(it, found)),
    })
}

fn output_json(output: &Compared) -> Value {
    json!({
        "name": output.name,
        "recorded": output.recorded,
        "again": output.again,
        "equal": output.is_equal(),
        "difference": output.again - output.recorded,
    })
}

fn contributions_json(it: &Explanation, found: &Contributions) -> Value {
    let attribution = |attribution: &Attribution| {
        let places = by_size(&attribution.inputs).into_iter();
        let named = places.filter_map(|at| Some((it.inputs.get(at)?, attribution.inputs[at])));
        let inputs: Vec<Value> = named
            .map(|(name, share)| json!({"name": name, "share": share}))
            .collect();
        json!({
            "output": attribution.output,
            "bias": attribution.bias,
            "inputs": inputs,
            "sum": attribution.total(),
        })
    };
    let of = match found.of {
        Quantity::Output => "output",
        Quantity::LogOdds => "log-odds",
        Quantity::Score => "score",
    };
    let outputs: Vec<Value> = found.outputs.iter().map(attribution).collect();
    json!({"method": found.method, "of": of, "outputs": outputs})
}
