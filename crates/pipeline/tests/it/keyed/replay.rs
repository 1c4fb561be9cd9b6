//! What a record sees of those before it, by example.

use quadrille_pipeline::{Arrival, Pipeline, Replay, Replayed, Taken};
use serde_json::{Value, json};

use super::{cards, changed};
use crate::NOW_MS;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Records in the order they come; what became of each.
struct Player {
    pipeline: Pipeline,
    replay: Replay,
    came: usize,
}

impl Player {
    fn new(pipeline: Pipeline) -> Self {
        Player {
            replay: Replay::new(&pipeline),
            pipeline,
            came: 0,
        }
    }

    fn of(text: &str) -> Self {
        Player::new(Pipeline::parse("x.toml", text).unwrap())
    }

    /// A record without its id, which is a new one, and `at`, so long before now.
    fn push(&mut self, ago: i64, mut record: Value) -> Result<Vec<f64>, Taken> {
        self.came += 1;
        if record["id"].is_null() {
            record["id"] = json!(format!("r-{}", self.came));
        }
        record["at"] = json!(NOW_MS - ago);
        let bytes = serde_json::to_vec(&record).unwrap();
        let reading = self.pipeline.read_json(&bytes, NOW_MS).unwrap();
        let replayed = self.replay.push(&Arrival {
            id: reading.id.as_deref().unwrap(),
            key: &reading.key,
            time_ms: reading.event_time_ms.unwrap(),
            values: &reading.values,
        });
        match replayed {
            Replayed::Vector(features) => Ok(features.to_vec()),
            Replayed::StateOnly => Err(Taken::StateOnly),
            Replayed::Duplicate => Err(Taken::Duplicate),
            Replayed::Late { by_ms } => Err(Taken::Late { by_ms }),
            Replayed::TooMany => Err(Taken::TooMany),
        }
    }
}

fn paid(card: &str, amount: f64) -> Value {
    json!({ "card": card, "kind": "purchase", "amount": amount })
}

/// The vector as text: `nan` where a feature is missing.
fn shown(vector: Result<Vec<f64>, Taken>) -> String {
    let vector = vector.unwrap();
    let shown: Vec<String> = vector.iter().map(|it| format!("{it:.4}")).collect();
    shown.join(" ").to_lowercase()
}

#[test]
fn a_payment_is_compared_with_those_of_its_card_before() {
    let mut cards = Player::new(cards());
    // amount, mean_7d, times_usual, hourly
    assert_eq!(
        shown(cards.push(9 * DAY, paid("a", 100.0))),
        "100.0000 nan nan 0.0417"
    );
    assert_eq!(
        shown(cards.push(3 * DAY, paid("a", 10.0))),
        "10.0000 100.0000 0.1000 0.0417"
    );
    let refund = json!({ "card": "a", "kind": "refund", "amount": 500 });
    assert_eq!(
        shown(cards.push(DAY, refund)),
        "500.0000 10.0000 50.0000 0.0417"
    );
    let without = json!({ "card": "a", "kind": "purchase", "amount": null });
    assert_eq!(shown(cards.push(DAY, without)), "nan 10.0000 nan 0.0833");
    assert_eq!(
        shown(cards.push(0, paid("b", 1.0))),
        "1.0000 nan nan 0.0417",
        "another card"
    );
    // A day ago is no longer within a day.
    assert_eq!(
        shown(cards.push(0, paid("a", 30.0))),
        "30.0000 10.0000 3.0000 0.0417"
    );
}

#[test]
fn nothing_later_is_seen_even_if_it_came_before() {
    let mut cards = Player::new(cards());
    cards.push(3 * HOUR, paid("a", 10.0)).unwrap();
    cards.push(HOUR, paid("a", 1_000.0)).unwrap();
    let late = cards.push(2 * HOUR, paid("a", 20.0));
    assert_eq!(shown(late), "20.0000 10.0000 2.0000 0.0833");
    // And it is seen by whoever comes after it.
    let next = cards.push(HOUR / 2, paid("a", 20.0)).unwrap();
    assert!((next[1] - 1_030.0 / 3.0).abs() < 1e-9, "{next:?}");
}

#[test]
fn what_comes_too_late_or_twice_or_too_often_changes_nothing() {
    let mut cards = Player::of(&changed(
        "lateness = \"1h\"",
        "lateness = \"1h\"\nevents_max = 3",
    ));
    let named = |id: &str| {
        let mut record = paid("a", 1.0);
        record["id"] = json!(id);
        record
    };
    cards.push(HOUR, named("one")).unwrap();
    assert_eq!(cards.push(HOUR, named("one")), Err(Taken::Duplicate));
    assert_eq!(
        cards.push(2 * HOUR + 5, named("two")),
        Err(Taken::Late { by_ms: 5 })
    );
    cards.push(2 * HOUR, named("two")).unwrap();
    cards.push(HOUR, named("three")).unwrap();
    assert_eq!(cards.push(HOUR, named("four")), Err(Taken::TooMany));
    // The reasons are what a dead letter says.
    for (taken, class, field, said) in [
        (
            Taken::Duplicate,
            "duplicate",
            "id",
            "a record of this key with the id \"r\" came before",
        ),
        (
            Taken::Late { by_ms: 5 },
            "late",
            "at",
            "the record comes 5ms later than state.lateness (1h) allows",
        ),
        (
            Taken::TooMany,
            "too_many_events",
            "card",
            "the key has 3 records within reach",
        ),
    ] {
        let invalid = cards.pipeline.refusal(taken, "r").unwrap();
        assert_eq!((invalid.class(), invalid.field.as_str()), (class, field));
        assert!(invalid.reason.contains(said), "{invalid}");
    }
    assert_eq!(cards.pipeline.refusal(Taken::StateOnly, "r"), None);
}

/// A feature of `CARDS` for each of these, over a card's payments of 4, 6, 6 and 12 at 30, 20, 10 and 0 hours ago.
fn seen(features: &[&str]) -> Vec<f64> {
    let mut text = changed("[model]", "");
    let features = features.iter().enumerate();
    let features = features.map(|(at, it)| format!("[[features]]\nname = \"f{at}\"\n{it}\n"));
    let (head, model) = text.split_at(text.find("\ninputs").unwrap());
    text = format!("{head}\n{}[model]{model}", features.collect::<String>());
    let mut player = Player::of(&text);
    let mut last = Vec::new();
    for (ago, amount, shop) in [
        (30, 4.0, "a"),
        (20, 6.0, "b"),
        (10, 6.0, "c"),
        (0, 12.0, "b"),
    ] {
        let record = json!({
            "card": "x", "kind": "purchase", "amount": amount, "shop": shop, "abroad": ago > 15,
        });
        last = player.push(ago * HOUR, record).unwrap();
    }
    last.split_off(4)
}

#[test]
fn each_kind_computes_what_it_is_called() {
    for (feature, expected) in [
        ("kind = \"count\"", 4.0),
        ("kind = \"count\"\nto = \"20h\"", 2.0),
        ("kind = \"count\"\nfrom = \"10h\"\nto = \"21h\"", 2.0),
        ("kind = \"count\"\nfield = \"amount\"\ncurrent = false", 3.0),
        (
            "kind = \"count\"\nwhere = { field = \"abroad\", is = [true] }",
            2.0,
        ),
        (
            "kind = \"count\"\nwhere = { field = \"shop\", is = [\"a\", \"c\"] }",
            2.0,
        ),
        ("kind = \"sum\"\nfield = \"amount\"", 28.0),
        (
            "kind = \"sum\"\nfield = \"amount\"\nfrom = \"100d\"\nto = \"101d\"",
            0.0,
        ),
        ("kind = \"mean\"\nfield = \"amount\"\nnewest = 3", 8.0),
        ("kind = \"min\"\nfield = \"amount\"", 4.0),
        ("kind = \"max\"\nfield = \"amount\"\ncurrent = false", 6.0),
        ("kind = \"median\"\nfield = \"amount\"\nto = \"30d\"", 6.0),
        ("kind = \"median\"\nfield = \"amount\"\nnewest = 2", 9.0),
        ("kind = \"stddev\"\nfield = \"amount\"", 12.0_f64.sqrt()),
        ("kind = \"rate\"\nto = \"40h\"\nper = \"10h\"", 1.0),
        (
            "kind = \"ewma\"\nfield = \"amount\"\nhalf_life = \"10h\"",
            17.0 / 1.875,
        ),
        ("kind = \"last\"\nfield = \"shop\"\ncurrent = false", 2.0),
        ("kind = \"last\"\nfield = \"abroad\"", 0.0),
        ("kind = \"lag\"\nfield = \"amount\"", 6.0),
        ("kind = \"lag\"\nfield = \"amount\"\nn = 3", 4.0),
        ("kind = \"time_since\"", 36_000.0),
        (
            "kind = \"time_since\"\nwhere = { field = \"shop\", is = [\"b\"] }",
            72_000.0,
        ),
        ("kind = \"distinct\"\nfield = \"shop\"\nto = \"30d\"", 3.0),
    ] {
        let [found] = seen(&[feature])[..] else {
            panic!("one feature")
        };
        assert!((found - expected).abs() < 1e-9, "{feature}: {found}");
    }
    let missing = seen(&[
        "kind = \"mean\"\nfield = \"amount\"\nfrom = \"100d\"\nto = \"101d\"",
        "kind = \"lag\"\nfield = \"amount\"\nn = 4",
        "kind = \"time_since\"\nwhere = { field = \"kind\", is = [\"block\"] }",
    ]);
    assert!(missing.iter().all(|it| it.is_nan()), "{missing:?}");
}

#[test]
fn features_before_may_be_taken_further() {
    let found = seen(&[
        "kind = \"mean\"\nfield = \"amount\"",
        "kind = \"stddev\"\nfield = \"amount\"",
        "kind = \"difference\"\nfield = \"amount\"\nminus = \"f0\"",
        "kind = \"ratio\"\nfield = \"f2\"\nover = \"f1\"",
        "kind = \"clip\"\nfield = \"f3\"\nmax = 1",
        "kind = \"bucket\"\nfield = \"f0\"\nedges = [1, 7, 9]",
        "kind = \"missing\"\nfield = \"f3\"",
    ]);
    assert_eq!((found[0], found[2], found[4]), (7.0, 5.0, 1.0));
    assert_eq!((found[5], found[6]), (2.0, 0.0));
    assert!((found[3] - 5.0 / 12.0_f64.sqrt()).abs() < 1e-12);
}

/// Admissions, blood tests and discharges of a patient, of which the blood tests are asked about.
const HOSPITAL: &str = r#"name = "hospital"
[record]
id = "id"
key = "patient"
event_time = "at"
[[record.fields]]
name = "kind"
type = "category"
categories = ["admission", "blood_test", "discharge"]
[[record.fields]]
name = "age"
type = "integer"
required = false
[[record.fields]]
name = "creatinine"
type = "number"
required = false
[state]
lateness = "1d"
emit = { field = "kind", is = ["blood_test"] }
reset = { field = "kind", is = ["discharge"] }
[[features]]
name = "age"
kind = "last"
field = "age"
where = { field = "kind", is = ["admission"] }
[[features]]
name = "since_admission"
kind = "time_since"
where = { field = "kind", is = ["admission"] }
[[features]]
name = "creatinine"
kind = "pass"
field = "creatinine"
[[features]]
name = "lowest_7d"
kind = "min"
field = "creatinine"
to = "7d"
[[features]]
name = "rise"
kind = "ratio"
field = "creatinine"
over = "lowest_7d"
[model]
inputs = ["age", "since_admission", "rise"]
"#;

#[test]
fn a_blood_test_is_joined_with_the_admission_before_it() {
    let mut ward = Player::of(HOSPITAL);
    let admission = |age: i64| json!({ "patient": "p", "kind": "admission", "age": age });
    let test = |value: f64| json!({ "patient": "p", "kind": "blood_test", "creatinine": value });
    assert_eq!(ward.push(30 * DAY, admission(61)), Err(Taken::StateOnly));
    assert_eq!(
        shown(ward.push(29 * DAY, test(80.0))),
        "61.0000 86400.0000 80.0000 80.0000 1.0000"
    );
    assert_eq!(
        shown(ward.push(27 * DAY, test(120.0))),
        "61.0000 259200.0000 120.0000 80.0000 1.5000"
    );
    let discharge = json!({ "patient": "p", "kind": "discharge" });
    assert_eq!(ward.push(26 * DAY, discharge), Err(Taken::StateOnly));
    // Nothing of the stay before is seen.
    assert_eq!(
        shown(ward.push(25 * DAY, test(90.0))),
        "nan nan 90.0000 90.0000 1.0000"
    );
    assert_eq!(
        ward.push(25 * DAY - 1_000, admission(62)),
        Err(Taken::StateOnly)
    );
    assert_eq!(
        shown(ward.push(25 * DAY - 3_000, test(90.0))),
        "62.0000 2.0000 90.0000 90.0000 1.0000"
    );
    // An admission that comes after the test it is earlier than is there for the next.
    assert_eq!(
        shown(ward.push(DAY, test(70.0))).split(' ').next(),
        Some("62.0000")
    );
    assert_eq!(ward.push(2 * DAY, admission(63)), Err(Taken::StateOnly));
    assert_eq!(
        shown(ward.push(0, test(77.0))),
        "63.0000 172800.0000 77.0000 70.0000 1.1000"
    );
}

#[test]
fn only_the_values_that_features_look_back_on_are_kept() {
    let pipeline = Pipeline::parse("x", HOSPITAL).unwrap();
    let state = pipeline.state().unwrap();
    let mut buffer = Vec::new();
    let event = state.event("r", 7, &[2.0, 60.0, f64::NAN], &mut buffer);
    assert!(event.reset && event.time_ms == 7);
    assert_eq!(event.values[..2], [2.0, 60.0]);
    assert!(event.values[2].is_nan() && event.values.len() == 3);
    assert!(!state.emits(&[2.0]) && state.emits(&[1.0]) && !state.emits(&[f64::NAN]));
    let other = state.event("s", 7, &[], &mut Vec::new()).id;
    assert_ne!(state.event("r", 7, &[], &mut Vec::new()).id, other);
    let cards = cards();
    let state = cards.state().unwrap();
    let event = state.event("r", 7, &[0.0, 5.0, 1.0, 2.0], &mut buffer);
    assert_eq!(event.values, [0.0, 5.0], "kind and amount");
}
