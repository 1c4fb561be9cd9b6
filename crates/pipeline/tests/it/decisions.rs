//! What outputs mean: several classes, values, and the labels that go with them.

use quadrille_pipeline::{Decision, Pipeline, Truth};

use crate::WARD;
use crate::properties::{PLAIN, parse};

fn with(text: &str) -> Pipeline {
    Pipeline::parse("ward.toml", &format!("{WARD}\n{text}")).unwrap()
}

fn fault(text: &str) -> String {
    let text = format!("{WARD}\n{text}");
    Pipeline::parse("ward.toml", &text).unwrap_err().to_string()
}

const CLASSES: &str = "[decision]\nkind = \"argmax\"\nclasses = [\"well\", \"ill\", \"dying\"]\n";
const BANDS: &str = "[decision]\nkind = \"value\"\nvalues = [\"days\", \"cost\"]\nedges = [2, 10]\n\
    names = [\"short\", \"normal\", \"long\"]\n";

#[test]
fn the_most_probable_class_is_decided_for_and_of_equal_ones_the_first() {
    let pipeline = with(CLASSES);
    let fields = &pipeline.prediction_schema().fields;
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["well", "ill", "dying"]);
    let nan = f64::NAN;
    let cases = [
        ([0.2, 0.5, 0.3], "ill", 0.5),
        ([0.4, 0.2, 0.4], "well", 0.4),
        ([nan, 0.2, 0.1], "ill", 0.2),
    ];
    for (outputs, decision, headline) in cases {
        assert_eq!(pipeline.decide(&outputs), decision);
        assert_eq!(pipeline.headline(&outputs), headline);
    }
    assert_eq!(pipeline.decide(&[nan; 3]), "");
    assert_eq!(pipeline.decide(&[]), "");
    assert_eq!(pipeline.threshold(), None);
}

#[test]
fn a_value_falls_into_the_band_whose_edge_it_reaches() {
    let pipeline = with(BANDS);
    let decide = |days: f64| pipeline.decide(&[days, 7.0]).to_owned();
    assert_eq!(
        [1.9, 2.0, 9.9, 10.0].map(decide),
        ["short", "normal", "normal", "long"]
    );
    assert_eq!(decide(f64::NAN), "");
    assert_eq!(pipeline.headline(&[3.0, 7.0]), 3.0);
    let bare = with("[decision]\nkind = \"value\"\n");
    assert_eq!(bare.decide(&[3.0]), "");
    assert_eq!(bare.prediction_schema().fields[0].name, "value");
}

#[test]
fn a_threshold_may_say_its_kind_and_hashes_as_before() {
    let spelled = with("[decision]\nkind = \"threshold\"\nthreshold = 0.5\n");
    assert_eq!(spelled.hash(), with("").hash());
    assert!(matches!(spelled.decision(), Decision::Threshold(_)));
}

#[test]
fn the_canonical_form_of_each_kind_is_a_file_of_it() {
    for text in [CLASSES, BANDS] {
        let pipeline = with(&format!("{text}[label]\nfield = \"truth\"\n"));
        let again = parse(&serde_json::from_str(&pipeline.canonical()).unwrap(), PLAIN);
        assert_eq!(again.canonical(), pipeline.canonical());
    }
}

#[test]
fn a_label_is_what_the_decision_is_made_of() {
    let truth = |text: &str| with(text).label().cloned().unwrap().truth;
    let label = |text: &str| format!("{text}[label]\nfield = \"truth\"\n");
    let names = ["well", "ill", "dying"].map(str::to_owned).to_vec();
    assert_eq!(truth(&label(CLASSES)), Truth::Several { classes: names });
    let own = label(CLASSES) + "classes = [\"0\", \"1\", \"2\"]\n";
    let digits = ["0", "1", "2"].map(str::to_owned).to_vec();
    assert_eq!(truth(&own), Truth::Several { classes: digits });
    assert_eq!(truth(&label(BANDS)), Truth::Number {});
}

#[test]
fn settings_that_do_not_go_together_are_refused_with_what_to_do() {
    let refused = [
        (
            "[decision]\nkind = \"argmin\"\n",
            "did you mean \"argmax\"?",
        ),
        ("[decision]\nkind = \"argmax\"\n", "\"classes\" is missing"),
        (
            "[decision]\nkind = \"argmax\"\nclasses = [\"a\"]\n",
            "list at least 2",
        ),
        (
            "[decision]\nkind = \"argmax\"\nclasses = [\"a\", \"a\"]\n",
            "listed twice",
        ),
        (
            "[decision]\nkind = \"argmax\"\nclasses = [\"a\", \"b\"]\nthreshold = 0.5\n",
            "means nothing for a decision of kind argmax",
        ),
        (
            "[decision]\nclasses = [\"a\", \"b\"]\n",
            "means nothing for a decision of kind threshold",
        ),
        (
            "[decision]\nkind = \"value\"\nedges = [1]\n",
            "has one of edges and names",
        ),
        (
            "[decision]\nkind = \"value\"\nedges = [1]\nnames = [\"a\", \"b\", \"c\"]\n",
            "has 3 names for 1 edges",
        ),
        (
            "[decision]\nkind = \"value\"\nedges = [2, 1]\nnames = [\"a\", \"b\", \"c\"]\n",
            "ascending order",
        ),
        (
            "[decision]\nkind = \"value\"\n[label]\nfield = \"t\"\nclasses = [\"a\", \"b\"]\n",
            "does not fit the kind of the decision",
        ),
        (
            "[label]\nfield = \"t\"\nclasses = [\"a\", \"b\"]\n",
            "does not fit the kind of the decision",
        ),
    ];
    for (text, expected) in refused {
        let found = fault(text);
        assert!(found.contains(expected), "{expected:?} is not in {found:?}");
    }
    let short = format!("{CLASSES}[label]\nfield = \"t\"\nclasses = [\"a\", \"b\"]\n");
    assert!(fault(&short).contains("has 2 classes where the decision has 3"));
}

#[test]
fn training_data_of_classes_and_values_is_read_by_its_label() {
    let data = "temperature,beats,ventilated,sex,truth\n37,80,true,f,ill\n39,,false,m,dying\n38,70,true,m,cured\n";
    let training = with(&format!("{CLASSES}[label]\nfield = \"truth\"\n"));
    let training = training.read_training(data.as_bytes()).unwrap();
    assert_eq!(training.labels, [1.0, 2.0]);
    assert!(
        training.skipped[0]
            .1
            .fix
            .contains("\"well\" or \"ill\" or \"dying\"")
    );
    let data = "temperature,beats,ventilated,sex,truth\n37,80,true,f,4.5\n39,,false,m,long\n";
    let training = with(&format!("{BANDS}[label]\nfield = \"truth\"\n"));
    let training = training.read_training(data.as_bytes()).unwrap();
    assert_eq!(training.labels, [4.5]);
    assert_eq!(training.skipped[0].1.class(), "wrong_type");
}
