//! A pipeline file after reading: plain data with the defaults filled in.
//!
//! Its serialised form is the canonical form that is hashed, with the names of the TOML file: a
//! change of a name or of the order of fields here changes the hash of every pipeline.

use quadrille_proto::{Field, FieldType};
use serde::{Serialize, Serializer};

use crate::time::duration_text;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Spec {
    pub name: String,
    pub record: RecordSpec,
    pub features: Vec<FeatureSpec>,
    pub model: ModelSpec,
    pub decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Of no consequence for a prediction, so not in the canonical form.
    #[serde(skip)]
    pub latency_objective_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RecordSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_time: Option<String>,
    pub unknown_fields: UnknownFields,
    #[serde(rename = "future_max", serialize_with = "as_duration")]
    pub future_ms_max: i64,
    pub fields: Vec<FieldSpec>,
}

fn as_duration<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*ms))
}

/// What happens to fields the pipeline does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnknownFields {
    Keep,
    Refuse,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FieldSpec {
    pub name: String,
    #[serde(flatten)]
    pub kind: FieldKind,
    pub required: bool,
}

/// The type of a field, with what only that type has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FieldKind {
    Number(Range),
    Integer(Range),
    Boolean,
    Category {
        categories: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
}

/// The limits of a number, and the values that stand for "not measured".
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Range {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<f64>,
}

impl FieldKind {
    /// For messages.
    pub(crate) fn with_article(&self) -> &'static str {
        match self {
            FieldKind::Number(_) => "a number",
            FieldKind::Integer(_) => "an integer",
            FieldKind::Boolean => "a boolean",
            FieldKind::Category { .. } => "a category",
        }
    }

    /// Whether arithmetic on it means anything.
    pub(crate) fn is_numeric(&self) -> bool {
        matches!(self, FieldKind::Number(_) | FieldKind::Integer(_))
    }

    fn has_markers(&self) -> bool {
        match self {
            FieldKind::Number(range) | FieldKind::Integer(range) => !range.missing.is_empty(),
            FieldKind::Boolean => false,
            FieldKind::Category { missing, .. } => !missing.is_empty(),
        }
    }
}

impl FieldSpec {
    /// Whether null or an empty cell stands for "not measured" rather than for a fault.
    pub(crate) fn may_be_null(&self) -> bool {
        !self.required || self.kind.has_markers()
    }

    pub(crate) fn to_proto(&self) -> Field {
        Field {
            name: self.name.clone(),
            field_type: self.field_type(),
        }
    }

    pub(crate) fn field_type(&self) -> FieldType {
        match &self.kind {
            FieldKind::Number(_) => FieldType::Number,
            FieldKind::Integer(_) => FieldType::Integer,
            FieldKind::Boolean => FieldType::Boolean,
            FieldKind::Category { categories, .. } => FieldType::Category(categories.clone()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FeatureSpec {
    pub name: String,
    #[serde(flatten)]
    pub kind: FeatureKind,
}

/// How a feature comes from the record's fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum FeatureKind {
    Pass {
        field: String,
    },
    Missing {
        field: String,
    },
    OneHot {
        field: String,
    },
    Bucket {
        field: String,
        edges: Vec<f64>,
    },
    Clip {
        field: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    Log {
        field: String,
    },
    Difference {
        field: String,
        minus: String,
    },
    Ratio {
        field: String,
        over: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ModelSpec {
    /// Names of feature outputs; one-hot features are spelled out.
    pub inputs: Vec<String>,
}

/// What a probability means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// A probability of at least this is positive.
    pub threshold: f64,
    /// What the decision is called then.
    pub positive: String,
    /// What it is called otherwise.
    pub negative: String,
}

/// The column of training data that holds the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    pub field: String,
    /// The text that stands for 1.
    pub positive: String,
    /// The text that stands for 0.
    pub negative: String,
}
