//! Training data of features that look back: the past again, row by row.

use proptest::collection::vec;
use proptest::prelude::*;
use quadrille_pipeline::training::{Options, Order};
use quadrille_pipeline::{Arrival, Pipeline, Replay, Replayed, Training};

use super::{cards, changed};

const HEADER: &str = "id,card,at,came,kind,amount,abroad,shop,fraud\n";

fn read(pipeline: &Pipeline, rows: &str, arrived: Option<&str>) -> Training {
    let options = Options {
        now_ms: None,
        arrived: arrived.map(str::to_owned),
    };
    let csv = format!("{HEADER}{rows}");
    pipeline
        .read_training_with(csv.as_bytes(), &options)
        .unwrap()
}

/// The line and class of each row that was left out.
fn skipped(training: &Training) -> Vec<(u64, &'static str)> {
    let skipped = training.skipped.iter();
    skipped.map(|(line, it)| (*line, it.class())).collect()
}

#[test]
fn rows_are_replayed_by_their_times_or_as_they_came() {
    let rows = "\
c,x,3000,1,purchase,9,,,no
a,x,1000,2,purchase,1,,,no
b,x,2000,3,purchase,4,,,yes
";
    let pipeline =
        Pipeline::parse("x", &changed("lateness = \"1h\"", "lateness = \"1500ms\"")).unwrap();
    let training = read(&pipeline, rows, None);
    let amounts: Vec<f64> = training.rows.iter().step_by(3).copied().collect();
    assert_eq!(amounts, [1.0, 4.0, 9.0]);
    assert_eq!(training.times_ms, [1_000, 2_000, 3_000].map(Some));
    assert_eq!(training.labels, [0.0, 1.0, 0.0]);
    // 9 over the mean of 1 and 4.
    assert_eq!(training.rows[7], 3.6);
    assert_eq!(training.past.as_ref().unwrap().order, Order::EventTime);
    let training = read(&pipeline, rows, Some("came"));
    let amounts: Vec<f64> = training.rows.iter().step_by(3).copied().collect();
    assert_eq!(amounts, [9.0, 4.0]);
    assert!(training.rows[1].is_nan(), "the first to come saw nothing");
    assert_eq!(skipped(&training), [(3, "late")]);
    assert_eq!(training.past.unwrap().order, Order::Column("came".into()));
}

/// The ids in the order in which the rows of a file are replayed.
fn replayed(rows: &[&str], arrived: Option<&str>) -> (Vec<String>, bool) {
    let mut ids = Vec::new();
    let options = Options {
        now_ms: None,
        arrived: arrived.map(str::to_owned),
    };
    let csv = format!("{HEADER}{}", rows.join("\n"));
    let batch = cards().read_features(csv.as_bytes(), &options, &mut |row, _| {
        ids.push(row.id.to_owned());
    });
    (ids, batch.unwrap().past.unwrap().newest_first)
}

#[test]
fn rows_of_equal_times_are_replayed_from_the_end_of_a_file_that_has_the_newest_first() {
    let oldest_first = [
        "a,x,1000,,purchase,1,,,no",
        "b,y,1000,,purchase,1,,,no",
        "c,x,1000,,purchase,2,,,no",
        "d,x,2000,,purchase,4,,,no",
        "e,y,2000,,purchase,4,,,no",
    ];
    let mut newest_first = oldest_first;
    newest_first.reverse();
    let expected = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    assert_eq!(replayed(&oldest_first, None), (expected.clone(), false));
    assert_eq!(replayed(&newest_first, None), (expected, true));
}

#[test]
fn rows_of_one_millisecond_are_replayed_as_their_times_say_all_the_same() {
    let rows = [
        "a,x,2026-01-31T12:00:00.000003Z,2026-01-31T12:00:00.000000002Z,purchase,1,,,no",
        "b,x,2026-01-31T12:00:00.000001Z,2026-01-31T12:00:00.000000003Z,purchase,1,,,no",
        "c,x,2026-01-31T12:00:00.000002Z,2026-01-31T12:00:00.000000001Z,purchase,1,,,no",
    ];
    assert_eq!(replayed(&rows, None).0, ["b", "c", "a"]);
    assert_eq!(replayed(&rows, Some("came")).0, ["c", "a", "b"]);
}

#[test]
fn event_times_are_judged_by_the_clock_of_the_arrival_where_the_file_has_it() {
    let of = |came: &str| {
        let options = Options {
            now_ms: Some(1_900_000_000_000),
            arrived: Some("came".into()),
        };
        let rows = format!(
            "a,x,2026-01-31T13:00:00Z,{came},purchase,1,,,no\nb,x,2026-01-31T12:01:00Z,{came},purchase,2,,,yes\n"
        );
        let csv = format!("{HEADER}{rows}");
        skipped(
            &cards()
                .read_training_with(csv.as_bytes(), &options)
                .unwrap(),
        )
    };
    assert_eq!(
        of("2026-01-31T12:00:00Z"),
        [(2, "bad_time")],
        "an hour ahead"
    );
    assert_eq!(of("2026-01-31T13:00:00Z"), []);
    assert_eq!(of("2999-01-31T13:00:00Z"), [], "no clock was ahead of ours");
    assert_eq!(of("1"), [], "a number may count anything");
}

#[test]
fn rows_without_a_vector_need_no_label_and_are_not_left_out() {
    let emit = "lateness = \"1h\"\nemit = { field = \"kind\", is = [\"purchase\"] }";
    let pipeline = Pipeline::parse("x", &changed("lateness = \"1h\"", emit)).unwrap();
    let rows = "\
a,x,1000,,block,,,,
b,x,2000,,purchase,2,,,no
c,x,3000,,refund,2,,,
d,x,4000,,purchase,2,,,
e,x,5000,,purchase,2,,,yes
";
    let training = read(&pipeline, rows, None);
    assert_eq!(training.labels, [0.0, 1.0]);
    assert_eq!(skipped(&training), [(5, "missing_field")]);
    let past = training.past.clone().unwrap();
    assert_eq!((past.keys, past.state_only), (1, 2));
    // Whoever has no label was there all the same.
    assert!(
        (training.rows[5] - 5.0 / 24.0).abs() < 1e-12,
        "{:?}",
        training.rows
    );
    assert_eq!(training.label_values.most().len(), 3);
}

#[test]
fn rows_without_a_place_in_a_history_are_left_out_with_the_reason() {
    let rows = "\
a,,1000,1,purchase,1,,,no
b,x,,1,purchase,1,,,no
c,x,soon,1,purchase,1,,,no
d,x,-5,1,purchase,1,,,no
e,x,1000,1,purchase,tall,,,no
f,x,1000,,purchase,1,,,no
g,x,1000,1,purchase,1,,,no
g,x,1000,1,purchase,1,,,no
,x,1000,1,purchase,1,,,yes
";
    let training = read(&cards(), rows, Some("came"));
    let classes = [
        (2, "bad_id"),
        (3, "missing_field"),
        (4, "bad_time"),
        (5, "bad_time"),
        (6, "wrong_type"),
        (7, "missing_field"),
        (9, "duplicate"),
    ];
    assert_eq!(skipped(&training), classes);
    assert_eq!(training.labels.len(), 2);
}

#[test]
fn a_file_without_key_time_or_the_column_of_arrival_is_refused() {
    let fault = |header: &str, arrived: Option<&str>| {
        let options = Options {
            now_ms: None,
            arrived: arrived.map(str::to_owned),
        };
        let csv = format!("{header}\n");
        let read = cards().read_training_with(csv.as_bytes(), &options);
        read.unwrap_err().to_string()
    };
    let fields = "kind,amount,fraud";
    let key = fault(&format!("at,{fields}"), None);
    assert!(
        key.contains("no column \"card\", and features of pipeline \"cards\" look back"),
        "{key}"
    );
    let time = fault(&format!("card,{fields}"), None);
    assert!(time.contains("no column \"at\""), "{time}");
    let came = fault(&format!("card,at,came,{fields}"), Some("cane"));
    assert!(
        came.contains("no column \"cane\"") && came.contains("did you mean \"came\"?"),
        "{came}"
    );
}

#[test]
fn without_an_id_the_number_of_the_row_stands_for_it() {
    let csv = "card,at,kind\nx,2000,purchase\nx,1000,purchase\nx,1000,purchase\nx,3000,purchase\n";
    let mut ids = Vec::new();
    let batch = cards().read_features(csv.as_bytes(), &Options::default(), &mut |row, features| {
        ids.push((row.id.to_owned(), row.line, features.len()));
    });
    assert_eq!(batch.unwrap().vectors, 4);
    let expected = [("2", 3, 4), ("3", 4, 4), ("1", 2, 4), ("4", 5, 4)];
    assert_eq!(
        ids,
        expected.map(|(id, line, width)| (id.to_owned(), line, width))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn training_sees_what_the_stream_saw(rows in vec((0..4u8, 0..40_i64, 0..3usize, -9..9i32, 0..30u8), 1..60)) {
        let pipeline = cards();
        let mut csv = HEADER.to_owned();
        for (came, (card, at, kind, amount, id)) in rows.iter().enumerate() {
            let (kind, at) = (["purchase", "refund", "block"][*kind], at * 600_000);
            let truth = if came % 2 == 0 { "yes" } else { "no" };
            csv += &format!("i-{id},c-{card},{at},{came},{kind},{amount},,,{truth}\n");
        }
        let options = Options { now_ms: None, arrived: Some("came".into()) };
        let training = pipeline.read_training_with(csv.as_bytes(), &options).unwrap();
        let mut replay = Replay::new(&pipeline);
        let (mut inputs, mut refused) = (Vec::new(), 0);
        for (card, at, kind, amount, id) in &rows {
            let values = [*kind as f64, f64::from(*amount), f64::NAN, f64::NAN];
            let (id, key) = (format!("i-{id}"), format!("c-{card}"));
            let arrival = Arrival { id: &id, key: &key, time_ms: at * 600_000, values: &values };
            match replay.push(&arrival) {
                Replayed::Vector(features) => pipeline.model_inputs(features, &mut inputs),
                _ => refused += 1,
            }
        }
        let bits = |values: &[f64]| values.iter().map(|it| it.to_bits()).collect::<Vec<u64>>();
        prop_assert_eq!(bits(&training.rows), bits(&inputs));
        prop_assert_eq!(training.skipped.len(), refused);
    }
}
