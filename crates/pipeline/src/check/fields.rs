//! The fields of a record: `[[record.fields]]`.

use std::collections::HashSet;

use toml::de::DeValue;

use super::Names;
use crate::error::Error;
use crate::keys::{self, TYPES, VECTOR_LENGTH_MAX};
use crate::quote::{quote, suggest};
use crate::spec::{FieldKind, FieldSpec, Range, element_names};
use crate::table::{At, Table, WHOLE_MAX, check_name};

pub(super) fn read<'a>(
    list: At<'a, DeValue<'a>>,
    names: &mut Names,
) -> Result<Vec<FieldSpec>, Error> {
    let spot = list.spot.clone();
    let mut fields = Vec::new();
    for mut table in list.tables(&keys::FIELD)? {
        let name = table.take_name("record.fields")?;
        names.add(&name, &name.value)?;
        let required = table
            .take("required")
            .map(At::boolean)
            .transpose()?
            .unwrap_or(true);
        let kind = kind(&mut table)?;
        if let FieldKind::Vector { length, .. } = &kind {
            for element in element_names(&name.value, *length) {
                names.add(&name, &element)?;
            }
        }
        fields.push(FieldSpec {
            name: name.value,
            kind,
            required,
        });
    }
    if fields.is_empty() {
        return Err(spot.error("is empty", "describe at least one field"));
    }
    Ok(fields)
}

fn kind(table: &mut Table<'_>) -> Result<FieldKind, Error> {
    let kind = table.need("type", "type = \"number\"")?.text()?;
    if TYPES.contains(&kind.value.as_str()) {
        table.refuse_others(&keys::FIELD, &kind.value)?;
    }
    match kind.value.as_str() {
        "number" => Ok(FieldKind::Number(range(table, Whole::No)?)),
        "integer" => Ok(FieldKind::Integer(range(table, Whole::Yes)?)),
        "boolean" => Ok(FieldKind::Boolean),
        "category" => category(table),
        "vector" => vector(table),
        other => {
            let reason = format!("{} is no type", quote(other));
            Err(kind.spot.error(
                reason,
                suggest(other, "the types are", TYPES.iter().copied()),
            ))
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Whole {
    Yes,
    No,
}

fn range(table: &mut Table<'_>, whole: Whole) -> Result<Range, Error> {
    let number = |value: At<'_, f64>| {
        if whole == Whole::Yes && (value.value.fract() != 0.0 || value.value.abs() > WHOLE_MAX) {
            let reason = format!("{} is not a whole number", value.value);
            return Err(value
                .spot
                .error(reason, "round it, or use type = \"number\""));
        }
        Ok(value.value)
    };
    let min = table
        .take("min")
        .map(|min| number(min.number()?))
        .transpose()?;
    let max = table
        .take("max")
        .map(|max| Ok((max.spot.clone(), number(max.number()?)?)));
    let max = max.transpose()?;
    if let (Some(min), Some((spot, max))) = (min, &max)
        && min > *max
    {
        return Err(spot.error(
            format!("{max} is less than min ({min})"),
            "swap or widen them",
        ));
    }
    let mut missing: Vec<f64> = Vec::new();
    for marker in table
        .take("missing")
        .map(At::numbers)
        .transpose()?
        .unwrap_or_default()
    {
        let (spot, value) = (marker.spot.clone(), number(marker)?);
        if missing.contains(&value) {
            return Err(spot.error(format!("has {value} twice"), "list each marker once"));
        }
        missing.push(value);
    }
    // In any order they mean the same, so they must hash the same.
    missing.sort_by(f64::total_cmp);
    Ok(Range {
        min,
        max: max.map(|(_, max)| max),
        missing,
    })
}

fn vector(table: &mut Table<'_>) -> Result<FieldKind, Error> {
    let length = table.need("length", "length = 64")?.number()?;
    let max = VECTOR_LENGTH_MAX;
    if length.value.fract() != 0.0 || !(1.0..=max as f64).contains(&length.value) {
        let reason = format!("{} is no length of a vector", length.value);
        let fix = format!("write a whole number from 1 to {max}");
        return Err(length.spot.error(reason, fix));
    }
    Ok(FieldKind::Vector {
        length: length.value as usize,
        range: range(table, Whole::No)?,
    })
}

fn category(table: &mut Table<'_>) -> Result<FieldKind, Error> {
    let list = table.need("categories", "categories = [\"…\"]")?;
    let spot = list.spot.clone();
    let mut seen = HashSet::new();
    let categories = distinct(list.texts()?, &mut seen)?;
    if categories.is_empty() {
        return Err(spot.error("is empty", "list the values the field may have"));
    }
    let missing = table
        .take("missing")
        .map(At::texts)
        .transpose()?
        .unwrap_or_default();
    let mut missing = distinct(missing, &mut seen)?;
    missing.sort();
    Ok(FieldKind::Category {
        categories,
        missing,
    })
}

fn distinct(texts: Vec<At<'_, String>>, seen: &mut HashSet<String>) -> Result<Vec<String>, Error> {
    let mut values = Vec::new();
    for text in texts {
        check_name(&text)?;
        if text.value.trim() != text.value {
            let reason = format!("{} begins or ends with a space", quote(&text.value));
            return Err(text.spot.error(reason, "remove the space"));
        }
        if !seen.insert(text.value.clone()) {
            let reason = format!("{} is listed twice", quote(&text.value));
            return Err(text
                .spot
                .error(reason, "a value is one category or one marker"));
        }
        values.push(text.value);
    }
    Ok(values)
}
