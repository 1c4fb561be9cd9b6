//! TOML with places: tables and values that remember their path and line, for the messages.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Error;
use crate::keys::{Keys, NAME_LEN_MAX};
use crate::quote::{quote, suggest};

/// The whole numbers an `f64` holds exactly lie between this and its negative.
pub(crate) const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;

/// A file's name and text.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

/// Where something stands.
#[derive(Clone)]
pub(crate) struct Spot<'a> {
    source: Source<'a>,
    offset: usize,
    pub path: String,
}

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct At<'a, T> {
    pub value: T,
    pub spot: Spot<'a>,
}

/// A table whose keys are all known.
pub(crate) struct Table<'a> {
    entries: DeTable<'a>,
    pub spot: Spot<'a>,
}

impl<'a> Source<'a> {
    /// The whole file, as a table that is still to be opened.
    pub(crate) fn root(self) -> Result<At<'a, DeValue<'a>>, Error> {
        let at = |offset| Spot {
            source: self,
            offset,
            path: String::new(),
        };
        let table = DeTable::parse(self.text).map_err(|error| {
            let spot = at(error.span().map_or(0, |span| span.start));
            spot.error(format!("not TOML: {}", error.message()), "correct the line")
        })?;
        Ok(At {
            value: DeValue::Table(table.into_inner()),
            spot: at(0),
        })
    }
}

impl<'a> Spot<'a> {
    pub(crate) fn error(&self, reason: impl Into<String>, fix: impl Into<String>) -> Error {
        let text = self.source.text;
        let before = &text[..text.floor_char_boundary(self.offset)];
        let line = before.rsplit('\n').next().unwrap_or_default();
        Error {
            file: self.source.file.to_owned(),
            line: Some(1 + before.matches('\n').count()),
            column: u32::try_from(1 + line.chars().count()).ok(),
            field: self.path.clone(),
            reason: reason.into(),
            fix: fix.into(),
        }
    }

    /// The file's name without folder and ending.
    pub(crate) fn file_stem(&self) -> &'a str {
        let stem = Path::new(self.source.file).file_stem();
        stem.and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    fn child(&self, key: &str, offset: usize) -> Spot<'a> {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Spot {
            source: self.source,
            offset,
            path,
        }
    }
}

impl<'a> Table<'a> {
    fn open(spot: Spot<'a>, entries: DeTable<'a>, keys: &Keys) -> Result<Self, Error> {
        let known = |name: &str| keys.names().any(|key| key == name);
        let unknown = entries.keys().filter(|key| !known(key.get_ref().as_ref()));
        if let Some(key) = unknown.min_by_key(|key| key.span().start) {
            let name = key.get_ref();
            let spot = Spot {
                offset: key.span().start,
                ..spot
            };
            let fix = suggest(name, "the keys here are", keys.names());
            return Err(spot.error(format!("unknown key {}", quote(name)), fix));
        }
        Ok(Table { entries, spot })
    }

    /// The value of a key, if it is there.
    pub(crate) fn take(&mut self, key: &str) -> Option<At<'a, DeValue<'a>>> {
        let value = self.entries.remove(key)?;
        Some(at(&self.spot, key, value))
    }

    /// A key's text, if that is what it has.
    pub(crate) fn peek_text(&self, key: &str) -> Option<&str> {
        match self.entries.get(key)?.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key that must be there; `example` shows how it is written.
    pub(crate) fn need(&mut self, key: &str, example: &str) -> Result<At<'a, DeValue<'a>>, Error> {
        match self.take(key) {
            Some(value) => Ok(value),
            None => Err(self.spot.error(
                format!("{} is missing", quote(key)),
                format!("add `{example}`"),
            )),
        }
    }

    /// Refuses keys that mean something only for another kind than this.
    pub(crate) fn refuse_others(&mut self, keys: &Keys, kind: &str) -> Result<(), Error> {
        let Some(selector) = &keys.selector else {
            return Ok(());
        };
        let has = |name: &str| {
            let mut keys = keys.keys.iter().filter(|key| key.name == name);
            keys.any(|key| key.kinds.is_empty() || key.kinds.contains(&kind))
        };
        for key in keys.keys.iter().filter(|key| !has(key.name)) {
            let Some(value) = self.take(key.name) else {
                continue;
            };
            let (name, thing) = (selector.key, selector.thing);
            let fix = match key.kinds {
                [owner] => format!("remove it, or use {name} = {owner:?}"),
                _ => format!("remove it, or change the {name}"),
            };
            let reason = format!("means nothing for a {thing} of {name} {kind}");
            return Err(value.spot.error(reason, fix));
        }
        Ok(())
    }

    /// The name of this table's item, which becomes part of its path in messages.
    pub(crate) fn take_name(&mut self, list: &str) -> Result<At<'a, String>, Error> {
        let mut name = self.need("name", "name = \"…\"")?.text()?;
        self.spot.path = format!("{list}.{}", crate::quote::cut(&name.value));
        name.spot.path.clone_from(&self.spot.path);
        check_name(&name)?;
        Ok(name)
    }
}

fn at<'a>(parent: &Spot<'a>, key: &str, value: Spanned<DeValue<'a>>) -> At<'a, DeValue<'a>> {
    let spot = parent.child(key, value.span().start);
    At {
        value: value.into_inner(),
        spot,
    }
}

/// Names of fields and features: short, printable.
pub(crate) fn check_name(name: &At<'_, String>) -> Result<(), Error> {
    let text = &name.value;
    if text.is_empty() || text.len() > NAME_LEN_MAX || text.chars().any(char::is_control) {
        return Err(name.spot.error(
            format!("{} cannot be a name", quote(text)),
            format!("use 1 to {NAME_LEN_MAX} bytes without control characters"),
        ));
    }
    Ok(())
}

impl<'a> At<'a, DeValue<'a>> {
    fn wrong_type(&self, wanted: &str) -> Error {
        let got = match &self.value {
            DeValue::String(text) => format!("the string {}", quote(text)),
            DeValue::Integer(number) => {
                format!("the integer {}", crate::quote::cut(number.as_str()))
            }
            DeValue::Float(number) => format!("the number {}", crate::quote::cut(number.as_str())),
            DeValue::Boolean(truth) => format!("the boolean {truth}"),
            DeValue::Datetime(_) => "a date or time".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.spot
            .error(format!("is {got}"), format!("write {wanted}"))
    }

    pub(crate) fn text(self) -> Result<At<'a, String>, Error> {
        match self.value {
            DeValue::String(text) => Ok(At {
                value: text.into_owned(),
                spot: self.spot,
            }),
            _ => Err(self.wrong_type("a string in quotes")),
        }
    }

    /// A key's value, where this is a table.
    pub(crate) fn peek(&self, key: &str) -> Option<At<'a, DeValue<'a>>> {
        match &self.value {
            DeValue::Table(entries) => Some(at(&self.spot, key, entries.get(key)?.clone())),
            _ => None,
        }
    }

    pub(crate) fn boolean(self) -> Result<bool, Error> {
        match self.value {
            DeValue::Boolean(truth) => Ok(truth),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A finite number, whole or not; -0 is 0.
    pub(crate) fn number(self) -> Result<At<'a, f64>, Error> {
        let number = match &self.value {
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|whole| whole as f64)
                .filter(|whole| whole.abs() <= WHOLE_MAX),
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => return Err(self.wrong_type("a number")),
        };
        match number {
            Some(number) if number.is_finite() => Ok(At {
                value: number + 0.0,
                spot: self.spot,
            }),
            _ => Err(self.wrong_type("a finite number, if whole between -2^53 and 2^53")),
        }
    }

    pub(crate) fn list(self) -> Result<Vec<At<'a, DeValue<'a>>>, Error> {
        match self.value {
            DeValue::Array(items) => {
                let spot = |offset| Spot {
                    offset,
                    ..self.spot.clone()
                };
                let item = |item: Spanned<DeValue<'a>>| At {
                    spot: spot(item.span().start),
                    value: item.into_inner(),
                };
                Ok(items.into_iter().map(item).collect())
            }
            _ => Err(self.wrong_type("a list in brackets")),
        }
    }

    pub(crate) fn texts(self) -> Result<Vec<At<'a, String>>, Error> {
        self.list()?.into_iter().map(At::text).collect()
    }

    pub(crate) fn numbers(self) -> Result<Vec<At<'a, f64>>, Error> {
        self.list()?.into_iter().map(At::number).collect()
    }

    pub(crate) fn table(self, keys: &Keys) -> Result<Table<'a>, Error> {
        match self.value {
            DeValue::Table(entries) => Table::open(self.spot, entries, keys),
            _ => {
                let wanted = format!("a table, `[{}]`", self.spot.path);
                Err(self.wrong_type(&wanted))
            }
        }
    }

    /// The tables of a `[[list]]`.
    pub(crate) fn tables(self, keys: &Keys) -> Result<Vec<Table<'a>>, Error> {
        match self.value {
            DeValue::Array(_) => self
                .list()?
                .into_iter()
                .map(|item| item.table(keys))
                .collect(),
            _ => {
                let wanted = format!("a list of tables, `[[{}]]`", self.spot.path);
                Err(self.wrong_type(&wanted))
            }
        }
    }
}
