use quadrille_model::{Attribution, Quantity};

use super::{
    config::{Evidence, OnLog, Suspect},
    *,
};

const PREDICTED_AT_MS: i64 = 1_000_000;

fn stored() -> StoredPrediction {
    StoredPrediction {
        id: "r-1".into(),
        probability: 0.7,
        outputs: vec![0.7],
        decision: "diabetic".into(),
        model: "forest".into(),
        version: "2".into(),
        variant: "canary".into(),
        predicted_at: Some(prost_types::Timestamp {
            seconds: PREDICTED_AT_MS / 1_000,
            nanos: 0,
        }),
        config_hash: vec![0xab; 32],
        input_topic: "diabetes.features".into(),
        input_partition: 1,
        input_offset: 17,
        ..StoredPrediction::default()
    }
}

fn explanation(again: f64) -> Explanation {
    let contributions = Contributions {
        method: "the method".to_owned(),
        of: Quantity::Output,
        outputs: vec![Attribution {
            output: "pos".to_owned(),
            bias: 0.5,
            inputs: vec![0.05, -0.25, 0.4],
        }],
    };
    Explanation {
        pipeline: "diabetes".to_owned(),
        file_sha256: [0xcd; 32],
        kept: None,
        stored: stored(),
        inputs: ["age", "mass", "insulin"].map(str::to_owned).to_vec(),
        row: vec![50.0, 33.6, f64::NAN],
        outputs: vec![Compared {
            name: "pos".to_owned(),
            recorded: 0.7,
            again,
        }],
        decision: "diabetic".to_owned(),
        contributions: Some(contributions),
    }
}

#[test]
fn an_answer_is_equal_to_the_last_bit_or_not_at_all() {
    assert!(explanation(0.7).is_equal());
    assert!(!explanation(0.7_f64.next_up()).is_equal());
    let nan = Compared {
        name: String::new(),
        recorded: f64::NAN,
        again: f64::NAN,
    };
    assert!(nan.is_equal());
    let mut decided = explanation(0.7);
    decided.decision = "healthy".to_owned();
    assert!(!decided.is_equal());
}

#[test]
fn a_page_names_the_method_and_sorts_shares_by_size() {
    let page = show::page(&explanation(0.7));
    assert!(page.starts_with("r-1: equal, bit for bit\n"), "{page}");
    assert!(page.contains("by the method."), "{page}");
    let line = |of: &str| page.lines().position(|line| line.starts_with(of));
    assert!(line("insulin  ") < line("mass  "), "{page}");
    assert!(line("mass  ") < line("age  "), "{page}");
    let missing = page.lines().nth(line("insulin").unwrap()).unwrap();
    assert!(
        missing.contains("missing") && missing.contains("+0.400000"),
        "{page}"
    );
    assert!(
        page.ends_with("+0.700000"),
        "bias and shares together: {page}"
    );

    let page = show::page(&explanation(0.75));
    assert!(page.starts_with("r-1: NOT EQUAL"), "{page}");
    assert!(page.contains("e-2"), "the difference: {page}");
}

#[test]
fn a_model_that_cannot_say_why_shows_its_inputs_all_the_same() {
    let without = Explanation {
        contributions: None,
        ..explanation(0.7)
    };
    let page = show::page(&without);
    assert!(
        page.contains("insulin  missing") && page.contains("cannot say"),
        "{page}"
    );
    assert!(show::json(&without)["contributions"].is_null());
}

#[test]
fn scripts_get_numbers_and_null_for_what_is_missing() {
    let json = show::json(&explanation(0.7));
    assert_eq!(json["equal"], true);
    assert_eq!(json["outputs"][0]["recorded"], 0.7);
    assert_eq!(json["inputs"][1]["value"], 33.6);
    assert!(json["inputs"][2]["value"].is_null());
    let found = &json["contributions"];
    assert_eq!(
        (&found["method"], &found["of"]),
        (&"the method".into(), &"output".into())
    );
    let names: Vec<&str> = found["outputs"][0]["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["insulin", "mass", "age"]);
}

#[test]
fn the_version_of_the_pipeline_file_that_was_used_is_said() {
    let given = explanation(0.7);
    assert!(show::page(&given).contains("cdcd, the one given"));
    assert_eq!(show::json(&given)["pipeline_file"]["from"], "file");
    let kept = Explanation {
        kept: Some(config::Kept {
            by: "inference-1".to_owned(),
            at_ms: PREDICTED_AT_MS,
        }),
        ..explanation(0.7)
    };
    let page = show::page(&kept);
    assert!(
        page.contains("as the log keeps it since 1970-01-01T00:16:40Z (by inference-1)"),
        "{page}"
    );
    let json = &show::json(&kept)["pipeline_file"];
    assert_eq!(
        (&json["from"], &json["kept_by"]),
        (&"log".into(), &"inference-1".into())
    );
}

#[test]
fn what_others_wrote_cannot_act_on_the_terminal() {
    let mut foreign = explanation(0.7);
    foreign.stored.key = "a\x1b[2J".to_owned();
    foreign.stored.input_topic = "b\x1b[2J".to_owned();
    assert!(!show::page(&foreign).contains('\x1b'));
}

/// What is suspected where the log has the package with this hash, pushed then.
fn suspect(on_log: Option<OnLog>, change: impl FnOnce(&mut Evidence<'_>)) -> Suspect {
    let stored = stored();
    let mut evidence = Evidence {
        hash: [1; 32],
        on_log,
        log_fits: false,
        other_features: false,
        stored: &stored,
    };
    change(&mut evidence);
    evidence.suspect()
}

#[test]
fn a_package_that_was_on_the_log_before_the_prediction_leaves_the_pipeline_file() {
    let on_log = |hash, pushed_at_ms| Some(OnLog { hash, pushed_at_ms });
    let same = |_: &mut Evidence<'_>| {};
    assert_eq!(
        suspect(on_log([1; 32], PREDICTED_AT_MS), same),
        Suspect::Pipeline
    );
    // Deleted meanwhile and pushed with other content: nobody knows.
    assert_eq!(
        suspect(on_log([1; 32], PREDICTED_AT_MS + 1), same),
        Suspect::Either
    );
    assert_eq!(suspect(None, same), Suspect::Either);
    assert_eq!(suspect(on_log([2; 32], 0), same), Suspect::Either);
    let local = StoredPrediction {
        variant: "local".into(),
        ..stored()
    };
    let evidence = Evidence {
        hash: [1; 32],
        on_log: on_log([1; 32], 0),
        log_fits: false,
        other_features: false,
        stored: &local,
    };
    assert_eq!(evidence.suspect(), Suspect::Either);
}

#[test]
fn what_fits_the_log_or_computes_other_features_is_told_apart() {
    let on_log = Some(OnLog {
        hash: [2; 32],
        pushed_at_ms: 0,
    });
    assert_eq!(suspect(on_log, |it| it.log_fits = true), Suspect::Package);
    assert_eq!(
        suspect(None, |it| it.other_features = true),
        Suspect::PipelineAtLeast
    );
}

#[test]
fn a_row_is_scored_again_by_a_package_and_compared_with_what_is_stored() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/model/tests/golden/logistic-regression"
    );
    let package = Package::load(Path::new(folder)).unwrap();
    let names = &package.manifest().inputs;
    let pipeline = pipeline(names);
    let row = vec![1.0; names.len()];
    let mut outputs = Vec::new();
    package.model().score(&row, &mut outputs);
    let same = StoredPrediction {
        probability: outputs[0],
        outputs: outputs.clone(),
        decision: pipeline.decide(&outputs).to_owned(),
        ..stored()
    };
    let file = config::FileOfThen {
        pipeline,
        kept: None,
    };
    let equal = again(&file, &package, same, row.clone()).unwrap();
    assert!(equal.is_equal());
    let found = equal.contributions.as_ref().unwrap();
    assert_eq!(found.outputs[0].inputs.len(), names.len());
    assert!(!again(&file, &package, stored(), row).unwrap().is_equal());

    let other = config::FileOfThen {
        pipeline: self::pipeline(&["other".to_owned()]),
        kept: None,
    };
    let refused = again(&other, &package, stored(), vec![1.0]).unwrap_err();
    assert!(matches!(refused, Error::Config(_)), "{refused}");
}

#[test]
fn a_folder_with_another_version_is_refused_by_name() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/model/tests/golden/logistic-regression"
    );
    let refused = config::Used::of_folder(Path::new(folder), &stored());
    let Err(Error::Config(message)) = refused else {
        panic!("refused");
    };
    assert!(message.contains("forest 2 predicted r-1"), "{message}");
}

/// A pipeline whose model reads fields of these names.
fn pipeline(names: &[String]) -> Pipeline {
    let mut text = "name = \"p\"\n[record]\nkey = \"k\"\n".to_owned();
    for name in names {
        text += &format!("[[record.fields]]\nname = \"{name}\"\ntype = \"number\"\n");
    }
    for name in names {
        text += &format!("[[features]]\nname = \"{name}\"\nkind = \"pass\"\nfield = \"{name}\"\n");
    }
    text += &format!("[model]\ninputs = {names:?}\n");
    Pipeline::parse("p.toml", &text).unwrap()
}
