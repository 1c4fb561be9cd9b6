//! What is kept of a key's records: `[state]`, and the filters that say which records are meant.

use toml::de::DeValue;

use super::duration;
use crate::error::Error;
use crate::keys::{self, EVENTS_MAX_MAX};
use crate::quote::{quote, suggest};
use crate::spec::{
    EVENTS_MAX_DEFAULT, FieldKind, FieldSpec, FilterSpec, Late, RecordSpec, StateSpec, Wanted,
};
use crate::table::{At, Spot};

/// The table, and where it stands.
pub(super) struct State<'a> {
    pub spec: StateSpec,
    pub spot: Spot<'a>,
    /// Where `forget_after` stands.
    pub forget: Option<Spot<'a>>,
}

pub(super) fn read<'a>(
    table: At<'a, DeValue<'a>>,
    record: &RecordSpec,
) -> Result<State<'a>, Error> {
    let spot = table.spot.clone();
    if record.event_time.is_none() {
        let fix =
            "add `event_time = \"…\"` to [record]: records are put in the order of their times";
        return Err(spot.error("needs record.event_time", fix));
    }
    let mut table = table.table(&keys::STATE)?;
    let lateness_ms = table.take("lateness").map(duration).transpose()?;
    let lateness_ms = lateness_ms.unwrap_or_default();
    let late = table.take("late").map(late).transpose()?;
    let forget = table.take("forget_after");
    let forget_spot = forget.as_ref().map(|it| it.spot.clone());
    let forget_after_ms = forget.map(positive).transpose()?;
    if let (Some(spot), Some(after)) = (&forget_spot, forget_after_ms)
        && (after < lateness_ms || after == lateness_ms && lateness_ms > 0)
    {
        let fix = "a late record, or one that comes twice, would find nothing left to belong to: forget later";
        return Err(spot.error("is not longer than lateness", fix));
    }
    let events_max = (table.take("events_max"))
        .map(|it| whole(it, EVENTS_MAX_MAX))
        .transpose()?;
    let filter = |it: Option<_>| it.map(|it| self::filter(it, record)).transpose();
    let spec = StateSpec {
        lateness_ms,
        late: late.unwrap_or(Late::DeadLetter),
        forget_after_ms,
        events_max: events_max.unwrap_or(EVENTS_MAX_DEFAULT),
        emit: filter(table.take("emit"))?,
        reset: filter(table.take("reset"))?,
    };
    Ok(State {
        spec,
        spot,
        forget: forget_spot,
    })
}

fn late<'a>(value: At<'a, DeValue<'a>>) -> Result<Late, Error> {
    let text = value.text()?;
    match text.value.as_str() {
        "dead_letter" => Ok(Late::DeadLetter),
        "absorb" => Ok(Late::Absorb),
        other => {
            let reason = format!("{} is no way to treat late records", quote(other));
            let fix = "write \"dead_letter\" or \"absorb\"";
            Err(text.spot.error(reason, fix))
        }
    }
}

/// A duration that is not 0.
pub(super) fn positive<'a>(value: At<'a, DeValue<'a>>) -> Result<i64, Error> {
    let spot = value.spot.clone();
    match duration(value)? {
        0 => Err(spot.error("is no time at all", "write a duration, as in \"1h\"")),
        ms => Ok(ms),
    }
}

/// A whole number from 1.
pub(super) fn whole<'a>(value: At<'a, DeValue<'a>>, max: u32) -> Result<u32, Error> {
    let number = value.number()?;
    if number.value.fract() != 0.0 || !(1.0..=f64::from(max)).contains(&number.value) {
        let reason = format!("{} is out of range", number.value);
        let fix = format!("write a whole number from 1 to {max}");
        return Err(number.spot.error(reason, fix));
    }
    Ok(number.value as u32)
}

/// Which records are meant: `{ field = "kind", is = ["purchase"] }`.
pub(super) fn filter<'a>(
    table: At<'a, DeValue<'a>>,
    record: &RecordSpec,
) -> Result<FilterSpec, Error> {
    let mut table = table.table(&keys::FILTER)?;
    let name = table.need("field", "field = \"…\"")?.text()?;
    let Some(field) = record.fields.iter().find(|it| it.name == name.value) else {
        let known = record.fields.iter().map(|it| it.name.as_str());
        let reason = format!("unknown field {}", quote(&name.value));
        let fix = suggest(&name.value, "the fields are", known);
        return Err(name.spot.error(reason, fix));
    };
    if !matches!(field.kind, FieldKind::Category { .. } | FieldKind::Boolean) {
        let reason = format!(
            "records cannot be told apart by {}, {}",
            quote(&name.value),
            field.kind.with_article()
        );
        let fix = "use a field of type category or boolean";
        return Err(name.spot.error(reason, fix));
    }
    let list = table.need("is", &format!("is = [{}]", example(field)))?;
    let spot = list.spot.clone();
    let mut is: Vec<Wanted> = Vec::new();
    for value in list.list()? {
        let spot = value.spot.clone();
        let value = wanted(value, field)?;
        if is.contains(&value) {
            return Err(spot.error("is listed twice", "list each value once"));
        }
        is.push(value);
    }
    if is.is_empty() {
        let fix = format!("list at least one value, as in [{}]", example(field));
        return Err(spot.error("is empty", fix));
    }
    // In any order they mean the same, so they must hash the same.
    is.sort();
    Ok(FilterSpec {
        field: name.value,
        is,
    })
}

fn example(field: &FieldSpec) -> String {
    match &field.kind {
        FieldKind::Category { categories, .. } => {
            categories.first().map_or_else(String::new, |it| quote(it))
        }
        _ => "true".to_owned(),
    }
}

fn wanted<'a>(value: At<'a, DeValue<'a>>, field: &FieldSpec) -> Result<Wanted, Error> {
    let FieldKind::Category { categories, .. } = &field.kind else {
        return value.boolean().map(Wanted::Truth);
    };
    let text = value.text()?;
    if categories.contains(&text.value) {
        return Ok(Wanted::Category(text.value));
    }
    let reason = format!(
        "{} is no category of {}",
        quote(&text.value),
        quote(&field.name)
    );
    let known = categories.iter().map(String::as_str);
    let fix = suggest(&text.value, "the categories are", known);
    Err(text.spot.error(reason, fix))
}
