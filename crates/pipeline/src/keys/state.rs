//! The keys of `[state]`, and of what says which records are meant.

use super::{EVENTS_MAX_MAX, Keys, Shape, may, need};

const LATE: &[&str] = &["dead_letter", "absorb"];

pub(crate) static STATE: Keys = Keys {
    selector: None,
    keys: &[
        may(
            "lateness",
            Shape::Duration,
            "How much older than its key's newest record a record may be and still go to its place; \"0s\" unless it is set.",
        ),
        may(
            "late",
            Shape::Choice(LATE),
            "What becomes of later ones: \"dead_letter\" (the default), or \"absorb\": counted and passed over.",
        ),
        may(
            "forget_after",
            Shape::Duration,
            "A key whose newest record is as much older than the one that comes begins anew; never, unless it is set.",
        ),
        may(
            "events_max",
            Shape::WholeBetween(1, EVENTS_MAX_MAX as i64),
            "The most records of a key that are kept; one more is refused until old ones leave the windows. 10000 unless it is set.",
        ),
        may(
            "emit",
            Shape::Table(&FILTER),
            "Which records have a feature vector and so a prediction; the others are only looked back on. All, unless it is set.",
        ),
        may(
            "reset",
            Shape::Table(&FILTER),
            "Records after which nothing before them is seen.",
        ),
    ],
};

pub(crate) static FILTER: Keys = Keys {
    selector: None,
    keys: &[
        need("field", Shape::Name, "A field of type category or boolean."),
        need(
            "is",
            Shape::Values(1),
            "The values it has in the records that are meant.",
        ),
    ],
};
