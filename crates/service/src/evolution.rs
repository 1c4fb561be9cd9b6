//! Whether a pipeline file is compatible with the schemas that were published before: pure.

use quadrille_pipeline::{Projection, projection::Error};
use quadrille_proto::Schema;

/// Why a schema is incompatible with the published ones of its kind and pipeline; None if it is not. One that was
/// published itself is in use already.
pub(crate) fn contradiction<'a>(
    schema: &Schema,
    published: impl Iterator<Item = &'a Schema> + Clone,
) -> Option<Error> {
    if published.clone().any(|it| it == schema) {
        return None;
    }
    let mut diverged = None;
    for other in published {
        match Projection::new(other, schema) {
            // After a field was removed, others may be added: that only parts it from the oldest ones.
            Ok(_) => diverged = Some(None),
            Err(error @ Error::Diverged { .. }) => {
                diverged.get_or_insert(Some(error));
            }
            Err(error) => return Some(error),
        }
    }
    diverged.flatten()
}

#[cfg(test)]
mod tests {
    use quadrille_proto::{Field, FieldType, Kind};

    use super::*;

    fn schema(fields: &[(&str, &[&str])]) -> Schema {
        let field = |(name, categories): &(&str, &[&str])| Field {
            name: (*name).to_owned(),
            field_type: match categories {
                [] => FieldType::Number,
                some => FieldType::Category(some.iter().map(|it| (*it).to_owned()).collect()),
            },
        };
        Schema {
            kind: Kind::Record,
            pipeline: "p".to_owned(),
            fields: fields.iter().map(field).collect(),
        }
    }

    fn refused(schema: &Schema, published: &[Schema]) -> Option<String> {
        contradiction(schema, published.iter()).map(|it| it.to_string())
    }

    #[test]
    fn fields_and_categories_may_be_added_and_taken_back_again() {
        let old = schema(&[("a", &[]), ("s", &["f", "m"])]);
        let new = schema(&[("b", &[]), ("a", &[]), ("s", &["f", "m", "x"])]);
        assert_eq!(refused(&old, &[]), None);
        assert_eq!(refused(&new, std::slice::from_ref(&old)), None);
        assert_eq!(refused(&old, std::slice::from_ref(&new)), None);
    }

    #[test]
    fn categories_in_another_order_are_refused_though_some_schema_does_not_have_them() {
        let without = schema(&[("a", &[])]);
        let before = schema(&[("a", &[]), ("s", &["f", "m"])]);
        let after = schema(&[("a", &[]), ("s", &["m", "f"])]);
        let why = refused(&after, &[without.clone(), before.clone()]).unwrap();
        assert!(
            why.contains("\"s\"") && why.contains("only at the end"),
            "{why}"
        );
        // Published, it is in use already: by mistake, or because somebody accepted it.
        assert_eq!(refused(&after, &[without, before, after.clone()]), None);
    }

    #[test]
    fn a_field_that_was_renamed_is_refused_and_one_added_after_another_went_is_not() {
        let before = schema(&[("a", &[]), ("b", &[])]);
        let renamed = schema(&[("a", &[]), ("c", &[])]);
        assert!(refused(&renamed, std::slice::from_ref(&before)).is_some());
        let removed = schema(&[("a", &[])]);
        assert_eq!(refused(&renamed, &[before.clone(), removed.clone()]), None);
        assert_eq!(refused(&renamed, &[removed, before]), None);
    }
}
