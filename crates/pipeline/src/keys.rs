//! The keys of a pipeline file, table by table: the parser refuses what is not here, and editors get it as a JSON Schema.

mod features;
mod state;

pub(crate) use features::{FEATURE, KINDS, LOOKING_BACK};
pub(crate) use state::{FILTER, STATE};

/// The newest format of the file that this release reads.
pub(crate) const FORMAT_MAX: i64 = 1;
/// Topics are named after a pipeline; Kafka allows 249 bytes with the suffixes.
pub(crate) const PIPELINE_NAME_LEN_MAX: usize = 100;
/// Bytes of the name of a field, feature or class.
pub(crate) const NAME_LEN_MAX: usize = 128;
/// The most values of a vector: as many as a model may have inputs.
pub(crate) const VECTOR_LENGTH_MAX: usize = 4_096;

/// Events of a key that may be kept at most: beyond that a hot key's memory is another machine's.
pub(crate) const EVENTS_MAX_MAX: u32 = 1_000_000;

/// A table of the file.
pub(crate) struct Keys {
    pub keys: &'static [Key],
    pub selector: Option<Selector>,
}

/// The key whose value says which of a table's other keys mean anything.
pub(crate) struct Selector {
    pub key: &'static str,
    pub kinds: &'static [&'static str],
    /// What it is where the key is absent; None where it must be there.
    pub default: Option<&'static str>,
    /// What is of that kind, for messages.
    pub thing: &'static str,
}

pub(crate) struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// The kinds that have it; empty: all.
    pub kinds: &'static [&'static str],
    /// For whoever hovers over it in an editor.
    pub about: &'static str,
}

/// What a key's value looks like.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    PipelineName,
    /// Short, printable.
    Name,
    /// A whole number and a unit.
    Duration,
    Boolean,
    Number,
    NumberBetween(f64, f64),
    WholeBetween(i64, i64),
    Choice(&'static [&'static str]),
    /// So many names at least, each once.
    Names(usize),
    /// So many texts or booleans at least, each once.
    Values(usize),
    /// So many texts at least, each once.
    Texts(usize),
    /// So many numbers at least, each once.
    Numbers(usize),
    Table(&'static Keys),
    /// One at least.
    Tables(&'static Keys),
}

const fn need(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        name,
        shape,
        required: true,
        kinds: &[],
        about,
    }
}

const fn may(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        required: false,
        ..need(name, shape, about)
    }
}

impl Key {
    /// A key of these kinds alone.
    const fn of(self, kinds: &'static [&'static str]) -> Key {
        Key { kinds, ..self }
    }
}

impl Keys {
    pub fn names(&self) -> impl Iterator<Item = &'static str> + Clone {
        let first =
            |(at, key): &(usize, &Key)| self.keys[..*at].iter().all(|it| it.name != key.name);
        let keys = self.keys.iter().enumerate().filter(first);
        keys.map(|(_, key)| key.name)
    }
}

pub(crate) static ROOT: Keys = Keys {
    selector: None,
    keys: &[
        may(
            "format",
            Shape::WholeBetween(1, FORMAT_MAX),
            "The format of this file; without the line it is 1.",
        ),
        need(
            "name",
            Shape::PipelineName,
            "Topics and consumer groups are named after it: a-z, 0-9, `.`, `_` and `-`.",
        ),
        may(
            "latency_objective",
            Shape::Duration,
            "As operate.latency_objective, where files of before that table have it.",
        ),
        need(
            "record",
            Shape::Table(&RECORD),
            "What a record on the inbox looks like.",
        ),
        may(
            "state",
            Shape::Table(&STATE),
            "What is kept of a key's records, for features that look back; needed as soon as one does.",
        ),
        need(
            "features",
            Shape::Tables(&FEATURE),
            "What is computed from a record's fields, and from the records of its key before it.",
        ),
        need("model", Shape::Table(&MODEL), "What the model reads."),
        may(
            "decision",
            Shape::Table(&DECISION),
            "What the model's outputs mean; without it, a probability from 0.5 on is `positive`.",
        ),
        may(
            "label",
            Shape::Table(&LABEL),
            "The column of training data that holds the truth. Records may have it: it is ignored.",
        ),
        may(
            "operate",
            Shape::Table(&OPERATE),
            "How the pipeline is operated. It changes no prediction and enters no hash, so models go on fitting.",
        ),
    ],
};

pub(crate) static OPERATE: Keys = Keys {
    selector: None,
    keys: &[may(
        "latency_objective",
        Shape::Duration,
        "Records that are older than this when they are committed count as late, as in \"1s\".",
    )],
};

pub(crate) static RECORD: Keys = Keys {
    selector: None,
    keys: &[
        may(
            "id",
            Shape::Name,
            "The field with the record's id; a record without one is named after its place in the inbox.",
        ),
        need(
            "key",
            Shape::Name,
            "The field that says whom the record is about: records of one key stay in order.",
        ),
        may(
            "event_time",
            Shape::Name,
            "The field with the event's time, RFC 3339 or milliseconds since 1970; without it, the time of arrival counts.",
        ),
        may(
            "unknown_fields",
            Shape::Choice(&["keep", "refuse"]),
            "What happens to fields that are not named here: \"refuse\" (the default) finds typos, \"keep\" lets them travel along unread.",
        ),
        may(
            "future_max",
            Shape::Duration,
            "Event times further ahead of the clock than this are refused; \"5m\" unless it is set.",
        ),
        may(
            "past_max",
            Shape::Duration,
            "Event times older than this are refused; \"10000d\" unless it is set.",
        ),
        need("fields", Shape::Tables(&FIELD), "The fields of a record."),
    ],
};

pub(crate) const TYPES: &[&str] = &["number", "integer", "boolean", "category", "vector"];
const NUMERIC: &[&str] = &["number", "integer", "vector"];

pub(crate) static FIELD: Keys = Keys {
    selector: Some(Selector {
        key: "type",
        kinds: TYPES,
        default: None,
        thing: "field",
    }),
    keys: &[
        need("name", Shape::Name, "The field's name in a record."),
        need("type", Shape::Choice(TYPES), "What its value is."),
        may(
            "required",
            Shape::Boolean,
            "Whether a record must have the field, as is so unless it is set. A required field may be null only where it \
             has markers in `missing`.",
        ),
        need(
            "length",
            Shape::WholeBetween(1, VECTOR_LENGTH_MAX as i64),
            "How many numbers it holds.",
        )
        .of(&["vector"]),
        may("min", Shape::Number, "Values below are refused.").of(NUMERIC),
        may("max", Shape::Number, "Values above are refused.").of(NUMERIC),
        may(
            "missing",
            Shape::Numbers(0),
            "Markers: numbers that mean \"not measured\". With one at least, null and an empty cell mean that, too.",
        )
        .of(NUMERIC),
        need(
            "categories",
            Shape::Names(1),
            "The values it may have. Later versions may add some at the end.",
        )
        .of(&["category"]),
        may(
            "missing",
            Shape::Names(0),
            "Markers: values that mean \"not measured\". With one at least, null and an empty cell mean that, too.",
        )
        .of(&["category"]),
    ],
};

pub(crate) static MODEL: Keys = Keys {
    selector: None,
    keys: &[need(
        "inputs",
        Shape::Texts(1),
        "The features the model reads, in its order. A one_hot feature's name stands for all of its outputs, `name=category` for one; \
         a vector's name for all of its values.",
    )],
};

pub(crate) const DECISIONS: &[&str] = &["threshold", "argmax", "value"];

pub(crate) static DECISION: Keys = Keys {
    selector: Some(Selector {
        key: "kind",
        kinds: DECISIONS,
        default: Some("threshold"),
        thing: "decision",
    }),
    keys: &[
        may(
            "kind",
            Shape::Choice(DECISIONS),
            "threshold (the default): one probability; argmax: the most probable of several classes; value: numbers that are no \
             probabilities.",
        ),
        may(
            "threshold",
            Shape::NumberBetween(0.0, 1.0),
            "A probability of at least this is positive; 0.5 unless it is set.",
        )
        .of(&["threshold"]),
        may(
            "positive",
            Shape::Name,
            "What the decision is called from the threshold on.",
        )
        .of(&["threshold"]),
        may("negative", Shape::Name, "What it is called below.").of(&["threshold"]),
        need(
            "classes",
            Shape::Names(2),
            "The classes, in the order of the model's outputs.",
        )
        .of(&["argmax"]),
        may(
            "values",
            Shape::Names(1),
            "What the model's outputs are called; `value` unless it is set.",
        )
        .of(&["value"]),
        may(
            "edges",
            Shape::Numbers(1),
            "Ascending edges of the first value; each band between has a name.",
        )
        .of(&["value"]),
        may(
            "names",
            Shape::Names(2),
            "What the bands are called: one more than there are edges.",
        )
        .of(&["value"]),
    ],
};

pub(crate) static LABEL: Keys = Keys {
    selector: None,
    keys: &[
        need("field", Shape::Name, "The column."),
        may(
            "positive",
            Shape::Name,
            "The text that stands for the positive class, in a decision by threshold.",
        ),
        may(
            "negative",
            Shape::Name,
            "The text that stands for the negative class.",
        ),
        may(
            "classes",
            Shape::Names(2),
            "The texts that stand for the classes of an argmax; as the decision calls them unless it is set.",
        ),
    ],
};
