//! The keys of `[[features]]`.

use super::{EVENTS_MAX_MAX, FILTER, Keys, Selector, Shape, may, need};

pub(crate) const KINDS: &[&str] = &[
    "pass",
    "missing",
    "one_hot",
    "bucket",
    "clip",
    "log",
    "difference",
    "ratio",
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "rate",
    "ewma",
    "last",
    "lag",
    "time_since",
    "distinct",
];

/// The kinds that see the records before.
pub(crate) const LOOKING_BACK: &[&str] = &[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "rate",
    "ewma",
    "last",
    "lag",
    "time_since",
    "distinct",
];

/// Those that mean something without a field.
const FIELD_OPTIONAL: &[&str] = &["count", "rate", "time_since"];

const FIELD_NEEDED: &[&str] = &[
    "pass",
    "missing",
    "one_hot",
    "bucket",
    "clip",
    "log",
    "difference",
    "ratio",
    "sum",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "ewma",
    "last",
    "lag",
    "distinct",
];

/// Those of a window by age that need not have one.
const BY_AGE: &[&str] = &[
    "count", "sum", "mean", "min", "max", "median", "stddev", "last", "lag", "distinct",
];

/// Those of a window by age.
const FROM: &[&str] = &[
    "count", "sum", "mean", "min", "max", "median", "stddev", "rate", "last", "lag", "distinct",
];

/// Those that may see the record itself.
const CURRENT: &[&str] = &[
    "count", "sum", "mean", "min", "max", "median", "stddev", "rate", "ewma", "last", "lag",
    "distinct",
];

pub(crate) static FEATURE: Keys = Keys {
    selector: Some(Selector {
        key: "kind",
        kinds: KINDS,
        default: None,
        thing: "feature",
    }),
    keys: &[
        need("name", Shape::Name, "The feature's name."),
        need(
            "kind",
            Shape::Choice(KINDS),
            "How it is computed. pass: the value; missing: 1 if not measured, else 0; one_hot: a feature for each category; bucket: how \
             many edges the value reaches; clip: the value, or the limit it exceeds; log: the natural logarithm; difference: field - \
             minus; ratio: field / over. Over the key's records up to this one, in the order of event times: count, sum, mean, min, max, \
             median, stddev, rate, ewma, last, lag, time_since, distinct.",
        ),
        need(
            "field",
            Shape::Name,
            "The field it is computed from; of bucket, clip, log, difference, ratio and missing also a feature before it.",
        )
        .of(FIELD_NEEDED),
        may(
            "field",
            Shape::Name,
            "The field that a record must have to count; without it all records count.",
        )
        .of(FIELD_OPTIONAL),
        need(
            "edges",
            Shape::Numbers(1),
            "The ascending edges of the buckets.",
        )
        .of(&["bucket"]),
        may("min", Shape::Number, "The least value.").of(&["clip"]),
        may("max", Shape::Number, "The largest value.").of(&["clip"]),
        need(
            "minus",
            Shape::Name,
            "The field, or the feature before it, that is taken away.",
        )
        .of(&["difference"]),
        need(
            "over",
            Shape::Name,
            "The field, or the feature before it, that it is divided by.",
        )
        .of(&["ratio"]),
        may(
            "from",
            Shape::Duration,
            "The window begins at records of this age; \"0s\" unless it is set.",
        )
        .of(FROM),
        may(
            "to",
            Shape::Duration,
            "The window ends before records of this age; without it and `newest` all records are seen.",
        )
        .of(BY_AGE),
        need(
            "to",
            Shape::Duration,
            "The window ends before records of this age.",
        )
        .of(&["rate"]),
        may(
            "newest",
            Shape::WholeBetween(1, EVENTS_MAX_MAX as i64),
            "The window is so many of the newest records.",
        )
        .of(BY_AGE),
        may(
            "current",
            Shape::Boolean,
            "Whether the record itself is seen, as it is unless this is false.",
        )
        .of(CURRENT),
        need(
            "per",
            Shape::Duration,
            "The time that the rate counts records per, as in \"1h\".",
        )
        .of(&["rate"]),
        need(
            "half_life",
            Shape::Duration,
            "The age at which a record weighs half as much as the newest.",
        )
        .of(&["ewma"]),
        may(
            "n",
            Shape::WholeBetween(1, EVENTS_MAX_MAX as i64),
            "How many records before the newest; 1 unless it is set.",
        )
        .of(&["lag"]),
        may(
            "where",
            Shape::Table(&FILTER),
            "Only records of which this holds are seen.",
        )
        .of(LOOKING_BACK),
    ],
};
