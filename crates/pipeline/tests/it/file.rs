//! Pipeline files: what they mean, and what is said of wrong ones.

use quadrille_pipeline::{Pipeline, Truth};
use quadrille_proto::{FieldType, Kind};

use crate::{WARD, diabetes, fault, ward};

#[test]
fn the_shipped_pipeline_means_what_the_documents_say() {
    let pipeline = diabetes();
    assert_eq!(pipeline.name(), "diabetes");
    let fields = &pipeline.record_schema().fields;
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let columns = [
        "pregnant", "glucose", "pressure", "triceps", "insulin", "mass", "pedigree", "age",
    ];
    assert_eq!(names, columns);
    assert_eq!(pipeline.inputs()[..8], columns);
    assert_eq!(
        (pipeline.key_field(), pipeline.id_field()),
        ("patient_id", Some("id"))
    );
    assert_eq!(pipeline.threshold(), Some(0.5));
    let decisions = [0.5, 0.49, f64::NAN].map(|probability| pipeline.decide(&[probability]));
    assert_eq!(decisions, ["diabetic", "healthy", ""]);
    assert_eq!(pipeline.label().unwrap().field, "diabetes");
}

#[test]
fn the_schemas_name_every_position() {
    let pipeline = ward();
    let features = pipeline.feature_schema();
    let names: Vec<&str> = features
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(names, ["fever", "sex=f", "sex=m", "no_beats"]);
    assert_eq!(features.fields[0].field_type, FieldType::Integer);
    assert_eq!(features.kind, Kind::Features);
    assert_eq!(pipeline.inputs(), ["sex=f", "sex=m", "fever"]);
    assert_eq!(pipeline.prediction_schema().fields[0].name, "probability");
    assert_eq!(pipeline.prediction_schema().kind, Kind::Prediction);
    assert_eq!(pipeline.record_schema_id(), pipeline.record_schema().id());
    assert_eq!(pipeline.feature_schema_id(), features.id());
    assert_eq!(
        pipeline.prediction_schema_id(),
        pipeline.prediction_schema().id()
    );
}

#[test]
fn the_canonical_form_does_not_change_between_releases() {
    assert_eq!(
        ward().canonical(),
        concat!(
            r#"{"name":"ward","record":{"key":"bed","event_time":"at","unknown_fields":"refuse","#,
            r#""future_max":"5m","fields":[{"name":"temperature","type":"number","min":20.0,"#,
            r#""max":50.0,"required":true},{"name":"beats","type":"integer","required":false},"#,
            r#"{"name":"ventilated","type":"boolean","required":false},{"name":"sex","#,
            r#""type":"category","categories":["f","m"],"missing":["unknown"],"required":true}]},"#,
            r#""features":[{"name":"fever","kind":"bucket","field":"temperature","#,
            r#""edges":[36.0,38.5]},{"name":"sex","kind":"one_hot","field":"sex"},"#,
            r#"{"name":"no_beats","kind":"missing","field":"beats"}],"#,
            r#""model":{"inputs":["sex=f","sex=m","fever"]},"decision":{"threshold":0.5,"#,
            r#""positive":"positive","negative":"negative"}}"#,
        )
    );
}

#[test]
fn a_configuration_is_the_file_and_the_package_and_its_hash_does_not_change_between_releases() {
    let hash = ward().config_hash(&[7; 32]);
    assert_eq!(hash[..4], [85, 10, 209, 21]);
    assert_ne!(hash, ward().config_hash(&[8; 32]));
    assert_ne!(hash, ward().hash());
}

#[test]
fn a_latency_objective_is_read_and_changes_no_hash() {
    let text = WARD.replacen("[record]", "latency_objective = \"1500ms\"\n[record]", 1);
    let pipeline = Pipeline::parse("ward.toml", &text).unwrap();
    assert_eq!(pipeline.latency_objective_ms(), Some(1_500));
    assert_eq!(pipeline.hash(), ward().hash());
    assert_eq!(ward().latency_objective_ms(), None);
    let text = WARD.replacen("[record]", "latency_objective = 3\n[record]", 1);
    let error = Pipeline::parse("ward.toml", &text).unwrap_err().to_string();
    assert!(error.contains("latency_objective"), "{error}");
}

#[test]
fn a_default_spelled_out_changes_no_hash_and_a_threshold_does() {
    let hash = |text: &str| Pipeline::parse("x", text).unwrap().hash();
    let decision = |threshold| format!("{WARD}\n[decision]\nthreshold = {threshold} # why\n");
    assert_eq!(hash(&decision("0.50")), hash(WARD));
    assert_ne!(hash(&decision("0.4")), hash(WARD));
    let spelled = WARD.replace("event_time =", "future_max = \"300s\"\nevent_time =");
    assert_eq!(hash(&spelled), hash(WARD));
}

#[test]
fn an_unknown_field_of_a_feature_is_named_with_its_line_and_what_was_meant() {
    let field = "kind = \"bucket\"\nfield = \"temperature\"";
    assert_eq!(
        fault(field, "kind = \"bucket\"\nfield = \"temprature\""),
        "ward.toml:26: features.fever: unknown field \"temprature\"; did you mean \"temperature\"?"
    );
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let unknown = |old: &str, new: &str, line: usize, meant: &str| {
        let error = fault(old, new);
        assert!(error.starts_with(&format!("ward.toml:{line}: ")), "{error}");
        assert!(
            error.contains("unknown key") && error.contains(meant),
            "{error}"
        );
    };
    unknown("[record]", "[recrod]", 2, "did you mean \"record\"?");
    unknown(
        "key = \"bed\"",
        "keys = \"bed\"",
        3,
        "did you mean \"key\"?",
    );
    unknown(
        "required = false",
        "require = false",
        13,
        "did you mean \"required\"?",
    );
    unknown("edges", "edegs", 27, "did you mean \"edges\"?");
    unknown("inputs", "features", 37, "the keys here are: \"inputs\"");
    unknown(
        "[model]",
        "[decision]\ntreshold = 1\n[model]",
        37,
        "did you mean \"threshold\"?",
    );
}

#[test]
fn what_is_missing_is_shown_as_it_is_written() {
    assert_eq!(
        fault("key = \"bed\"\n", ""),
        "ward.toml:2: record: \"key\" is missing; add `key = \"…\"`"
    );
    assert!(fault("type = \"number\"\n", "").contains("record.fields.temperature: \"type\" is"));
    assert!(fault("edges = [36, 38.5]\n", "").contains("add `edges = [28, 39]`"));
    assert!(fault("name = \"ward\"\n", "").contains("add `name = \"ward\"`"));
}

#[test]
fn a_value_of_the_wrong_type_is_shown() {
    assert_eq!(
        fault("min = 20", "min = \"20\""),
        "ward.toml:8: record.fields.temperature.min: is the string \"20\"; write a number"
    );
    assert!(fault("min = 20", "min = nan").contains("is the number nan; write a finite"));
    assert!(fault("min = 20", "min = 9223372036854775807").contains("-2^53"));
    assert!(fault("required = false", "required = 0").contains("write true or false"));
    let error = Pipeline::parse("x", "name = \"x\"\nrecord = 5")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "x:2: record: is the integer 5; write a table, `[record]`"
    );
    assert!(fault("[[record.fields]]\nname = \"temp", "[x]\n#").contains("unknown key \"x\""));
}

#[test]
fn names_are_used_once() {
    for (old, new, what) in [
        (
            "name = \"beats\"",
            "name = \"temperature\"",
            "another field of the record",
        ),
        (
            "name = \"beats\"",
            "name = \"bed\"",
            "another field of the record",
        ),
        (
            "event_time = \"at\"",
            "event_time = \"bed\"",
            "another field of the record",
        ),
        ("name = \"no_beats\"", "name = \"sex\"", "another feature"),
        (
            "[\"sex\", \"fever\"]",
            "[\"sex\", \"sex=f\"]",
            "already an input",
        ),
        ("[\"f\", \"m\"]", "[\"f\", \"f\"]", "listed twice"),
        ("[\"unknown\"]", "[\"f\"]", "listed twice"),
    ] {
        let error = fault(old, new);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn limits_edges_markers_and_thresholds_are_checked() {
    for (old, new, what) in [
        (
            "max = 50",
            "max = 10",
            "max: 10 is less than min (20); swap",
        ),
        (
            "[36, 38.5]",
            "[36, 36]",
            "list the edges in ascending order",
        ),
        ("[36, 38.5]", "[]", "list at least one edge"),
        (
            "max = 50",
            "missing = [\"x\"]",
            "missing: is the string \"x\"; write a number",
        ),
        ("max = 50", "missing = [0, -0.0]", "has 0 twice"),
        (
            "[\"unknown\"]",
            "[0]",
            "missing: is the integer 0; write a string",
        ),
        (
            "type = \"integer\"",
            "type = \"integer\"\nmin = 0.5",
            "0.5 is not a whole number",
        ),
        (
            "type = \"boolean\"",
            "type = \"boolean\"\nmissing = [0]",
            "means nothing for a field",
        ),
        (
            "type = \"boolean\"",
            "type = \"bool\"",
            "\"bool\" is no type",
        ),
        (
            "categories = [\"f\", \"m\"]",
            "categories = []",
            "list the values",
        ),
        (
            "categories = [\"f\", \"m\"]",
            "categories = [\" f\"]",
            "begins or ends with a space",
        ),
        (
            "[model]",
            "[decision]\nthreshold = 1.5\n[model]",
            "choose a threshold from 0 to 1",
        ),
        (
            "[model]",
            "[decision]\npositive = \"x\"\n[model]",
            "write both",
        ),
        (
            "event_time =",
            "future_max = \"5 min\"\nevent_time =",
            "is not a duration",
        ),
        (
            "event_time =",
            "unknown_fields = \"drop\"\nevent_time =",
            "\"keep\" or \"refuse\"",
        ),
    ] {
        let error = fault(old, new);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_feature_fits_its_field_and_its_kind() {
    for (old, new, what) in [
        (
            "kind = \"missing\"",
            "kind = \"mising\"",
            "did you mean \"missing\"?",
        ),
        (
            "kind = \"missing\"",
            "kind = \"missing\"\nedges = [1]",
            "use kind = \"bucket\"",
        ),
        (
            "kind = \"missing\"",
            "kind = \"clip\"",
            "add min, max or both",
        ),
        (
            "kind = \"missing\"",
            "kind = \"clip\"\nmin = 2\nmax = 1",
            "1 is less than min (2)",
        ),
        ("kind = \"missing\"", "kind = \"ratio\"", "add `over = "),
        (
            "kind = \"missing\"",
            "kind = \"one_hot\"",
            "from \"beats\", an integer",
        ),
        (
            "kind = \"one_hot\"",
            "kind = \"log\"",
            "use a field of type number",
        ),
        ("name = \"no_beats\"", "name = \"a=b\"", "has an ="),
        (
            "[\"sex\", \"fever\"]",
            "[\"sex\", \"fewer\"]",
            "did you mean \"fever\"?",
        ),
        (
            "[\"sex\", \"fever\"]",
            "[]",
            "name the features the model reads",
        ),
    ] {
        let error = fault(old, new);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_pipelines_name_can_begin_a_topics() {
    for name in [
        "Ward",
        "",
        ".ward",
        "-",
        "a/b",
        "a b",
        "ward\u{e9}",
        "quadrille",
        "quadrille.x",
    ] {
        let error = fault("\"ward\"", &format!("{name:?}"));
        assert!(error.starts_with("ward.toml:1: name: "), "{error}");
    }
    let error = fault("\"ward\"", &format!("{:?}", "a".repeat(101)));
    assert!(error.contains("at most 100 characters"), "{error}");
    for name in ["a", "0.x_y-z", &"a".repeat(100)] {
        let text = WARD.replacen("\"ward\"", &format!("{name:?}"), 1);
        assert_eq!(Pipeline::parse("x", &text).unwrap().name(), name);
    }
}

#[test]
fn the_label_is_not_shown_to_the_model() {
    let label = |field| {
        format!("[label]\nfield = \"{field}\"\npositive = \"1\"\nnegative = \"0\"\n[model]")
    };
    assert!(fault("[model]", &label("beats")).contains("must not see the truth"));
    assert!(fault("[model]", &label("bed")).contains("must not see the truth"));
    let text = WARD.replace("[model]", &label("died"));
    let label = Pipeline::parse("x", &text).unwrap().label().cloned();
    let truth = Truth::Two {
        positive: "1".to_owned(),
        negative: "0".to_owned(),
    };
    assert_eq!(label.unwrap().truth, truth);
    assert!(fault("[model]", "[label]\nfield = \"x\"\n[model]").contains("as the training data"));
}

#[test]
fn a_syntax_error_has_its_line() {
    let error = fault("[record]", "[record");
    assert!(error.starts_with("ward.toml:2: not TOML: "), "{error}");
    let error = fault("key = \"bed\"", "key = \"bed\"\nkey = \"bed\"");
    assert!(
        error.starts_with("ward.toml:4: not TOML: duplicate key"),
        "{error}"
    );
    assert!(
        Pipeline::parse("x", "")
            .unwrap_err()
            .to_string()
            .contains("\"name\" is missing")
    );
}
