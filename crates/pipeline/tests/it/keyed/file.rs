//! What the file may say of state and of features that look back, and what is said of wrong ones.

use quadrille_pipeline::{Late, Pipeline};
use quadrille_proto::FieldType;

use super::{CARDS, cards, changed};

/// What is said of `CARDS` with `old` replaced by `new`.
fn fault(old: &str, new: &str) -> String {
    Pipeline::parse("cards.toml", &changed(old, new))
        .unwrap_err()
        .to_string()
}

const MEAN: &str = "kind = \"mean\"\nfield = \"amount\"\nto = \"7d\"\ncurrent = false\n";

#[test]
fn the_canonical_form_has_the_state_and_what_is_no_default() {
    let canonical = cards().canonical();
    for part in [
        r#""state":{"lateness":"1h","late":"dead_letter","events_max":10000},"features""#,
        concat!(
            r#"{"name":"mean_7d","kind":"mean","field":"amount","from":"0ms","to":"7d","#,
            r#""current":false,"where":{"field":"kind","is":["purchase"]}}"#
        ),
        r#"{"name":"times_usual","kind":"ratio","field":"amount","over":"mean_7d"}"#,
        r#"{"name":"hourly","kind":"rate","per":"1h","from":"0ms","to":"1d"}"#,
    ] {
        assert!(canonical.contains(part), "{part}\n{canonical}");
    }
}

#[test]
fn a_default_spelled_out_and_the_order_of_values_change_no_hash() {
    let hash = |text: &str| Pipeline::parse("cards.toml", text).unwrap().hash();
    for (old, new) in [
        (
            "lateness = \"1h\"",
            "lateness = \"60m\"\nlate = \"dead_letter\"\nevents_max = 10000",
        ),
        ("to = \"1d\"", "from = \"0s\"\nto = \"24h\"\ncurrent = true"),
    ] {
        assert_eq!(hash(&changed(old, new)), hash(CARDS), "{new}");
    }
    let is = |values: &str| hash(&changed("[\"purchase\"]", values));
    assert_eq!(
        is("[\"refund\", \"purchase\"]"),
        is("[\"purchase\", \"refund\"]")
    );
    assert_ne!(is("[\"refund\", \"purchase\"]"), hash(CARDS));
    assert_ne!(
        hash(&changed("lateness = \"1h\"", "lateness = \"2h\"")),
        hash(CARDS)
    );
}

#[test]
fn state_means_what_the_file_says() {
    let meaning = cards().state_meaning().unwrap();
    assert_eq!(
        (meaning.lateness.as_str(), meaning.late),
        ("1h", Late::DeadLetter)
    );
    assert_eq!((meaning.events_max, meaning.emit), (10_000, None));
    let text = changed(
        "lateness = \"1h\"\n",
        "late = \"absorb\"\nforget_after = \"400d\"\nreset = { field = \"abroad\", is = [true] }\n",
    );
    let meaning = Pipeline::parse("x", &text)
        .unwrap()
        .state_meaning()
        .unwrap();
    assert_eq!(meaning.forget_after.as_deref(), Some("400d"));
    assert_eq!(meaning.reset.as_deref(), Some("abroad is true"));
    assert_eq!(
        (meaning.lateness.as_str(), meaning.late),
        ("0ms", Late::Absorb)
    );
    assert_eq!(crate::ward().state_meaning(), None);
    let of = cards().feature_meanings().into_iter().map(|it| it.of);
    let of: Vec<String> = of.collect();
    assert_eq!(
        of[1],
        "amount, last 7d, without the record itself, where kind is purchase"
    );
    assert_eq!(of[3], "per 1h, last 1d");
}

#[test]
fn features_have_the_type_of_what_they_are() {
    let text = changed(
        "[model]",
        r#"[[features]]
name = "shops"
kind = "distinct"
field = "shop"
newest = 5
[[features]]
name = "shop"
kind = "last"
field = "shop"
[model]"#,
    );
    let pipeline = Pipeline::parse("x", &text).unwrap();
    let fields = &pipeline.feature_schema().fields;
    assert_eq!(fields[3].field_type, FieldType::Number);
    assert_eq!(fields[4].field_type, FieldType::Integer);
    assert!(matches!(&fields[5].field_type, FieldType::Category(shops) if shops.len() == 3));
}

#[test]
fn state_and_features_that_look_back_need_each_other() {
    let fault = fault("[state]\nlateness = \"1h\"\n", "");
    assert!(
        fault.starts_with("cards.toml:27: features.mean_7d: mean looks back, and the file has no [state]; add `[state]`"),
        "{fault}"
    );
    let ward = crate::WARD.replace(
        "[[features]]\nname = \"fever\"",
        "[state]\n[[features]]\nname = \"fever\"",
    );
    let fault = Pipeline::parse("ward.toml", &ward).unwrap_err().to_string();
    assert!(
        fault.contains("state: is kept for nothing: no feature looks back"),
        "{fault}"
    );
    let fault = self::fault("event_time = \"at\"\n", "");
    assert!(
        fault.contains("state: needs record.event_time; add `event_time"),
        "{fault}"
    );
}

#[test]
fn what_is_wrong_with_a_window_is_told_with_its_line() {
    for (new, expected) in [
        (
            "kind = \"mean\"\nfield = \"amount\"\nto = \"7d\"\nnewest = 5\n",
            "mean_7d.newest: is a second window beside from and to; keep newest",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nfrom = \"7d\"\n",
            "mean_7d.from: opens a window that has no end; add `to`",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nfrom = \"7d\"\nto = \"7d\"\n",
            "mean_7d.to: 7d is not more than from (7d)",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nto = \"0s\"\n",
            "mean_7d.to: is no time at all",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nto = \"a week\"\n",
            "mean_7d.to: \"a week\" is not a duration",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nnewest = 0\n",
            "mean_7d.newest: 0 is out of range; write a whole number from 1",
        ),
        (
            "kind = \"mean\"\nfield = \"amount\"\nnewest = 10000\n",
            "mean_7d.newest: 10000 records are not kept: state.events_max is 10000",
        ),
        (
            "kind = \"median\"\nfield = \"amount\"\n",
            "mean_7d: median over all history would have to keep all of it; bound the window",
        ),
        (
            "kind = \"ewma\"\nfield = \"amount\"\nhalf_life = \"1d\"\nto = \"7d\"\n",
            "mean_7d.to: means nothing for a feature of kind ewma",
        ),
        (
            "kind = \"ewma\"\nfield = \"amount\"\n",
            "mean_7d: \"half_life\" is missing; add `half_life = \"30d\"`",
        ),
        (
            "kind = \"rate\"\nper = \"1h\"\n",
            "mean_7d: \"to\" is missing; add",
        ),
        (
            "kind = \"rate\"\nto = \"1h\"\n",
            "mean_7d: \"per\" is missing; add",
        ),
        (
            "kind = \"rate\"\nto = \"1h\"\nper = \"0s\"\n",
            "mean_7d.per: is no time at all",
        ),
        (
            "kind = \"time_since\"\ncurrent = true\n",
            "mean_7d.current: means nothing for a feature of kind time_since",
        ),
        (
            "kind = \"men\"\n",
            "\"men\" is no kind of feature; did you mean \"mean\"?",
        ),
    ] {
        let fault = fault(MEAN, new);
        assert!(
            fault.starts_with("cards.toml:") && fault.contains(expected),
            "{new}\n{fault}"
        );
    }
    let forgetful = changed(
        "lateness = \"1h\"",
        "lateness = \"1h\"\nforget_after = \"6d\"",
    );
    let fault = Pipeline::parse("cards.toml", &forgetful)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains(
            "cards.toml:25: state.forget_after: is shorter than the window of features.mean_7d, 7d, and lateness together"
        ),
        "{fault}"
    );
}

#[test]
fn what_is_wrong_with_state_is_told_with_its_line() {
    for (new, expected) in [
        (
            "late = \"drop\"",
            "state.late: \"drop\" is no way to treat late records; write \"dead_letter\" or \"absorb\"",
        ),
        (
            "latenes = \"1h\"",
            "unknown key \"latenes\"; did you mean \"lateness\"?",
        ),
        (
            "events_max = 0",
            "state.events_max: 0 is out of range; write a whole number from 1 to 1000000",
        ),
        (
            "events_max = 1000001",
            "state.events_max: 1000001 is out of range",
        ),
        (
            "lateness = \"2h\"\nforget_after = \"1h\"",
            "state.forget_after: is not longer than lateness",
        ),
        (
            "lateness = \"1h\"\nforget_after = \"1h\"",
            "state.forget_after: is not longer than lateness",
        ),
        (
            "emit = { field = \"knd\", is = [\"block\"] }",
            "emit.field: unknown field \"knd\"; did you mean \"kind\"?",
        ),
        (
            "emit = { field = \"amount\", is = [1] }",
            "records cannot be told apart by \"amount\", a number; use a field of type category or boolean",
        ),
        (
            "emit = { field = \"kind\", is = [\"blok\"] }",
            "\"blok\" is no category of \"kind\"; did you mean \"block\"?",
        ),
        (
            "emit = { field = \"kind\", is = [] }",
            "emit.is: is empty; list at least one value, as in [\"purchase\"]",
        ),
        (
            "emit = { field = \"kind\" }",
            "\"is\" is missing; add `is = [\"purchase\"]`",
        ),
        (
            "emit = { field = \"abroad\", is = [\"yes\"] }",
            "is the string \"yes\"; write true or false",
        ),
        (
            "emit = { field = \"abroad\", is = [true, true] }",
            "is listed twice",
        ),
    ] {
        let fault = fault("lateness = \"1h\"", new);
        assert!(
            fault.starts_with("cards.toml:24") || fault.starts_with("cards.toml:25"),
            "{fault}"
        );
        assert!(fault.contains(expected), "{new}\n{fault}");
    }
}

#[test]
fn a_feature_names_a_field_or_one_that_stands_before_it() {
    let ratio = "field = \"amount\"\nover = \"mean_7d\"";
    for (new, expected) in [
        (
            "field = \"amount\"\nover = \"mean_7\"",
            "features.times_usual: unknown field \"mean_7\"; did you mean \"mean_7d\"?",
        ),
        (
            "field = \"amount\"\nover = \"zzzzzzzzzz\"",
            "the fields and the features before it are: \"kind\", \"amount\"",
        ),
        (
            "field = \"amount\"\nover = \"hourly\"",
            "\"hourly\" is a feature that does not stand before this one; features are computed in the file's order: move it up",
        ),
        (
            "field = \"amount\"\nover = \"times_usual\"",
            "does not stand before this one",
        ),
        (
            "field = \"amount\"\nover = \"kind\"",
            "ratio cannot be computed from \"kind\", a category",
        ),
    ] {
        let fault = fault(ratio, new);
        assert!(
            fault.starts_with("cards.toml:") && fault.contains(expected),
            "{new}\n{fault}"
        );
    }
    let shops = |of: &str| {
        let feature = format!(
            "[[features]]\nname = \"shops\"\nkind = \"one_hot\"\nfield = \"shop\"\n[[features]]\nname = \"x\"\n{of}\n[model]"
        );
        Pipeline::parse("x", &changed("[model]", &feature)).map_err(|it| it.to_string())
    };
    let fault = shops("kind = \"log\"\nfield = \"shops\"").unwrap_err();
    assert!(
        fault.contains("feature \"shops\" has 3 outputs; use a feature with one output"),
        "{fault}"
    );
    let fault = shops("kind = \"mean\"\nfield = \"mean_7d\"").unwrap_err();
    assert!(
        fault.contains("\"mean_7d\" is a feature; mean is computed from a field of the record"),
        "{fault}"
    );
    let fault = shops("kind = \"mean\"\nfield = \"shop\"").unwrap_err();
    assert!(
        fault.contains(
            "mean cannot be computed from \"shop\", a category; use a field of type number"
        ),
        "{fault}"
    );
    for kind in [
        "kind = \"log\"",
        "kind = \"missing\"",
        "kind = \"bucket\"\nedges = [1]",
        "kind = \"clip\"\nmin = 1",
    ] {
        shops(&format!("{kind}\nfield = \"mean_7d\"")).unwrap();
    }
}

#[test]
fn a_record_alone_has_no_features_that_look_back() {
    let needs = cards().features(&[0.0, 1.0], &mut Vec::new()).unwrap_err();
    assert_eq!(
        (needs.pipeline.as_str(), needs.feature.as_str()),
        ("cards", "mean_7d")
    );
    let mut features = Vec::new();
    cards().features_of(&[0.0, 6.0], &[3.0, 0.5], &mut features);
    assert_eq!(features, [6.0, 3.0, 2.0, 0.5]);
}

/// What only the whole of it shows: the definition of what is kept has limits of its own.
#[test]
fn what_cannot_be_kept_is_told_with_the_line_of_the_feature_or_of_the_state() {
    let fault_of = |new: &str| fault(MEAN, &format!("{new}current = false\n"));
    let long = fault_of("kind = \"mean\"\nfield = \"amount\"\nto = \"400000d\"\n");
    assert!(
        long.starts_with("cards.toml:29: features.mean_7d: a window of time starts at 0 or more"),
        "{long}"
    );
    let long = fault_of("kind = \"ewma\"\nfield = \"amount\"\nhalf_life = \"400000d\"\n");
    assert!(
        long.starts_with("cards.toml:29: features.mean_7d: a rate's unit and a half-life are longer than 0 and at most 1,000 years"),
        "{long}"
    );
    let late = fault("lateness = \"1h\"", "lateness = \"400000d\"");
    assert!(
        late.starts_with("cards.toml:23: state: lateness is 34560000000000 ms"),
        "{late}"
    );
}
