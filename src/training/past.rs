//! How rows were replayed for features that look back, for people and for scripts.

use quadrille_pipeline::{
    quote::quote,
    training::{Order, Past},
};
use serde_json::{Value, json};

use crate::output::counted;

/// How rows were replayed, in a sentence; None where no feature looks back.
pub fn past(past: Option<&Past>) -> Option<String> {
    let past = past?;
    let order = match &past.order {
        Order::Column(column) => format!("in the order of the column {}", quote(column)),
        Order::EventTime => {
            "in the order of their event times, as if none had come late (--arrived names the column that says how they came)".to_owned()
        }
        Order::File => "in the order of the file".to_owned(),
    };
    let keys = counted(past.keys, "key");
    let mut text = format!("features look back: the rows of {keys} were replayed {order}");
    if past.newest_first {
        text += "; the file has the newest rows first, so equal ones were taken from its end";
    }
    match past.state_only {
        0 => {}
        1 => text += "; 1 row is only looked back on",
        rows => text += &format!("; {rows} rows are only looked back on"),
    }
    Some(text)
}

/// How rows were replayed, for scripts.
pub fn past_json(past: Option<&Past>) -> Value {
    let Some(past) = past else {
        return Value::Null;
    };
    let (order, column) = match &past.order {
        Order::Column(column) => ("column", Some(column)),
        Order::EventTime => ("event_time", None),
        Order::File => ("file", None),
    };
    json!({
        "order": order,
        "column": column,
        "newest_first": past.newest_first,
        "keys": past.keys,
        "state_only": past.state_only,
    })
}
