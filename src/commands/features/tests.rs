use std::fs;

use ::parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};

use super::*;

const CARDS: &str = r#"name = "cards"
[record]
id = "id"
key = "card"
event_time = "at"
[[record.fields]]
name = "kind"
type = "category"
categories = ["purchase", "block"]
[[record.fields]]
name = "amount"
type = "number"
required = false
[state]
lateness = "1h"
emit = { field = "kind", is = ["purchase"] }
[[features]]
name = "sum"
kind = "sum"
field = "amount"
to = "1d"
[[features]]
name = "share"
kind = "ratio"
field = "amount"
over = "sum"
[model]
inputs = ["share", "sum"]
"#;

const DATA: &str = "\
id,card,at,came,kind,amount
a,c-1,2026-01-31T12:00:00Z,1,purchase,0.1
b,c-1,2026-01-31T11:30:00Z,2,purchase,0.2
c,c-1,2026-01-31T09:00:00Z,4,purchase,5
d,c-1,2026-01-31T12:10:00Z,3,block,7
a,c-1,2026-01-31T12:00:00Z,5,purchase,0.1
e,c-2,2026-01-31T12:00:00Z,6,purchase,
";

/// The command's result, and the file that it wrote.
fn features(pipeline: &str, data: &str, more: &[&str]) -> (Result<Written, Error>, String) {
    let folder = tempfile::tempdir().unwrap();
    features_in(folder.path(), pipeline, data, more)
}

fn features_in(
    folder: &Path,
    pipeline: &str,
    data: &str,
    more: &[&str],
) -> (Result<Written, Error>, String) {
    let written = features_to(folder, "y.csv", pipeline, data, more);
    let text = fs::read_to_string(folder.join("y.csv")).unwrap_or_default();
    (written, text)
}

fn features_to(
    folder: &Path,
    out: &str,
    pipeline: &str,
    data: &str,
    more: &[&str],
) -> Result<Written, Error> {
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(path("p.toml"), pipeline).unwrap();
    fs::write(path("x.csv"), data).unwrap();
    let (file, csv, to) = (path("p.toml"), path("x.csv"), path(out));
    let line = [
        "quadrille",
        "features",
        "--pipeline",
        &file,
        "--data",
        &csv,
        "--out",
        &to,
    ];
    let line = line.into_iter().chain(more.iter().copied());
    let cli = <crate::Cli as clap::Parser>::try_parse_from(line).unwrap();
    let Some(crate::commands::Command::Features(args)) = cli.command else {
        panic!("another command");
    };
    let pipeline = args.pipeline.one().unwrap();
    let written = write(&pipeline, &args);
    assert!(!folder.join(format!("{out}.part")).exists());
    written
}

#[test]
fn rows_are_written_in_the_order_of_their_times_with_what_they_saw() {
    let (written, text) = features(CARDS, DATA, &["--max-skipped", "1"]);
    let written = written.unwrap();
    assert_eq!(
        text,
        "id,key,event_time,sum,share\n\
         c,c-1,2026-01-31T09:00:00Z,5,1\n\
         b,c-1,2026-01-31T11:30:00Z,5.2,0.038461538461538464\n\
         a,c-1,2026-01-31T12:00:00Z,5.3,0.01886792452830189\n\
         e,c-2,2026-01-31T12:00:00Z,0,\n"
    );
    assert_eq!(written.skipped.reasons[0].class, "duplicate");
    assert_eq!(written.batch.past.as_ref().unwrap().state_only, 1);
}

#[test]
fn rows_that_the_stream_would_refuse_are_told_and_nothing_is_written() {
    let (refused, text) = features(CARDS, DATA, &["--arrived", "came"]);
    let refused = refused.unwrap_err().to_string();
    for part in [
        "2 of 6 rows cannot have features",
        "(line 4): field \"at\": the record comes 130m later than state.lateness (1h) allows",
        "(line 6): field \"id\": a record of this key with the id \"a\" came before",
        "so nothing was written",
        "add --max-skipped 2",
    ] {
        assert!(refused.contains(part), "{part}\n{refused}");
    }
    assert_eq!(text, "");
    let (written, text) = features(CARDS, DATA, &["--arrived", "came", "--max-skipped", "2"]);
    let past = past(written.unwrap().batch.past.as_ref()).unwrap();
    assert!(
        past.contains(
            "the rows of 2 keys were replayed in the order of the column \"came\"; 1 row is"
        ),
        "{past}"
    );
    let ids: Vec<&str> = text.lines().filter_map(|it| it.split(',').next()).collect();
    assert_eq!(ids, ["id", "a", "b", "e"]);
    let (refused, _) = features(CARDS, DATA, &["--arrived", "cam"]);
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("did you mean \"came\"?")
    );
}

#[test]
fn a_pipeline_that_does_not_look_back_needs_neither_key_nor_time() {
    let pipeline = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    ));
    let data = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));
    let (written, text) = features(pipeline, data, &[]);
    assert_eq!(written.unwrap().batch.vectors, 768);
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("id,key,event_time,pregnant,")
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("1,,,6,148,72,35,,33.6,0.627,50"),
        "{text}"
    );
}

/// The truth is for training: what comes is not known yet.
#[test]
fn a_file_needs_no_column_of_the_label_and_one_that_is_there_changes_nothing() {
    let label = "[label]\nfield = \"fraud\"\npositive = \"yes\"\nnegative = \"no\"\n";
    let pipeline = format!("{CARDS}{label}");
    let (plain, without) = features(&pipeline, DATA, &["--max-skipped", "1"]);
    assert_eq!(plain.unwrap().batch.vectors, 4);
    let labelled: Vec<String> = DATA
        .lines()
        .zip(["fraud", "yes", "no", "", "no", "?", "yes"])
        .map(|(line, label)| format!("{line},{label}"))
        .collect();
    let (written, with) = features(&pipeline, &labelled.join("\n"), &["--max-skipped", "1"]);
    assert!(written.is_ok());
    assert_eq!(with, without);
    let diabetes = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    ));
    let data = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));
    let cut = |line: &str| line.rsplit_once(',').map(|(fields, _)| fields.to_owned());
    let unlabelled: Vec<String> = data.lines().filter_map(cut).collect();
    let (written, text) = features(diabetes, &unlabelled.join("\n"), &[]);
    assert_eq!(written.unwrap().batch.vectors, 768);
    assert_eq!(text, features(diabetes, data, &[]).1);
}

/// What is read from a file of Parquet: the columns with their types, and the rows.
fn read_parquet(path: &Path) -> (Vec<String>, Vec<Vec<Field>>) {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr();
    let columns = schema.columns().iter();
    let columns = columns.map(|it| {
        let (kind, logical) = (it.physical_type(), it.logical_type_ref());
        format!("{} {kind} {logical:?}", it.name())
    });
    let rows = reader.get_row_iter(None).unwrap();
    let rows = rows.map(|row| {
        let cells = row.unwrap().into_columns().into_iter();
        cells.map(|(_, cell)| cell).collect()
    });
    (columns.collect(), rows.collect())
}

/// A cell of the CSV file says the same.
fn assert_same(field: &Field, cell: &str) {
    match field {
        Field::Null => assert_eq!(cell, ""),
        Field::Str(text) => assert_eq!(text, cell),
        Field::TimestampMillis(ms) => {
            let time: Timestamp = cell.parse().unwrap();
            assert_eq!(*ms, time.as_millisecond());
        }
        Field::Double(number) => {
            assert_eq!(number.to_bits(), cell.parse::<f64>().unwrap().to_bits());
        }
        other => panic!("{other:?}"),
    }
}

/// Both forms of the features of a file; what they hold is the same.
fn both(pipeline: &str, data: &str, more: &[&str]) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let (written, text) = features_in(folder.path(), pipeline, data, more);
    written.unwrap();
    let written = features_to(folder.path(), "y.parquet", pipeline, data, more);
    assert_eq!(
        written.unwrap().batch.vectors as usize + 1,
        text.lines().count()
    );
    let (columns, rows) = read_parquet(&folder.path().join("y.parquet"));
    let mut csv = ::csv::Reader::from_reader(text.as_bytes());
    let header = csv.headers().unwrap().clone();
    let names: Vec<&str> = columns
        .iter()
        .map(|it| it.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, header.iter().collect::<Vec<_>>());
    let mut count = 0;
    for (line, row) in csv.records().zip(&rows) {
        let line = line.unwrap();
        assert_eq!(line.len(), row.len());
        line.iter()
            .zip(row)
            .for_each(|(cell, field)| assert_same(field, cell));
        count += 1;
    }
    assert_eq!(count, rows.len());
    (columns, count)
}

#[test]
fn parquet_holds_what_the_csv_holds_bit_for_bit_and_knows_its_types() {
    let (columns, rows) = both(CARDS, DATA, &["--max-skipped", "1"]);
    assert_eq!(
        columns,
        [
            "id BYTE_ARRAY Some(String)",
            "key BYTE_ARRAY Some(String)",
            "event_time INT64 Some(Timestamp(TimestampType { is_adjusted_to_u_t_c: true, unit: MILLIS }))",
            "sum DOUBLE None",
            "share DOUBLE None",
        ]
    );
    assert_eq!(rows, 4);
    // Without keys and times; numbers of many kinds, and missing ones.
    let diabetes = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    ));
    let data = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/pima.csv"));
    assert_eq!(both(diabetes, data, &[]).1, 768);
    let header = "id,card,at,came,kind,amount";
    let amounts = [
        "-0.0",
        "5e-324",
        "1.7976931348623157e308",
        "0.1",
        "",
        "-1e16",
    ];
    let rows = amounts.iter().enumerate();
    let rows = rows.map(|(n, it)| format!("{n},é{n},{n},{n},purchase,{it}"));
    let data = [header.to_owned()].into_iter().chain(rows);
    let data = data.collect::<Vec<String>>().join("\n");
    let spec = CARDS.replace(
        "event_time = \"at\"",
        "event_time = \"at\"\npast_max = \"40000d\"",
    );
    assert_eq!(both(&spec, &data, &[]).1, amounts.len());
}

#[test]
fn the_form_follows_the_name_unless_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let begins = |out: &str, more: &[&str]| {
        let more = [&["--max-skipped", "1"], more].concat();
        let written = features_to(folder.path(), out, CARDS, DATA, &more);
        written.unwrap();
        fs::read(folder.path().join(out)).unwrap()[..4].to_vec()
    };
    assert_eq!(begins("a.parquet", &[]), b"PAR1");
    assert_eq!(begins("b.PARQUET", &[]), b"PAR1");
    assert_eq!(begins("c.txt", &[]), b"id,k");
    assert_eq!(begins("d.csv", &["--format", "parquet"]), b"PAR1");
    assert_eq!(begins("e.parquet", &["--format", "csv"]), b"id,k");
}

#[test]
fn a_parquet_file_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let refused = features_to(folder.path(), "y.parquet", CARDS, DATA, &[]);
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("nothing was written")
    );
    assert!(!folder.path().join("y.parquet").exists());
    // No row is no fault: a file without rows.
    let none = DATA.lines().next().unwrap();
    let written = features_to(folder.path(), "y.parquet", CARDS, none, &[]);
    assert_eq!(written.unwrap().batch.vectors, 0);
    let (columns, rows) = read_parquet(&folder.path().join("y.parquet"));
    assert_eq!((columns.len(), rows.len()), (5, 0));
}

#[test]
fn a_file_that_is_there_is_replaced_only_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (_, text) = features_in(folder.path(), CARDS, DATA, &["--max-skipped", "1"]);
    let (refused, same) = features_in(folder.path(), CARDS, DATA, &[]);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("y.csv exists already; choose another file, or add --replace"));
    assert_eq!(same, text);
    let fewer = DATA.lines().take(2).collect::<Vec<&str>>().join("\n");
    let (written, text) = features_in(folder.path(), CARDS, &fewer, &["--replace"]);
    assert_eq!(
        (written.unwrap().batch.vectors, text.lines().count()),
        (1, 2)
    );
}

#[test]
fn a_feature_of_the_name_of_another_column_is_refused() {
    let (refused, _) = features(&CARDS.replace("\"share\"", "\"key\""), DATA, &[]);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("feature \"key\" of pipeline \"cards\" has the name of another column"),
        "{refused}"
    );
}
