//! Features that look back over the records of a key.

mod file;
mod past;
mod replay;

use quadrille_pipeline::Pipeline;

/// A card's payments.
const CARDS: &str = r#"name = "cards"
[record]
id = "id"
key = "card"
event_time = "at"
[[record.fields]]
name = "kind"
type = "category"
categories = ["purchase", "refund", "block"]
[[record.fields]]
name = "amount"
type = "number"
required = false
[[record.fields]]
name = "abroad"
type = "boolean"
required = false
[[record.fields]]
name = "shop"
type = "category"
categories = ["a", "b", "c"]
required = false
[state]
lateness = "1h"
[[features]]
name = "amount"
kind = "pass"
field = "amount"
[[features]]
name = "mean_7d"
kind = "mean"
field = "amount"
to = "7d"
current = false
where = { field = "kind", is = ["purchase"] }
[[features]]
name = "times_usual"
kind = "ratio"
field = "amount"
over = "mean_7d"
[[features]]
name = "hourly"
kind = "rate"
to = "1d"
per = "1h"
[model]
inputs = ["amount", "times_usual", "hourly"]
[label]
field = "fraud"
positive = "yes"
negative = "no"
"#;

fn cards() -> Pipeline {
    Pipeline::parse("cards.toml", CARDS).unwrap()
}

/// `CARDS` with `old` replaced by `new`.
fn changed(old: &str, new: &str) -> String {
    assert!(CARDS.contains(old), "{old}");
    CARDS.replacen(old, new, 1)
}
