//! Features of a key without a record in hand.

use quadrille_pipeline::Pipeline;

const FILE: &str = r#"
name = "p"
[record]
key = "k"
event_time = "at"
[[record.fields]]
name = "amount"
type = "number"
required = false
[[record.fields]]
name = "place"
type = "category"
categories = ["a", "b"]
required = false
[state]
lateness = "1h"
[[features]]
name = "spent"
kind = "sum"
field = "amount"
to = "2h"
[[features]]
name = "usual"
kind = "mean"
field = "amount"
to = "60d"
[[features]]
name = "has_usual"
kind = "missing"
field = "usual"
[[features]]
name = "share"
kind = "ratio"
field = "spent"
over = "usual"
[[features]]
name = "amount"
kind = "pass"
field = "amount"
[[features]]
name = "no_amount"
kind = "missing"
field = "amount"
[[features]]
name = "times_usual"
kind = "ratio"
field = "amount"
over = "usual"
[[features]]
name = "no_times"
kind = "missing"
field = "times_usual"
[[features]]
name = "place"
kind = "one_hot"
field = "place"
[model]
inputs = ["spent", "share"]
"#;

#[test]
fn what_depends_on_a_record_is_missing_without_one_and_the_rest_is_there() {
    let pipeline = Pipeline::parse("p.toml", FILE).unwrap();
    let mut features = vec![7.0];
    pipeline.features_without_record(&[6.0, 4.0], &mut features);
    let names = pipeline.feature_schema().fields.iter();
    let there: Vec<(&str, f64)> = names
        .zip(&features)
        .filter(|(_, value)| !value.is_nan())
        .map(|(field, value)| (field.name.as_str(), *value))
        .collect();
    let expected = [
        ("spent", 6.0),
        ("usual", 4.0),
        ("has_usual", 0.0),
        ("share", 1.5),
    ];
    assert_eq!(there, expected);
    assert_eq!(features.len(), pipeline.feature_schema().fields.len());
}
