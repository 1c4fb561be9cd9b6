//! JSON records and lists of fields.

use csv::StringRecord;
use quadrille_pipeline::{Invalid, InvalidKind, NeedKey, Pipeline, Reading, Scalar};

use crate::{NOW_MS, RECORD, WARD, diabetes, ward};

/// What is said of the shipped record with `old` replaced by `new`.
fn invalid(old: &str, new: &str) -> Invalid {
    assert!(RECORD.contains(old), "{old}");
    diabetes()
        .read_json(RECORD.replacen(old, new, 1).as_bytes(), NOW_MS)
        .unwrap_err()
}

fn of_ward(json: &str) -> Result<Reading, Invalid> {
    ward().read_json(json.as_bytes(), NOW_MS)
}

#[test]
fn the_shipped_record_reads() {
    let reading = diabetes().read_json(RECORD.as_bytes(), NOW_MS).unwrap();
    assert_eq!(reading.id.as_deref(), Some("r-1"));
    assert_eq!(reading.key, "p-1");
    assert_eq!(reading.event_time_ms, Some(NOW_MS - 60_000));
    assert_eq!(reading.values[..4], [6.0, 148.0, 72.0, 35.0]);
    assert!(reading.values[4].is_nan());
    assert_eq!(reading.values[5..], [33.6, 0.627, 50.0]);
    assert!(reading.extra.is_empty());
}

#[test]
fn fields_come_in_any_order_and_the_optional_may_stay_away() {
    let json = r#"{"sex": "m", "temperature": 37.5, "bed": 17}"#;
    let reading = of_ward(json).unwrap();
    assert_eq!((reading.key.as_str(), reading.id), ("17", None));
    assert_eq!((reading.values[0], reading.values[3]), (37.5, 1.0));
    assert!(reading.values[1].is_nan() && reading.values[2].is_nan());
    let nulls = r#"{"bed": "a", "at": null, "temperature": 37, "sex": null, "beats": null}"#;
    assert!(of_ward(nulls).unwrap().values[3].is_nan());
}

#[test]
fn unknown_fields_are_kept_as_they_were_written() {
    let json = RECORD.replacen(
        '{',
        r#"{"ward": {"no": [1.50, null]}, "\u0061\n": "\u00e9", "#,
        1,
    );
    let reading = diabetes().read_json(json.as_bytes(), NOW_MS).unwrap();
    let extra = String::from_utf8(reading.extra).unwrap();
    assert_eq!(extra, r#"{"ward":{"no": [1.50, null]},"a\n":"\u00e9"}"#);
    assert!(
        serde_json::from_str::<serde_json::Value>(&extra)
            .unwrap()
            .is_object()
    );
}

#[test]
fn unknown_fields_are_refused_where_the_file_does_not_keep_them() {
    let error = of_ward(r#"{"bed": "a", "temprature": 37}"#).unwrap_err();
    assert_eq!(
        (error.class(), error.field.as_str()),
        ("unknown_field", "temprature")
    );
    assert!(
        error.fix.starts_with("did you mean \"temperature\"?"),
        "{error}"
    );
}

#[test]
fn an_unknown_field_is_told_the_fields_there_are() {
    for (name, begins) in [("temprature", "did you mean"), ("x", "remove it; ")] {
        let error = of_ward(&format!(r#"{{"bed": "a", "{name}": 37}}"#)).unwrap_err();
        assert!(
            error.fix.starts_with(begins) && error.fix.contains("the fields are \"bed\", "),
            "{error}"
        );
    }
}

#[test]
fn a_question_that_lacks_a_field_is_told_which_one_may_be_meant_for_it() {
    let ask = |name: &'static str| {
        let fields = [
            "pregnant", "pressure", "triceps", "insulin", "mass", "pedigree",
        ];
        let fields = fields.into_iter().chain([name, "glucose"]);
        let fields = fields.map(|field| (field, Scalar::Number(1.0)));
        let read = diabetes().read_fields(fields, NOW_MS, NeedKey::Optional);
        read.unwrap_err()
    };
    let (misspelt, other) = (ask("aeg"), ask("weight"));
    assert_eq!(
        (misspelt.class(), &*misspelt.field),
        ("missing_field", "age")
    );
    assert_eq!(
        misspelt.fix,
        format!(
            "is \"aeg\" meant, which is no field of the pipeline? Else {}",
            other.fix
        )
    );
}

#[test]
fn kept_fields_are_json_anybody_can_read() {
    for value in [
        r#""\ud800""#,
        "1e999",
        &("[".repeat(200) + &"]".repeat(200)),
    ] {
        let json = RECORD.replacen('{', &format!("{{\"x\": {value}, "), 1);
        let error = diabetes().read_json(json.as_bytes(), NOW_MS).unwrap_err();
        assert_eq!(
            (error.class(), error.field.as_str()),
            ("not_json", "x"),
            "{error}"
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        invalid("{", &format!("{{\"x\": {deep}, ")).class(),
        "not_json"
    );
}

#[test]
fn a_key_of_json_comes_once() {
    assert_eq!(
        invalid("\"age\": 50", "\"age\": 50, \"age\": 50").class(),
        "duplicate_field"
    );
    assert_eq!(
        invalid("\"age\": 50", "\"age\": 50, \"x\": 1, \"x\": 1").field,
        "x"
    );
    assert_eq!(
        invalid("\"age\": 50", "\"age\": 50, \"id\": null").field,
        "id"
    );
    assert_eq!(
        invalid("\"age\": 50", "\"age\": 50, \"\\u0061ge\": 50").class(),
        "duplicate_field"
    );
}

#[test]
fn a_required_field_must_be_there() {
    let error = invalid("\"glucose\": 148, ", "");
    assert_eq!(
        error.to_string(),
        "field \"glucose\": is missing; add it, or null if it was not measured"
    );
    let error = invalid("\"pedigree\": 0.627, ", "");
    assert_eq!(error.fix, "add it, a number, as in 2.5");
    assert_eq!(invalid("0.627", "null").class(), "missing_field");
    assert_eq!(invalid("\"patient_id\": \"p-1\", ", "").field, "patient_id");
    assert_eq!(invalid("\"p-1\"", "null").class(), "missing_field");
    let error = of_ward("{}").unwrap_err();
    assert_eq!(error.field, "bed");
    assert!(
        error
            .fix
            .ends_with("; \"temperature\", \"sex\" are missing too"),
        "{error}"
    );
}

#[test]
fn a_wrong_type_is_named_with_its_fix() {
    let error = invalid("148", "\"148\"");
    assert_eq!(
        error.to_string(),
        "field \"glucose\": is \"148\", a string; send it as a number, without quotes"
    );
    for value in ["true", "[1]", "{\"a\": 1}", "\"high\"", "[[[["] {
        assert_eq!(invalid("148", value).class(), "wrong_type", "{value}");
    }
    assert_eq!(invalid("50}", "50.5}").reason, "50.5 is not a whole number");
    assert_eq!(invalid("\"p-1\"", "1.5").class(), "wrong_type");
    let error = of_ward(r#"{"bed": "a", "sex": "x"}"#).unwrap_err();
    assert_eq!(error.kind, InvalidKind::UnknownCategory);
}

#[test]
fn a_value_out_of_range_is_named_with_its_limits() {
    let error = invalid("148", "601");
    assert_eq!(error.class(), "out_of_range");
    assert!(
        error.fix.starts_with("send a value from 0 to 600"),
        "{error}"
    );
    assert_eq!(invalid("148", "-1").class(), "out_of_range");
    for value in ["1e999", "-1e999"] {
        let error = invalid("148", value);
        assert_eq!(
            (error.class(), error.field.as_str()),
            ("out_of_range", "glucose"),
            "{error}"
        );
    }
}

#[test]
fn bytes_that_are_no_record_are_told_apart() {
    let class = |bytes: &[u8]| diabetes().read_json(bytes, NOW_MS).unwrap_err().class();
    assert_eq!(class(b""), "empty");
    assert_eq!(class(b" \r\n\t"), "empty");
    assert_eq!(class("\u{feff}".as_bytes()), "empty");
    assert_eq!(class(b"{\"a\": \"\xff\"}"), "not_utf8");
    for text in [
        "{",
        "{]",
        "nonsense",
        "{\"glucose\": NaN}",
        "{'a': 1}",
        "{\"a\": 1,}",
        "[1",
    ] {
        let found = class(text.as_bytes());
        assert!(
            found == "not_json" || text == "[1" && found == "not_object",
            "{text}: {found}"
        );
    }
    for text in ["[]", "1", "\"text\"", "null", "true", "[{}]", "1.5"] {
        assert_eq!(class(text.as_bytes()), "not_object", "{text}");
    }
    for rest in ["{}", "x", ",", "\0"] {
        assert_eq!(
            class(format!("{RECORD}{rest}").as_bytes()),
            "trailing_bytes",
            "{rest}"
        );
    }
    let marked = format!("\u{feff}{RECORD}\n");
    assert!(diabetes().read_json(marked.as_bytes(), NOW_MS).is_ok());
}

#[test]
fn a_number_that_json_does_not_have_is_told_to_be_null() {
    for word in ["NaN", "nan", "Infinity", "-Infinity", "-inf", "undefined"] {
        let error = invalid("148", word);
        assert_eq!((error.class(), &*error.field), ("not_json", "glucose"));
        assert!(
            error
                .reason
                .starts_with(&format!("{word} is not JSON (line ")),
            "{error}"
        );
        assert_eq!(
            error.fix,
            "send null (in CSV: leave the cell empty) if it was not measured"
        );
        let kept = invalid("{", &format!("{{\"x\": {word}, "));
        assert_eq!(
            (kept.class(), &*kept.field, &*kept.fix),
            ("not_json", "x", "send null")
        );
        let quoted = invalid("148", &format!("\"{word}\""));
        assert_eq!(quoted.class(), "wrong_type");
        assert!(
            word == "undefined" || quoted.fix.starts_with("send null"),
            "{quoted}"
        );
    }
    let error = of_ward("{\"bed\": \"a\",\n \"temperature\":\n  NaN}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "field \"temperature\": NaN is not JSON (line 3, column 3); \
         send a number, as in 27.5: the field is required and may not be null"
    );
    let error = invalid("148", "Nancy");
    assert!(error.reason.starts_with("is not JSON: "), "{error}");
    let fields = [("glucose", Scalar::Number(f64::NEG_INFINITY))];
    let error = diabetes()
        .read_fields(fields.into_iter(), NOW_MS, NeedKey::Optional)
        .unwrap_err();
    assert!(
        error.reason.starts_with("-Infinity is not")
            && error.fix.ends_with("or null if it was not measured"),
        "{error}"
    );
}

#[test]
fn a_boolean_is_true_or_false_or_1_or_0_wherever_it_comes_from() {
    let json = |value: &str| {
        let json = format!(
            "{{\"bed\": \"a\", \"temperature\": 37, \"sex\": \"f\", \"ventilated\": {value}}}"
        );
        of_ward(&json).map(|reading| reading.values[2])
    };
    let cell = |cell: &str| {
        let header = StringRecord::from(vec!["bed", "temperature", "sex", "ventilated"]);
        let columns = ward().csv_reader(&header).unwrap();
        let row = StringRecord::from(vec!["a", "37", "f", cell]);
        ward()
            .read_csv_row(&columns, &row, NOW_MS)
            .map(|reading| reading.values[2])
    };
    for (text, expected) in [
        ("true", 1.0),
        ("1", 1.0),
        ("1.0", 1.0),
        ("false", 0.0),
        ("0", 0.0),
        ("-0.0", 0.0),
    ] {
        assert_eq!(
            (json(text), cell(text)),
            (Ok(expected), Ok(expected)),
            "{text}"
        );
    }
    for text in ["2", "0.5", "-1"] {
        assert_eq!(
            (
                json(text).unwrap_err().class(),
                cell(text).unwrap_err().class()
            ),
            ("wrong_type", "wrong_type")
        );
    }
    assert_eq!(cell("TRUE"), Ok(1.0));
    let error = json("\"true\"").unwrap_err();
    assert!(
        error
            .fix
            .starts_with("send true or false (or 1 or 0), without quotes, or null"),
        "{error}"
    );
}

#[test]
fn what_null_a_marker_and_an_absent_field_mean_is_what_the_file_says() {
    // Required without markers, required with markers, not required.
    let fields = [
        ("temperature", "37", None),
        ("sex", "\"f\"", Some("\"unknown\"")),
        ("beats", "60", None),
    ];
    let read = |name: &str, value: Option<&str>| {
        let others = fields.iter().filter(|(other, ..)| *other != name);
        let others = others.map(|(name, value, _)| format!(", \"{name}\": {value}"));
        let own = value.map(|value| format!(", \"{name}\": {value}"));
        let json = format!(
            "{{\"bed\": \"a\"{}}}",
            others.chain(own).collect::<String>()
        );
        let at = ["temperature", "beats", "ventilated", "sex"]
            .iter()
            .position(|it| *it == name)
            .unwrap();
        of_ward(&json)
            .map(|reading| reading.values[at].is_nan())
            .map_err(|error| error.class())
    };
    let refused = Err("missing_field");
    for (name, absent, null) in [
        ("temperature", refused, refused),
        ("sex", refused, Ok(true)),
        ("beats", Ok(true), Ok(true)),
    ] {
        assert_eq!(
            (read(name, None), read(name, Some("null"))),
            (absent, null),
            "{name}"
        );
    }
    assert_eq!(read("sex", fields[1].2), Ok(true));
    assert_eq!(read("sex", Some("\"f\"")), Ok(false));
}

#[test]
fn examples_in_errors_are_of_the_pipeline_at_hand() {
    let fix = of_ward("[]").unwrap_err().fix;
    assert_eq!(
        fix,
        r#"send one JSON object, as in {"bed": "b-1", "temperature": 27.5, "sex": "f"}"#
    );
    let error = of_ward(r#"{"bed": "a", "temperature": null, "sex": "f"}"#).unwrap_err();
    assert!(
        error
            .fix
            .starts_with("send a number, as in 27.5: the field is required"),
        "{error}"
    );
    let shown = diabetes().read_json(b"", NOW_MS).unwrap_err().fix;
    assert!(
        shown.ends_with(
            r#"{"patient_id": "p-1", "pregnant": 8, "glucose": 150, "pressure": 75, …}"#
        ),
        "{shown}"
    );
}

#[test]
fn times_are_read_and_bad_ones_refused() {
    let time = "\"2026-01-31T11:59:00Z\"";
    let read = |value: &str| {
        diabetes()
            .read_json(RECORD.replacen(time, value, 1).as_bytes(), NOW_MS)
            .unwrap()
    };
    assert_eq!(read("1769860740000").event_time_ms, Some(1_769_860_740_000));
    assert_eq!(
        read("1769860740000.0").event_time_ms,
        Some(1_769_860_740_000)
    );
    assert_eq!(read("null").event_time_ms, None);
    assert_eq!(
        read("\"2026-01-31T12:05:00Z\"").event_time_ms,
        Some(NOW_MS + 300_000)
    );
    for value in [
        "\"2300-01-01T00:00:00Z\"",
        "\"2026-01-31T12:05:00.001Z\"",
        "\"1969-12-31T23:59:59Z\"",
        "-1",
        "18446744073709551615",
        "1.5",
        "1e300",
        "\"\"",
        "\"yesterday\"",
    ] {
        let error = invalid(time, value);
        assert_eq!(
            (error.class(), error.field.as_str()),
            ("bad_time", "event_time"),
            "{value}"
        );
    }
    assert_eq!(invalid(time, "true").class(), "wrong_type");
}

#[test]
fn a_time_in_seconds_is_refused_unless_a_pipeline_takes_times_that_old() {
    let record = r#"{"bed": "a", "at": 1769860740, "temperature": 37, "sex": "f"}"#;
    let error = of_ward(record).unwrap_err();
    assert_eq!((error.class(), error.field.as_str()), ("bad_time", "at"));
    assert!(error.fix.contains("1769860740000"), "{error}");
    let old = WARD.replacen("event_time =", "past_max = \"30000d\"\nevent_time =", 1);
    let old = Pipeline::parse("ward.toml", &old).unwrap();
    let reading = old.read_json(record.as_bytes(), NOW_MS).unwrap();
    assert_eq!(reading.event_time_ms, Some(1_769_860_740));
}

#[test]
fn ids_and_keys_are_short_printable_texts() {
    let long = format!("{:?}", "x".repeat(513));
    for value in ["\"\"", "\"a\\u0000\"", &long] {
        assert_eq!(invalid("\"p-1\"", value).class(), "bad_id", "{value}");
        assert_eq!(invalid("\"r-1\"", value).class(), "bad_id", "{value}");
    }
    assert!(diabetes().check_id("a").is_ok());
    assert_eq!(diabetes().check_id("").unwrap_err().class(), "bad_id");
}

#[test]
fn what_is_said_of_a_huge_record_is_short() {
    let huge = "x".repeat(1_000_000);
    for error in [
        invalid("148", &format!("{huge:?}")),
        invalid("\"p-1\"", &format!("{huge:?}")),
        invalid("\"2026-01-31T11:59:00Z\"", &format!("{huge:?}")),
        invalid("148", &"1".repeat(300)),
        invalid("{", &format!("{{{huge:?}: 1, {huge:?}: 2, ")),
        of_ward(&format!("{{{huge:?}: 1}}")).unwrap_err(),
        of_ward(&format!("{{\"bed\": \"a\", \"sex\": {huge:?}}}")).unwrap_err(),
    ] {
        assert!(error.to_string().len() < 1_000, "{error}");
    }
}

#[test]
fn a_reading_used_again_keeps_nothing_of_the_last_record() {
    let mut reading = Reading::default();
    let json = RECORD.replacen('{', "{\"x\": 1, ", 1);
    diabetes()
        .read_json_into(json.as_bytes(), NOW_MS, &mut reading)
        .unwrap();
    assert!(!reading.extra.is_empty());
    let json = r#"{"bed": "a", "temperature": 37, "sex": "f"}"#;
    ward()
        .read_json_into(json.as_bytes(), NOW_MS, &mut reading)
        .unwrap();
    assert_eq!(
        (reading.id, reading.event_time_ms, reading.key.as_str()),
        (None, None, "a")
    );
    assert!(reading.extra.is_empty() && reading.values.len() == 4 && reading.values[1].is_nan());
}

#[test]
fn a_list_of_fields_reads_like_json() {
    let fields = [
        ("temperature", Scalar::Number(37.0)),
        ("beats", Scalar::Null),
        ("ventilated", Scalar::Bool(true)),
        ("sex", Scalar::Text("f")),
    ];
    let read = |more: &[(&'static str, Scalar<'static>)], need| {
        ward().read_fields(fields.iter().chain(more).copied(), NOW_MS, need)
    };
    let reading = read(&[], NeedKey::Optional).unwrap();
    assert_eq!((reading.key.as_str(), reading.values[2]), ("", 1.0));
    assert_eq!(
        read(&[("bed", Scalar::Null)], NeedKey::Optional)
            .unwrap()
            .key,
        ""
    );
    assert_eq!(
        read(&[("bed", Scalar::Number(7.0))], NeedKey::Required)
            .unwrap()
            .key,
        "7"
    );
    assert_eq!(read(&[], NeedKey::Required).unwrap_err().field, "bed");
    assert_eq!(
        read(&[("bed", Scalar::Text(""))], NeedKey::Optional)
            .unwrap_err()
            .class(),
        "bad_id"
    );
    assert_eq!(
        read(&[("sex", Scalar::Null)], NeedKey::Optional)
            .unwrap_err()
            .class(),
        "duplicate_field"
    );
    assert_eq!(
        read(&[("at", Scalar::Json("[]"))], NeedKey::Optional)
            .unwrap_err()
            .class(),
        "wrong_type"
    );
}

#[test]
fn the_name_of_an_unknown_field_is_short_wherever_it_comes_from() {
    let of = |bytes: usize| {
        let name = "n".repeat(bytes);
        let json = RECORD.replacen('{', &format!("{{\"{name}\": 1, "), 1);
        let fields = [
            ("patient_id", Scalar::Text("a")),
            (name.as_str(), Scalar::Null),
        ];
        let class = |read: Result<_, quadrille_pipeline::Invalid>| {
            let refused = read.err().filter(|it| it.reason.contains("257 bytes"));
            refused.map(|it| (it.class(), it.to_string().len() < 300))
        };
        let listed = |need| class(diabetes().read_fields(fields.into_iter(), NOW_MS, need));
        [
            class(diabetes().read_json(json.as_bytes(), NOW_MS)),
            listed(NeedKey::Required),
            listed(NeedKey::Optional),
        ]
    };
    assert_eq!(of(256), [None; 3]);
    assert_eq!(of(257), [Some(("unknown_field", true)); 3]);
}

#[test]
fn a_question_keeps_nothing_that_it_does_not_know() {
    let json: serde_json::Value = serde_json::from_str(RECORD).unwrap();
    let known = json.as_object().unwrap().iter();
    let known = known.map(|(name, value)| match value {
        serde_json::Value::String(text) => (name.as_str(), Scalar::Text(text)),
        number => (name.as_str(), Scalar::Number(number.as_f64().unwrap())),
    });
    let read = |value| {
        let fields = known.clone().chain([("x", value)]);
        diabetes().read_fields(fields, NOW_MS, NeedKey::Optional)
    };
    assert!(read(Scalar::Json("[1, 2]")).unwrap().extra.is_empty());
    let refused = read(Scalar::Number(f64::NAN)).unwrap_err();
    assert_eq!(refused.class(), "out_of_range");
}

#[test]
fn a_list_of_fields_keeps_what_it_does_not_know() {
    let read = |value| {
        let json: serde_json::Value = serde_json::from_str(RECORD).unwrap();
        let known = json
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (name.as_str(), Scalar::Text(text)),
                number => (name.as_str(), Scalar::Number(number.as_f64().unwrap())),
            });
        diabetes().read_fields(known.chain([("x", value)]), NOW_MS, NeedKey::Required)
    };
    for (value, extra) in [
        (Scalar::Null, "null"),
        (Scalar::Bool(false), "false"),
        (Scalar::Number(1.0), "1.0"),
        (Scalar::Text("a\"b"), r#""a\"b""#),
        (Scalar::Json("[1, 2]"), "[1, 2]"),
    ] {
        assert_eq!(
            read(value).unwrap().extra,
            format!("{{\"x\":{extra}}}").into_bytes()
        );
    }
    assert_eq!(
        read(Scalar::Number(f64::NAN)).unwrap_err().class(),
        "out_of_range"
    );
    assert_eq!(read(Scalar::Json("[1,")).unwrap_err().class(), "not_json");
    assert_eq!(read(Scalar::Json("1} {")).unwrap_err().class(), "not_json");
}
