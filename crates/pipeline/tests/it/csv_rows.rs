//! CSV records and training data.

use csv::StringRecord;
use quadrille_pipeline::{Invalid, NeedKey, Pipeline, Reading, Scalar, training};

use crate::{NOW_MS, WARD, diabetes, repository, ward};

fn read(header: &[&str], row: &[&str]) -> Result<Reading, Invalid> {
    let pipeline = ward();
    let columns = pipeline.csv_reader(&StringRecord::from(header))?;
    pipeline.read_csv_row(&columns, &StringRecord::from(row), NOW_MS)
}

const HEADER: [&str; 5] = ["bed", "at", "temperature", "beats", "sex"];

#[test]
fn a_row_reads_by_its_header() {
    let reading = read(&HEADER, &["017", "2026-01-31T12:00:00Z", " 37.5", "", "m"]).unwrap();
    assert_eq!(
        (reading.key.as_str(), reading.event_time_ms),
        ("017", Some(NOW_MS))
    );
    assert_eq!((reading.values[0], reading.values[3]), (37.5, 1.0));
    assert!(reading.values[1].is_nan());
    let reading = read(&HEADER, &["a", "1769860800000", "37.5", "60", ""]).unwrap();
    assert_eq!(reading.event_time_ms, Some(NOW_MS));
    assert!(reading.values[3].is_nan());
}

#[test]
fn a_byte_order_mark_and_spaces_in_the_header_do_not_matter() {
    let header = ["\u{feff}bed", " temperature ", "sex", ""];
    assert_eq!(read(&header, &["a", "37", "f", "1"]).unwrap().key, "a");
}

#[test]
fn a_header_must_have_the_required_columns_once() {
    let error = read(&["bed", "beats"], &[]).unwrap_err();
    assert_eq!(
        (error.class(), error.field.as_str()),
        ("missing_field", "temperature")
    );
    assert!(
        error
            .to_string()
            .contains("the header has no such column; add the column"),
        "{error}"
    );
    assert_eq!(read(&["temperature", "sex"], &[]).unwrap_err().field, "bed");
    let error = read(&["bed", "temperature", "sex", "sex"], &[]).unwrap_err();
    assert_eq!(error.class(), "duplicate_field");
    let error = read(&["bed", "temperature", "sex", "beat"], &[]).unwrap_err();
    assert!(error.fix.starts_with("did you mean \"beats\"?"), "{error}");
}

#[test]
fn a_wrong_row_says_what_is_wrong() {
    let class = |row: &[&str]| read(&HEADER, row).unwrap_err().class();
    assert_eq!(class(&["a", "", "37", "60"]), "row_length");
    assert_eq!(class(&["", "", "37", "60", "f"]), "bad_id");
    assert_eq!(class(&["a", "", "", "60", "f"]), "missing_field");
    assert_eq!(class(&["a", "", "warm", "60", "f"]), "wrong_type");
    assert_eq!(class(&["a", "", "37", "60.5", "f"]), "wrong_type");
    assert_eq!(class(&["a", "", "99", "60", "f"]), "out_of_range");
    assert_eq!(class(&["a", "", "37", "60", "x"]), "unknown_category");
    assert_eq!(class(&["a", "noon", "37", "60", "f"]), "bad_time");
}

#[test]
fn a_number_that_is_none_is_told_to_leave_the_cell_empty() {
    let error = |row: &[&str]| read(&HEADER, row).unwrap_err().to_string();
    for cell in ["NaN", "nan", "inf", "-Infinity"] {
        assert_eq!(
            error(&["a", "", "37", cell, "f"]),
            format!(
                "field \"beats\": \"{cell}\" is not a finite number; leave the cell empty if it was not measured"
            )
        );
    }
    assert_eq!(
        error(&["a", "", "NaN", "60", "f"]),
        "field \"temperature\": \"NaN\" is not a finite number; write a number, as in 27.5: the field is required"
    );
    assert!(
        error(&["a", "", "37", "1e999", "f"])
            .contains("\"1e999\" is not a finite number; leave the cell")
    );
    assert!(
        error(&["a", "", "37", "NA", "f"])
            .ends_with("as in 2; leave the cell empty if not measured")
    );
}

#[test]
fn examples_are_of_the_pipeline_at_hand() {
    let error = |row: &[&str]| read(&HEADER, row).unwrap_err().to_string();
    assert!(
        error(&["a", "", "warm", "60", "f"]).ends_with("write digits with a point, as in 27.5")
    );
    let error = read(&["temperature", "sex"], &[]).unwrap_err();
    assert!(error.fix.ends_with("as in \"b-1\""), "{error}");
}

#[test]
fn the_label_is_passed_over_wherever_it_comes_and_whatever_it_holds() {
    let text = format!("{WARD}\n[label]\nfield = \"died\"\npositive = \"1\"\nnegative = \"0\"\n");
    let refusing = Pipeline::parse("ward.toml", &text).unwrap();
    let keeping = text.replace("event_time =", "unknown_fields = \"keep\"\nevent_time =");
    let keeping = Pipeline::parse("ward.toml", &keeping).unwrap();
    for pipeline in [refusing, keeping] {
        let header = StringRecord::from(vec!["bed", "died", "temperature", "sex"]);
        let columns = pipeline.csv_reader(&header).unwrap();
        let row = StringRecord::from(vec!["a", "maybe", "37", "f"]);
        let expected = pipeline.read_csv_row(&columns, &row, NOW_MS).unwrap();
        assert!(expected.extra.is_empty() && expected.values[0] == 37.0);
        for value in ["1", "null", "\"x\"", "[1, {}]", "{\"a\": [2]}", "1e999"] {
            let json = format!(
                "{{\"died\": {value}, \"bed\": \"a\", \"temperature\": 37, \"sex\": \"f\"}}"
            );
            let reading = pipeline.read_json(json.as_bytes(), NOW_MS).unwrap();
            assert!(
                reading.extra.is_empty() && reading.values[0] == 37.0,
                "{value}"
            );
        }
        let fields = [
            ("died", Scalar::Json("[1]")),
            ("bed", Scalar::Text("a")),
            ("temperature", Scalar::Number(37.0)),
            ("sex", Scalar::Text("f")),
        ];
        for need in [NeedKey::Required, NeedKey::Optional] {
            let reading = pipeline
                .read_fields(fields.into_iter(), NOW_MS, need)
                .unwrap();
            assert!(reading.extra.is_empty() && reading.values[0] == 37.0);
        }
        let twice = pipeline
            .read_json(br#"{"died": 1, "died": 0}"#, NOW_MS)
            .unwrap_err();
        assert_eq!((twice.class(), &*twice.field), ("duplicate_field", "died"));
        assert!(!pipeline.has_field("died"));
    }
}

#[test]
fn columns_a_pipeline_keeps_become_json() {
    let pipeline = diabetes();
    let fields = "pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age";
    let header: Vec<&str> = "patient_id,ward,note"
        .split(',')
        .chain(fields.split(','))
        .collect();
    let columns = pipeline.csv_reader(&StringRecord::from(header)).unwrap();
    let row: Vec<&str> = "p,\"a\",,6,148,72,35,0,33.6,0.6,50".split(',').collect();
    let reading = pipeline
        .read_csv_row(&columns, &StringRecord::from(row), NOW_MS)
        .unwrap();
    assert_eq!(reading.extra, br#"{"ward":"\"a\""}"#);
    assert!(reading.values[4].is_nan());
}

#[test]
fn the_data_set_trains_as_it_is() {
    let file = std::fs::File::open(repository().join("data/pima.csv")).unwrap();
    let training = diabetes().read_training(file).unwrap();
    assert_eq!(training.inputs, diabetes().inputs());
    let width = training.inputs.len();
    assert_eq!(
        (training.labels.len(), training.rows.len()),
        (768, 768 * width)
    );
    assert_eq!(training.labels.iter().sum::<f64>(), 268.0);
    assert!(training.skipped.is_empty());
    let missing = |column: usize| {
        training
            .rows
            .chunks(width)
            .filter(|row| row[column].is_nan())
            .count()
    };
    // pregnant, glucose, pressure, triceps, insulin, mass, pedigree, age
    let counts: Vec<usize> = (0..8).map(missing).collect();
    assert_eq!(counts, [0, 5, 35, 227, 374, 11, 0, 0]);
    let insulin_missing = training.rows.chunks(width).map(|row| row[8]).sum::<f64>();
    assert_eq!(insulin_missing, 374.0);
}

const TRAINING: &str = "pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age,diabetes";

#[test]
fn rows_that_cannot_be_used_are_listed_with_their_lines() {
    let mut data = format!("\u{feff}x,{TRAINING}\n").into_bytes();
    data.extend(b"1,6,148,72,35,0,33.6,0.627,50,pos\n"); // line 2
    data.extend(b"1,6,high,72,35,0,33.6,0.627,50,pos\n");
    data.extend(b"1,6,148,72,35,0,33.6,0.627,50,maybe\n");
    data.extend(b"1,6,148,72,35,0,33.6,0.627,50,\n");
    data.extend(b"1,6,148\n");
    data.extend(b"1,\xff,148,72,35,0,33.6,0.627,50,neg\n");
    data.extend(b"1,6,148,72,35,,33.6,0.627,50, neg\n");
    let training = diabetes().read_training(&data[..]).unwrap();
    assert_eq!(training.labels, [1.0, 0.0]);
    let skipped: Vec<(u64, &str)> = training
        .skipped
        .iter()
        .map(|(line, invalid)| (*line, invalid.class()))
        .collect();
    let expected = [
        (3, "wrong_type"),
        (4, "unknown_category"),
        (5, "missing_field"),
        (6, "row_length"),
        (7, "not_utf8"),
    ];
    assert_eq!(skipped, expected);
    assert!(
        training.skipped[1]
            .1
            .fix
            .contains(r#"write "pos" or "neg""#)
    );
}

#[test]
fn lines_are_counted_as_editors_do_however_they_end() {
    let row = "6,148,72,35,0,33.6,0.627,50";
    let data = format!("{TRAINING}\r\n{row},pos\r\n\r\n{row},maybe\r\n{row},neg\r\n1\r\n");
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    let lines: Vec<u64> = training.skipped.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [4, 6]);
}

#[test]
fn rows_of_one_key_are_one_entity_and_a_row_without_a_key_is_its_own() {
    let row = "6,148,72,35,0,33.6,0.627,50,pos";
    let data = format!(
        "event_time,patient_id,{TRAINING}\n2026-01-31T12:00:00Z,a,{row}\n1700000000000,b,{row}\n,,{row}\n\
         soon, a ,{row}\n7,,{row}\n"
    );
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    assert_eq!(training.entities, [0, 1, 2, 0, 3]);
    assert_eq!(
        training.times_ms,
        [
            Some(1_769_860_800_000),
            Some(1_700_000_000_000),
            None,
            None,
            Some(7)
        ]
    );
    let data = format!("{TRAINING}\n{row}\n{row}\n");
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    assert_eq!(training.entities, [0, 1]);
    assert_eq!(training.times_ms, [None, None]);
}

#[test]
fn data_that_cannot_train_says_why() {
    let fail = |data: &str| {
        diabetes()
            .read_training(data.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(fail("").contains("no header"));
    assert!(
        fail("a,b\n1,2\n").contains("header: field \"pregnant\": the header has no such column")
    );
    let typo = TRAINING.replace("diabetes", "diabets");
    assert!(fail(&typo).contains("no column \"diabetes\", the label; did you mean \"diabets\"?"));
    assert!(fail(TRAINING).contains("it ends after the header"));
    assert!(fail(&format!("{TRAINING}\n1\n")).contains("line 2: the row has 1 cells"));
    let error = ward().read_training(&b""[..]).unwrap_err();
    assert!(matches!(error, training::Error::NoLabel { .. }));
}

const ROW: &str = "6,148,72,35,0,33.6,0.627,50";

#[test]
fn a_line_is_counted_as_an_editor_counts_it_whatever_ends_it() {
    for end in ["\n", "\r\n"] {
        let data = format!("{TRAINING}\n{ROW},pos\n{ROW},maybe\n").replace('\n', end);
        let training = diabetes().read_training(data.as_bytes()).unwrap();
        assert_eq!(training.skipped[0].0, 3, "{end:?}");
    }
}

#[test]
fn a_label_that_occurs_nowhere_is_answered_with_the_values_there_are() {
    let nowhere = |labels: &[&str]| {
        let rows: String = labels.iter().map(|it| format!("{ROW},{it}\n")).collect();
        let training = diabetes().read_training(format!("{TRAINING}\n{rows}").as_bytes());
        let checked = training.and_then(|it| diabetes().check_labels(&it));
        checked.unwrap_err().to_string()
    };
    let typo = nowhere(&["Pos", "neg", "neg", ""]);
    assert!(
        typo.contains(
            r#"no row of the training data has positive = "pos" in the label's column "diabetes"; its values are "neg" in 2 rows, (empty) in 1 row, "Pos" in 1 row; did you mean positive = "Pos"?"#
        ),
        "{typo}"
    );
    // The one value that is left over is meant, however it is written.
    let other = nowhere(&["1", "neg"]);
    assert!(other.contains(r#"did you mean positive = "1"?"#), "{other}");
    let one = nowhere(&["pos", "pos"]);
    assert!(
        one.contains(r#"negative = "neg""#) && one.contains("bring rows of both"),
        "{one}"
    );
    // Not one row can be used.
    let none = nowhere(&["yes", "no"]);
    assert!(none.contains("its values are \"no\" in 1 row"), "{none}");
    let many: Vec<String> = (0..20).map(|at| format!("v{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(nowhere(&many).contains("… and 12 more"));
}

#[test]
fn ids_keys_and_times_that_the_services_would_not_take_are_remarked_on_with_their_lines() {
    let data = format!(
        "id,patient_id,event_time,{TRAINING}\r\n\
         a,p,2026-01-31T12:00:00Z,{ROW},pos\r\n\
         b,,1769860800000,{ROW},neg\r\n\
         a,q,soon,{ROW},neg\r\n\
         ,q,1769860800,{ROW},neg\r\n\
         a,q,,{ROW},neg\r\n"
    );
    let training = diabetes()
        .read_training_at(data.as_bytes(), NOW_MS)
        .unwrap();
    assert_eq!((training.labels.len(), training.skipped.len()), (5, 0));
    let found: Vec<(&str, &str, u64, &[u64])> = (training.remarks.iter())
        .map(|it| (it.class, &*it.field, it.rows, &*it.lines))
        .collect();
    assert_eq!(
        found,
        [
            ("bad_id", "patient_id", 1, &[3][..]),
            ("duplicate_id", "id", 2, &[4, 6]),
            ("bad_time", "event_time", 2, &[4, 5]),
            ("no_id", "id", 1, &[5]),
        ]
    );
    let said = training.remarks[1].to_string();
    assert_eq!(
        said,
        "column \"id\": 2 rows (lines 4, 6): the id \"a\" is that of line 2 too; of equal ids only the first prediction is stored"
    );
    let data = format!("{TRAINING}\n{ROW},pos\n");
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    let fields: Vec<&str> = training.remarks.iter().map(|it| &*it.field).collect();
    assert_eq!(fields, ["id", "patient_id", "event_time"]);
}

#[test]
fn training_data_that_ends_in_a_quote_is_refused_with_the_line_where_it_opens() {
    for end in ["\n", "\r\n"] {
        let rows = |count: usize| format!("{ROW},pos,fine\n{ROW},neg,\"so\nso\"\n").repeat(count);
        // More than the reader takes at once, before and after.
        let data = format!("{TRAINING},comment\n{}{ROW},neg,\"tall\n", rows(200))
            + &format!("{ROW},pos,fine\n").repeat(1_000);
        let error = diabetes().read_training(data.replace('\n', end).as_bytes());
        let error = error.unwrap_err();
        assert!(
            matches!(error, training::Error::Unclosed { line: 602 }),
            "{error}"
        );
        let said = error.to_string();
        assert!(said.contains("opens a cell in line 602"), "{said}");
    }
    let header = diabetes().read_training(format!("\"{TRAINING}\n{ROW},pos\n").as_bytes());
    assert!(matches!(header, Err(training::Error::Unclosed { line: 1 })));
}

#[test]
fn cells_with_line_breaks_are_remarked_on_since_they_may_hold_rows() {
    let data = format!(
        "{TRAINING},comment\n{ROW},pos,\"tall\n{ROW},neg,fine\n{ROW},pos,\"short\"\n{ROW},neg,\"a \"\"b\"\"\"\n"
    );
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    assert_eq!((training.labels.len(), training.skipped.len()), (2, 0));
    let remark = training.remarks.last().unwrap();
    assert_eq!((remark.class, &*remark.field), ("line_break", "comment"));
    assert_eq!((remark.rows, &*remark.lines), (1, &[2][..]));
    assert!(remark.reason.contains("2 line breaks"), "{remark}");
    let data = format!("{TRAINING},comment\n{ROW},pos,\"tall\"\n");
    let training = diabetes().read_training(data.as_bytes()).unwrap();
    assert!(training.remarks.iter().all(|it| it.class != "line_break"));
}
