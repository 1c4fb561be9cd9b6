//! The features: `[[features]]`.

use toml::de::DeValue;

use super::sources::{Sources, Wants};
use super::state::State;
use super::{Named, Names, look_back};
use crate::error::Error;
use crate::example;
use crate::keys::{self, KINDS};
use crate::quote::{quote, suggest};
use crate::spec::{FeatureKind, FeatureSpec, FieldKind, FieldSpec, Range, RecordSpec};
use crate::table::{At, Spot, Table};

/// What is found on the way.
#[derive(Default)]
pub(super) struct Notes<'a> {
    pub warnings: Vec<Error>,
    /// Where the features that look back stand, in their order.
    pub looking_back: Vec<Spot<'a>>,
}

pub(super) fn read<'a>(
    list: At<'a, DeValue<'a>>,
    record: &RecordSpec,
    state: Option<&State<'_>>,
    notes: &mut Notes<'a>,
) -> Result<Vec<Named>, Error> {
    let spot = list.spot.clone();
    let mut names = Names::new("is already the name of another feature");
    let mut features = Vec::new();
    let tables = list.tables(&keys::FEATURE)?;
    let called = |table: &Table<'_>| table.peek_text("name").map(str::to_owned);
    let all: Vec<String> = tables.iter().filter_map(called).collect();
    for mut table in tables {
        let name = table.take_name("features")?;
        if name.value.contains('=') {
            let reason = format!("{} has an =", quote(&name.value));
            return Err(name
                .spot
                .error(reason, "only outputs of one_hot features have one"));
        }
        names.add(&name, &name.value)?;
        let sources = Sources {
            record,
            earlier: &features,
            all: &all,
        };
        let kind = kind(&mut table, &sources, state)?;
        notes.warnings.extend(doubt(&kind, record, &table.spot));
        if matches!(kind, FeatureKind::LookBack(_)) {
            notes.looking_back.push(table.spot.clone());
        }
        let spec = FeatureSpec {
            name: name.value.clone(),
            kind,
        };
        let checked = Named::new(spec, record);
        // Of a vector's values each has a name of its own.
        for output in checked.outputs.iter().filter(|it| **it != name.value) {
            names.add(&name, output)?;
        }
        features.push(checked);
    }
    if features.is_empty() {
        return Err(spot.error("is empty", "describe at least one feature"));
    }
    let looks_back = |it: &Named| matches!(it.spec.kind, FeatureKind::LookBack(_));
    if let Some(state) = state
        && !features.iter().any(looks_back)
    {
        let fix = "remove it, or add a feature of a kind that does, as `kind = \"count\"`";
        return Err(state
            .spot
            .error("is kept for nothing: no feature looks back", fix));
    }
    Ok(features)
}

fn kind(
    table: &mut Table<'_>,
    sources: &Sources<'_>,
    state: Option<&State<'_>>,
) -> Result<FeatureKind, Error> {
    let name = table.need("kind", "kind = \"pass\"")?.text()?;
    let Some(kind) = KINDS.iter().copied().find(|kind| *kind == name.value) else {
        let reason = format!("{} is no kind of feature", quote(&name.value));
        let fix = suggest(&name.value, "the kinds are", KINDS.iter().copied());
        return Err(name.spot.error(reason, fix));
    };
    table.refuse_others(&keys::FEATURE, kind)?;
    let mut value = |key: &str, wants| sources.value(table, key, kind, wants);
    Ok(match kind {
        "pass" => FeatureKind::Pass {
            field: sources.field(table, kind, Wants::Anything)?,
        },
        "one_hot" => FeatureKind::OneHot {
            field: sources.field(table, kind, Wants::Category)?,
        },
        "missing" => FeatureKind::Missing {
            field: value("field", Wants::One)?,
        },
        "log" => FeatureKind::Log {
            field: value("field", Wants::Number)?,
        },
        "difference" => FeatureKind::Difference {
            field: value("field", Wants::Number)?,
            minus: value("minus", Wants::Number)?,
        },
        "ratio" => FeatureKind::Ratio {
            field: value("field", Wants::Number)?,
            over: value("over", Wants::Number)?,
        },
        "bucket" => {
            let field = value("field", Wants::Number)?;
            let edges = edges(table, &sources.record.fields, &field)?;
            FeatureKind::Bucket { field, edges }
        }
        "clip" => {
            let field = value("field", Wants::Number)?;
            let (min, max) = limits(table)?;
            FeatureKind::Clip { field, min, max }
        }
        _ => FeatureKind::LookBack(look_back::read(table, kind, sources, state)?),
    })
}

/// What a feature does that its author hardly means.
fn doubt(kind: &FeatureKind, record: &RecordSpec, spot: &Spot<'_>) -> Option<Error> {
    match kind {
        FeatureKind::Missing { field } => {
            let (found, _) = record.find(field)?;
            if found.may_be_null() {
                return None;
            }
            let reason = format!(
                "is 0 for every record: field {} is required and has no markers",
                quote(field)
            );
            let fix = match found.kind {
                FieldKind::Boolean => "set required = false at the field, or remove the feature",
                _ => {
                    "set required = false or list markers in missing = […] at the field, or remove the feature"
                }
            };
            Some(spot.error(reason, fix))
        }
        FeatureKind::Bucket { field, edges } => {
            let (found, _) = record.find(field)?;
            let (FieldKind::Number(range) | FieldKind::Integer(range)) = &found.kind else {
                return None;
            };
            let (edge, why) = edges
                .iter()
                .find_map(|edge| Some((edge, beyond(*edge, range)?)))?;
            let reason = format!(
                "edge {edge} divides nothing: field {} is {why}",
                quote(field)
            );
            Some(spot.error(reason, "remove the edge, or widen the field's limits"))
        }
        _ => None,
    }
}

/// Why all values of a field are on one side of an edge.
fn beyond(edge: f64, range: &Range) -> Option<String> {
    match (range.min, range.max) {
        (Some(min), _) if edge <= min => Some(format!("at least {min}")),
        (_, Some(max)) if edge > max => Some(format!("at most {max}")),
        _ => None,
    }
}

fn edges(table: &mut Table<'_>, fields: &[FieldSpec], name: &str) -> Result<Vec<f64>, Error> {
    let field = fields.iter().find(|field| field.name == name);
    let example = field.map_or_else(|| "…".to_owned(), example::edges);
    ascending(table.need("edges", &format!("edges = [{example}]"))?)
}

/// Numbers, each greater than the one before; at least one.
pub(super) fn ascending<'a>(list: At<'a, DeValue<'a>>) -> Result<Vec<f64>, Error> {
    let spot = list.spot.clone();
    let edges = list.numbers()?;
    if edges.is_empty() {
        return Err(spot.error("is empty", "list at least one edge"));
    }
    for pair in edges.windows(2) {
        if pair[0].value >= pair[1].value {
            let reason = format!("{} comes after {}", pair[1].value, pair[0].value);
            return Err(pair[1]
                .spot
                .error(reason, "list the edges in ascending order"));
        }
    }
    Ok(edges.into_iter().map(|edge| edge.value).collect())
}

fn limits(table: &mut Table<'_>) -> Result<(Option<f64>, Option<f64>), Error> {
    let min = table.take("min").map(At::number).transpose()?;
    let max = table.take("max").map(At::number).transpose()?;
    match (&min, &max) {
        (None, None) => {
            return Err(table
                .spot
                .error("clip has no limit", "add min, max or both"));
        }
        (Some(min), Some(max)) if min.value > max.value => {
            let reason = format!("{} is less than min ({})", max.value, min.value);
            return Err(max.spot.error(reason, "swap or widen them"));
        }
        _ => {}
    }
    Ok((min.map(|min| min.value), max.map(|max| max.value)))
}
