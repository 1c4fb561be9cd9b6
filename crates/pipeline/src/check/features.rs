//! The features: `[[features]]`.

use toml::de::DeValue;

use super::{Checked, Names};
use crate::error::Error;
use crate::quote::{quote, suggest};
use crate::spec::{FeatureKind, FeatureSpec, FieldKind, FieldSpec, RecordSpec};
use crate::table::{At, Table};

const KEYS: [&str; 8] = [
    "name", "kind", "field", "edges", "min", "max", "minus", "over",
];
const KINDS: [&str; 8] = [
    "pass",
    "missing",
    "one_hot",
    "bucket",
    "clip",
    "log",
    "difference",
    "ratio",
];

pub(super) fn read<'a>(
    list: At<'a, DeValue<'a>>,
    record: &RecordSpec,
) -> Result<Vec<Checked>, Error> {
    let spot = list.spot.clone();
    let mut names = Names::new("is already the name of another feature");
    let mut features = Vec::new();
    for mut table in list.tables(&KEYS)? {
        let name = table.take_name("features")?;
        if name.value.contains('=') {
            let reason = format!("{} has an =", quote(&name.value));
            return Err(name
                .spot
                .error(reason, "only outputs of one_hot features have one"));
        }
        names.add(&name, &name.value)?;
        let kind = kind(&mut table, &record.fields)?;
        let spec = FeatureSpec {
            name: name.value.clone(),
            kind,
        };
        let checked = Checked::new(spec, record);
        // Of a vector's values each has a name of its own.
        for output in checked.outputs.iter().filter(|it| **it != name.value) {
            names.add(&name, output)?;
        }
        features.push(checked);
    }
    if features.is_empty() {
        return Err(spot.error("is empty", "describe at least one feature"));
    }
    Ok(features)
}

/// What a feature needs of a field.
#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Anything,
    /// Anything but a vector.
    One,
    Number,
    Category,
}

fn kind(table: &mut Table<'_>, fields: &[FieldSpec]) -> Result<FeatureKind, Error> {
    let name = table.need("kind", "kind = \"pass\"")?.text()?;
    let Some(kind) = KINDS.into_iter().find(|kind| *kind == name.value) else {
        let reason = format!("{} is no kind of feature", quote(&name.value));
        let fix = suggest(&name.value, "the kinds are", KINDS.into_iter());
        return Err(name.spot.error(reason, fix));
    };
    refuse_others(table, kind)?;
    let mut field = |key: &str, wants| field(table, key, kind, wants, fields);
    Ok(match kind {
        "pass" => FeatureKind::Pass {
            field: field("field", Wants::Anything)?,
        },
        "missing" => FeatureKind::Missing {
            field: field("field", Wants::One)?,
        },
        "one_hot" => FeatureKind::OneHot {
            field: field("field", Wants::Category)?,
        },
        "log" => FeatureKind::Log {
            field: field("field", Wants::Number)?,
        },
        "difference" => FeatureKind::Difference {
            field: field("field", Wants::Number)?,
            minus: field("minus", Wants::Number)?,
        },
        "ratio" => FeatureKind::Ratio {
            field: field("field", Wants::Number)?,
            over: field("over", Wants::Number)?,
        },
        "bucket" => {
            let field = field("field", Wants::Number)?;
            FeatureKind::Bucket {
                field,
                edges: edges(table)?,
            }
        }
        _ => {
            let field = field("field", Wants::Number)?;
            let (min, max) = limits(table)?;
            FeatureKind::Clip { field, min, max }
        }
    })
}

/// Refuses settings that another kind has.
fn refuse_others(table: &mut Table<'_>, kind: &str) -> Result<(), Error> {
    let own: &[(&str, &str)] = &[
        ("edges", "bucket"),
        ("min", "clip"),
        ("max", "clip"),
        ("minus", "difference"),
        ("over", "ratio"),
    ];
    for (key, owner) in own.iter().filter(|(_, owner)| *owner != kind) {
        if let Some(value) = table.take(key) {
            let reason = format!("means nothing for a feature of kind {kind}");
            return Err(value
                .spot
                .error(reason, format!("remove it, or use kind = {owner:?}")));
        }
    }
    Ok(())
}

fn field(
    table: &mut Table<'_>,
    key: &str,
    kind: &str,
    wants: Wants,
    fields: &[FieldSpec],
) -> Result<String, Error> {
    let name = table.need(key, &format!("{key} = \"…\""))?.text()?;
    let Some(field) = fields.iter().find(|field| field.name == name.value) else {
        // The path ends at the feature: `features.mass_log: unknown field "mas"`.
        let mut spot = name.spot.clone();
        spot.path.clone_from(&table.spot.path);
        let known = fields.iter().map(|field| field.name.as_str());
        let reason = format!("unknown field {}", quote(&name.value));
        return Err(spot.error(reason, suggest(&name.value, "the fields are", known)));
    };
    let fits = match wants {
        Wants::Anything => true,
        Wants::One => !matches!(field.kind, FieldKind::Vector { .. }),
        Wants::Number => field.kind.is_numeric(),
        Wants::Category => matches!(field.kind, FieldKind::Category { .. }),
    };
    if fits {
        return Ok(name.value);
    }
    let reason = format!(
        "{kind} cannot be computed from {}, {}",
        quote(&name.value),
        field.kind.with_article()
    );
    let fix = match wants {
        Wants::One => "use another field, or kind = \"pass\"",
        Wants::Category => "use a field of type category, or kind = \"pass\" or \"bucket\"",
        _ => "use a field of type number or integer, or kind = \"one_hot\" or \"pass\"",
    };
    Err(name.spot.error(reason, fix))
}

fn edges(table: &mut Table<'_>) -> Result<Vec<f64>, Error> {
    ascending(table.need("edges", "edges = [18, 40, 65]")?)
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
