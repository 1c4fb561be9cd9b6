//! What a feature is computed from: a field of the record, or a feature that stands before it.

use quadrille_proto::FieldType;
use toml::de::DeValue;

use super::Named;
use crate::error::Error;
use crate::feature::outputs;
use crate::quote::{quote, suggest};
use crate::spec::{FieldKind, FieldSpec, RecordSpec};
use crate::table::{At, Table};

/// What a feature may name.
pub(super) struct Sources<'s> {
    pub record: &'s RecordSpec,
    /// The features that stand before it.
    pub earlier: &'s [Named],
    /// The names of all features.
    pub all: &'s [String],
}

/// What a feature needs of a field.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wants {
    Anything,
    /// Anything but a vector.
    One,
    Number,
    Category,
}

impl Sources<'_> {
    /// The field of the record that a feature names.
    pub fn field(&self, table: &mut Table<'_>, kind: &str, wants: Wants) -> Result<String, Error> {
        let name = table.need("field", "field = \"…\"")?;
        self.found(name, table, kind, wants)
    }

    /// As [`Sources::field`], where a feature need not name one.
    pub fn field_if_there(
        &self,
        table: &mut Table<'_>,
        kind: &str,
        wants: Wants,
    ) -> Result<Option<String>, Error> {
        let name = table.take("field");
        name.map(|name| self.found(name, table, kind, wants))
            .transpose()
    }

    fn found<'a>(
        &self,
        name: At<'a, DeValue<'a>>,
        table: &Table<'_>,
        kind: &str,
        wants: Wants,
    ) -> Result<String, Error> {
        let name = name.text()?;
        match self.of_record(&name.value) {
            Some(field) => fitting(name, field, kind, wants),
            None if self.all.contains(&name.value) => {
                let reason = format!("{} is a feature", quote(&name.value));
                let fix = format!("{kind} is computed from a field of the record: name one");
                Err(name.spot.error(reason, fix))
            }
            None => {
                let known = self.record.fields.iter().map(|it| it.name.as_str());
                Err(unknown(&name, table, "the fields are", known))
            }
        }
    }

    /// The field of the record, or else the feature before this one, that a feature names.
    pub fn value(
        &self,
        table: &mut Table<'_>,
        key: &str,
        kind: &str,
        wants: Wants,
    ) -> Result<String, Error> {
        let name = table.need(key, &format!("{key} = \"…\""))?.text()?;
        if let Some(field) = self.of_record(&name.value) {
            return fitting(name, field, kind, wants);
        }
        if let Some(feature) = self.earlier.iter().find(|it| it.spec.name == name.value) {
            return self.of_feature(name, feature, kind);
        }
        if self.all.contains(&name.value) {
            let reason = format!(
                "{} is a feature that does not stand before this one",
                quote(&name.value)
            );
            let fix = "features are computed in the file's order: move it up";
            return Err(name.spot.error(reason, fix));
        }
        let fields = self.record.fields.iter().map(|it| it.name.as_str());
        let one = |it: &&Named| it.outputs.len() == 1;
        let features = self.earlier.iter().filter(one);
        let known = fields.chain(features.map(|it| it.spec.name.as_str()));
        let what = match self.earlier.iter().any(|it| one(&it)) {
            true => "the fields and the features before it are",
            false => "the fields are",
        };
        Err(unknown(&name, table, what, known))
    }

    fn of_record(&self, name: &str) -> Option<&FieldSpec> {
        self.record.fields.iter().find(|it| it.name == name)
    }

    fn of_feature(
        &self,
        name: At<'_, String>,
        feature: &Named,
        kind: &str,
    ) -> Result<String, Error> {
        match &outputs(&feature.spec, self.record)[..] {
            [one] if matches!(one.field_type, FieldType::Category(_)) && kind != "missing" => {
                let reason = format!(
                    "{kind} cannot be computed from {}, a category",
                    quote(&name.value)
                );
                Err(name.spot.error(reason, "use a feature that is a number"))
            }
            [_] => Ok(name.value),
            all => {
                let reason = format!("feature {} has {} outputs", quote(&name.value), all.len());
                let fix = "use a feature with one output, or a field of the record";
                Err(name.spot.error(reason, fix))
            }
        }
    }
}

fn unknown<'n>(
    name: &At<'_, String>,
    table: &Table<'_>,
    what: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) -> Error {
    // The path ends at the feature: `features.mass_log: unknown field "mas"`.
    let mut spot = name.spot.clone();
    spot.path.clone_from(&table.spot.path);
    let reason = format!("unknown field {}", quote(&name.value));
    spot.error(reason, suggest(&name.value, what, known))
}

fn fitting(
    name: At<'_, String>,
    field: &FieldSpec,
    kind: &str,
    wants: Wants,
) -> Result<String, Error> {
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
        _ if crate::keys::LOOKING_BACK.contains(&kind) => {
            "use a field of type number or integer, or kind = \"count\", \"last\" or \"distinct\""
        }
        _ => "use a field of type number or integer, or kind = \"one_hot\" or \"pass\"",
    };
    Err(name.spot.error(reason, fix))
}
