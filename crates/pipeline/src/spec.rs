//! A pipeline file after reading: plain data with the defaults filled in.
//!
//! It has two halves. [`Spec`] is what defines a prediction: its serialised form is the canonical form that is hashed, with
//! the names of the TOML file, so a change of a name or of the order of fields there changes the hash of every pipeline.
//! [`Operate`] is how the pipeline is operated: no hash knows it, so it may be edited while models serve.

mod look_back;

pub use look_back::Late;
pub(crate) use look_back::{
    Current, EVENTS_MAX_DEFAULT, FilterSpec, Function, LookBack, StateSpec, Wanted, Window,
};
use quadrille_proto::{Field, FieldType};
use serde::{Serialize, Serializer};

use crate::time::{Bounds, duration_ms, duration_text};

/// Older than any record that is replayed, and younger than seconds of this century taken for milliseconds.
pub(crate) const PAST_MAX_DEFAULT: &str = "10000d";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Spec {
    pub name: String,
    pub record: RecordSpec,
    /// Only where a feature looks back: pipelines of before there were such keep their hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSpec>,
    pub features: Vec<FeatureSpec>,
    pub model: ModelSpec,
    pub decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
}

/// `[operate]`: of no consequence for a prediction.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Operate {
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
    /// The default is not in the canonical form: pipelines of before it keep their hash.
    #[serde(
        rename = "past_max",
        serialize_with = "as_duration",
        skip_serializing_if = "is_past_default"
    )]
    pub past_ms_max: i64,
    pub fields: Vec<FieldSpec>,
}

fn is_past_default(ms: &i64) -> bool {
    Some(*ms) == duration_ms(PAST_MAX_DEFAULT)
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
    /// So many numbers under one name: an image, row by row. Each is a position of its own.
    Vector {
        length: usize,
        #[serde(flatten)]
        range: Range,
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
            FieldKind::Vector { .. } => "a vector",
        }
    }

    /// Whether arithmetic on it means anything.
    pub(crate) fn is_numeric(&self) -> bool {
        matches!(self, FieldKind::Number(_) | FieldKind::Integer(_))
    }

    /// The values that stand for "not measured".
    pub(crate) fn markers(&self) -> (&[f64], &[String]) {
        match self {
            FieldKind::Number(range)
            | FieldKind::Integer(range)
            | FieldKind::Vector { range, .. } => (&range.missing, &[]),
            FieldKind::Boolean => (&[], &[]),
            FieldKind::Category { missing, .. } => (&[], missing),
        }
    }

    fn has_markers(&self) -> bool {
        let (numbers, texts) = self.markers();
        !numbers.is_empty() || !texts.is_empty()
    }
}

impl FieldSpec {
    /// Whether null or an empty cell stands for "not measured" rather than for a fault.
    pub(crate) fn may_be_null(&self) -> bool {
        !self.required || self.kind.has_markers()
    }

    /// How many positions of a record it takes.
    pub(crate) fn width(&self) -> usize {
        match &self.kind {
            FieldKind::Vector { length, .. } => *length,
            _ => 1,
        }
    }

    /// Its positions of the record schema.
    pub(crate) fn to_proto(&self) -> Vec<Field> {
        let field = |name| Field {
            name,
            field_type: self.field_type(),
        };
        match &self.kind {
            FieldKind::Vector { length, .. } => {
                element_names(&self.name, *length).map(field).collect()
            }
            _ => vec![field(self.name.clone())],
        }
    }

    pub(crate) fn field_type(&self) -> FieldType {
        match &self.kind {
            FieldKind::Number(_) | FieldKind::Vector { .. } => FieldType::Number,
            FieldKind::Integer(_) => FieldType::Integer,
            FieldKind::Boolean => FieldType::Boolean,
            FieldKind::Category { categories, .. } => FieldType::Category(categories.clone()),
        }
    }
}

/// What the values of a vector are called, one by one: `name[0]`, `name[1]`, ….
pub(crate) fn element_names(name: &str, length: usize) -> impl Iterator<Item = String> {
    (0..length).map(move |at| format!("{name}[{at}]"))
}

impl RecordSpec {
    /// Within which event times are believed at a moment.
    pub(crate) fn time_bounds(&self, now_ms: i64) -> Bounds {
        Bounds {
            now_ms,
            clock: "this machine's clock",
            future_ms_max: self.future_ms_max,
            past_ms_max: self.past_ms_max,
        }
    }

    /// A field and its first position.
    pub(crate) fn find(&self, name: &str) -> Option<(&FieldSpec, usize)> {
        let mut start = 0;
        for field in &self.fields {
            if field.name == name {
                return Some((field, start));
            }
            start += field.width();
        }
        None
    }

    /// How many positions a record has.
    pub(crate) fn width(&self) -> usize {
        self.fields.iter().map(FieldSpec::width).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FeatureSpec {
    pub name: String,
    #[serde(flatten)]
    pub kind: FeatureKind,
}

/// How a feature comes from the record's fields, from features before it, or from the records before this one.
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
    #[serde(untagged)]
    LookBack(LookBack),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ModelSpec {
    /// Names of feature outputs; one-hot features are spelled out.
    pub inputs: Vec<String>,
}

/// What a model's outputs mean, and so which there are.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// One output, the probability of one of two classes.
    Threshold(Threshold),
    /// An output for each class, its probability; the most probable one is the decision.
    Argmax(Argmax),
    /// Numbers that are no probabilities.
    Value(Bands),
}

/// What a probability means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Threshold {
    /// A probability of at least this is positive.
    pub threshold: f64,
    /// What the decision is called then.
    pub positive: String,
    /// What it is called otherwise.
    pub negative: String,
}

/// Several classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argmax {
    /// In the order of the model's outputs.
    pub classes: Vec<String>,
}

/// Names for ranges of the first value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bands {
    /// What the model's outputs are called, in their order.
    pub values: Vec<String>,
    /// Ascending; there may be none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<f64>,
    /// One more than edges: below the first, from the first on, …; none without edges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// A threshold is what a decision was before there were others: it has no kind.
impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        enum Kind<'a> {
            Argmax(&'a Argmax),
            Value(&'a Bands),
        }
        match self {
            Decision::Threshold(threshold) => threshold.serialize(serializer),
            Decision::Argmax(argmax) => Kind::Argmax(argmax).serialize(serializer),
            Decision::Value(bands) => Kind::Value(bands).serialize(serializer),
        }
    }
}

impl Decision {
    /// What the model's outputs are called, in their order.
    pub fn outputs(&self) -> Vec<String> {
        match self {
            Decision::Threshold(_) => vec!["probability".to_owned()],
            Decision::Argmax(argmax) => argmax.classes.clone(),
            Decision::Value(bands) => bands.values.clone(),
        }
    }

    /// All names that may follow from outputs; none where the value itself is the answer.
    pub fn names(&self) -> Vec<String> {
        match self {
            Decision::Threshold(it) => vec![it.positive.clone(), it.negative.clone()],
            Decision::Argmax(it) => it.classes.clone(),
            Decision::Value(it) => it.names.clone(),
        }
    }

    /// The name of what follows from a row of outputs. A number that is none decides nothing: it is neither positive nor
    /// negative, no class and no band.
    pub(crate) fn of(&self, outputs: &[f64]) -> &str {
        let first = outputs.first().copied().unwrap_or(f64::NAN);
        match self {
            Decision::Threshold(_) if first.is_nan() => "",
            Decision::Threshold(it) if first >= it.threshold => &it.positive,
            Decision::Threshold(it) => &it.negative,
            Decision::Argmax(it) => {
                let class = greatest(outputs).and_then(|at| it.classes.get(at));
                class.map_or("", String::as_str)
            }
            Decision::Value(_) if first.is_nan() => "",
            Decision::Value(it) => {
                let band = it.edges.partition_point(|edge| *edge <= first);
                it.names.get(band).map_or("", String::as_str)
            }
        }
    }

    /// The one number that stands for a row of outputs: the probability, that of the class decided for, or the first value.
    pub(crate) fn headline(&self, outputs: &[f64]) -> f64 {
        let at = match self {
            Decision::Argmax(_) => greatest(outputs).unwrap_or(0),
            Decision::Threshold(_) | Decision::Value(_) => 0,
        };
        outputs.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Where the greatest number is; of equal ones the first.
fn greatest(outputs: &[f64]) -> Option<usize> {
    let mut found: Option<usize> = None;
    for (at, output) in outputs.iter().enumerate() {
        let best = found.map_or(f64::NEG_INFINITY, |found| outputs[found]);
        if *output > best {
            found = Some(at);
        }
    }
    found
}

/// The column of training data that holds the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The column's name.
    pub field: String,
    #[serde(flatten)]
    pub truth: Truth,
}

/// What the truth looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Truth {
    Two {
        /// The text that stands for 1.
        positive: String,
        /// The text that stands for 0.
        negative: String,
    },
    /// Texts that stand for 0, 1, ….
    Several { classes: Vec<String> },
    /// The number itself.
    Number {},
}
