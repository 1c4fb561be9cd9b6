//! Schemas: what the positions of a message's values mean. Published on `quadrille.schemas`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::SchemaId;

/// Which message the schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Record,
    Features,
    Prediction,
}

/// How a position's `f64` is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    Number,
    Integer,
    Boolean,
    /// The value is an index into this list.
    Category(Vec<String>),
}

/// One position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub field_type: FieldType,
}

/// The meaning of a message's values, in order. It evolves by adding fields only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub kind: Kind,
    pub pipeline: String,
    pub fields: Vec<Field>,
}

impl Schema {
    /// The canonical form: compact JSON with keys in declaration order.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("a schema holds nothing JSON cannot")
    }

    /// The first 64 bits of the SHA-256 of the canonical form.
    pub fn id(&self) -> SchemaId {
        let hash = Sha256::digest(self.canonical());
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        SchemaId(u64::from_be_bytes(first))
    }

    /// For each name of `wanted`, the position that holds it here.
    pub fn positions(&self, wanted: &Schema) -> Vec<Option<usize>> {
        let at = |name: &str| self.fields.iter().position(|field| field.name == name);
        wanted.fields.iter().map(|field| at(&field.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(names: &[&str]) -> Schema {
        let fields = names
            .iter()
            .map(|name| Field {
                name: (*name).into(),
                field_type: FieldType::Number,
            })
            .collect();
        Schema {
            kind: Kind::Record,
            pipeline: "p".into(),
            fields,
        }
    }

    #[test]
    fn the_id_does_not_change_between_releases() {
        let schema = schema(&["a", "b"]);
        assert_eq!(
            schema.canonical(),
            r#"{"kind":"record","pipeline":"p","fields":[{"name":"a","type":"number"},{"name":"b","type":"number"}]}"#
        );
        assert_eq!(schema.id().to_string(), "9a7c779612307574");
    }

    #[test]
    fn positions_find_a_wider_readers_fields_in_a_narrow_writers() {
        let (narrow, wide) = (schema(&["a", "b"]), schema(&["b", "c", "a"]));
        assert_eq!(narrow.positions(&wide), [Some(1), None, Some(0)]);
    }
}
