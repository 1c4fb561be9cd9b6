//! What files become.

use super::*;

const PIMA: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));
const NAMING: Naming<'_> = Naming {
    stem: "pima",
    pass: 1,
    key_field: None,
};

fn diabetes() -> Pipeline {
    Pipeline::parse(
        "diabetes.toml",
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/pipelines/diabetes.toml"
        )),
    )
    .unwrap()
}

fn small() -> Pipeline {
    let text = r#"
        name = "small"
        features = [{ name = "x", kind = "pass", field = "x" }]
        model = { inputs = ["x"] }
        [record]
        id = "id"
        key = "who"
        unknown_fields = "keep"
        fields = [
            { name = "x", type = "number", required = false },
            { name = "smoker", type = "boolean", required = false },
            { name = "ward", type = "category", categories = ["1", "2"], required = false },
        ]
        [label]
        field = "truth"
        positive = "1"
        negative = "0"
    "#;
    Pipeline::parse("small.toml", text).unwrap()
}

fn items(text: &[u8], naming: &Naming<'_>) -> Vec<Item> {
    let rows = CsvRows::new(&small(), text, naming).unwrap();
    rows.map(Result::unwrap).collect()
}

fn row(key: Option<&str>, payload: &str) -> Item {
    Item::Row(Row {
        key: key.map(str::to_owned),
        payload: payload.as_bytes().to_vec(),
    })
}

#[test]
fn the_bundled_data_become_records_the_pipeline_reads() {
    let pipeline = diabetes();
    let rows = CsvRows::new(&pipeline, PIMA, &NAMING).unwrap();
    assert_eq!(rows.notes().len(), 3);
    let mut count = 0;
    for (at, item) in rows.enumerate() {
        let Item::Row(row) = item.unwrap() else {
            panic!("row {at} was refused")
        };
        let reading = pipeline.read_json(&row.payload, 0).unwrap();
        let name = format!("pima-{}", at + 1);
        assert_eq!((reading.id.as_deref(), &reading.key), (Some(&*name), &name));
        assert!(reading.extra.is_empty(), "the truth must not travel");
        count += 1;
    }
    assert_eq!(count, 768);
}

#[test]
fn the_first_row_is_written_with_its_numbers_as_they_were() {
    let mut rows = CsvRows::new(&diabetes(), PIMA, &NAMING).unwrap();
    let expected = r#"{"id":"pima-1","patient_id":"pima-1","pregnant":6,"glucose":148,"pressure":72,"triceps":35,"insulin":0,"mass":33.6,"pedigree":0.627,"age":50}"#;
    assert_eq!(rows.next().unwrap().unwrap(), row(Some("pima-1"), expected));
}

#[test]
fn a_byte_order_mark_a_quoted_line_break_and_quotes_survive() {
    let text = "\u{feff}id,who,x,note\r\n1,p-1,2.50,\"two\nlines, \"\"quoted\"\"\"\r\n";
    let expected = r#"{"id":"1","who":"p-1","x":2.50,"note":"two\nlines, \"quoted\""}"#;
    assert_eq!(
        items(text.as_bytes(), &NAMING),
        [row(Some("p-1"), expected)]
    );
}

#[test]
fn cells_take_the_form_of_their_field() {
    let text =
        "who,id,x,smoker,ward,when,code\n 007 ,9,+.5,TRUE,1,1700000000000,007\np,,tall,no,2,,\n";
    assert_eq!(
        items(text.as_bytes(), &NAMING),
        [
            row(
                Some("007"),
                r#"{"who":"007","id":"9","x":0.5,"smoker":true,"ward":"1","when":1700000000000,"code":"007"}"#
            ),
            row(
                Some("p"),
                r#"{"who":"p","x":"tall","smoker":"no","ward":"2"}"#
            ),
        ]
    );
}

#[test]
fn an_empty_key_is_no_key_and_the_label_may_be_missing_or_there() {
    let expected = [row(None, r#"{"id":"1","x":2}"#)];
    assert_eq!(items(b"id,who,x\n1,,2\n", &NAMING), expected);
    assert_eq!(items(b"id,who,truth,x\n1,,1,2\n", &NAMING), expected);
}

#[test]
fn another_pass_is_of_the_same_entities_with_new_ids() {
    let naming = Naming { pass: 3, ..NAMING };
    let expected = r#"{"id":"pima-1-3","who":"pima-1","x":2}"#;
    assert_eq!(items(b"x\n2\n", &naming), [row(Some("pima-1"), expected)]);
}

#[test]
fn another_columns_key_becomes_the_pipelines() {
    let naming = Naming {
        key_field: Some("mrn"),
        ..NAMING
    };
    let expected = r#"{"id":"pima-1","who":"17","mrn":"17","x":2}"#;
    assert_eq!(
        items(b"mrn,x\n17,2\n", &naming),
        [row(Some("17"), expected)]
    );
    let error = CsvRows::new(&small(), &b"x\n2\n"[..], &naming)
        .err()
        .unwrap();
    assert!(error.to_string().contains("no column \"mrn\""), "{error}");
}

#[test]
fn a_row_of_another_length_or_not_utf8_is_refused_with_its_line() {
    let text = b"who,x\np,1\np,1,2\np,\xff\nq,2\n";
    let found = items(text, &NAMING);
    let windows: Vec<u8> = text
        .iter()
        .flat_map(|byte| match byte {
            b'\n' => b"\r\n".to_vec(),
            byte => vec![*byte],
        })
        .collect();
    assert_eq!(
        found,
        items(&windows, &NAMING),
        "lines are those of an editor"
    );
    let refused: Vec<u64> = found
        .iter()
        .filter_map(|item| match item {
            Item::Refused { line, .. } => Some(*line),
            Item::Row(_) => None,
        })
        .collect();
    assert_eq!((found.len(), refused), (4, vec![3, 4]));
}

#[test]
fn a_header_no_record_could_have_is_wrong_usage() {
    for wrong in [&b""[..], b"\n", b"glucose,age\n", b"age,age\n"] {
        let error = CsvRows::new(&diabetes(), wrong, &NAMING).err();
        assert!(matches!(error, Some(Error::Config(_))), "{wrong:?}");
    }
}

fn json(text: &str) -> Vec<Result<Item, Error>> {
    JsonRows::new(&small(), text.as_bytes(), &NAMING).collect()
}

#[test]
fn lines_of_json_travel_as_they_are_with_their_key() {
    let found = json("\u{feff}{\"who\": \"p\", \"x\": 1.50}\r\n\n  {\"who\":17}\n{\"x\":1}");
    let found: Vec<Item> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        found,
        [
            row(Some("p"), "{\"who\": \"p\", \"x\": 1.50}"),
            row(Some("17"), "{\"who\":17}"),
            row(None, "{\"x\":1}"),
        ]
    );
}

#[test]
fn a_number_that_json_does_not_have_is_told_to_be_null() {
    let found = json("{\"who\":\"p\",\"x\":1}\n{\"who\":\"p\",\"x\":NaN}\n");
    let Ok(Item::Refused { line: 2, reason }) = &found[1] else {
        panic!("{found:?}");
    };
    assert!(reason.contains("NaN is not JSON"), "{reason}");
}

#[test]
fn lines_are_counted_as_editors_do_however_they_end() {
    let found = items(b"who,x\r\np,1\r\n\r\np,1,2\r\n", &NAMING);
    assert!(
        matches!(found[1], Item::Refused { line: 4, .. }),
        "{found:?}"
    );
}

#[test]
fn the_truth_does_not_travel_in_json_either() {
    let found = json("{\"who\":\"p\",\"truth\":1}\n").remove(0).unwrap();
    assert_eq!(found, row(Some("p"), "{\"who\":\"p\"}"));
}

#[test]
fn a_file_that_begins_otherwise_is_wrong_usage_and_a_later_line_is_refused() {
    assert!(matches!(json("[{\"x\":1}]")[0], Err(Error::Config(_))));
    let found = json("{\"x\":1}\n{\"x\":\n");
    assert!(matches!(found[1], Ok(Item::Refused { line: 2, .. })));
}
