//! The file's two halves: what defines a prediction, hashed, and how the pipeline is operated, not hashed.

use quadrille_pipeline::Pipeline;

use crate::{WARD, diabetes, fault, repository};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> Pipeline {
    Pipeline::parse("ward.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// `WARD` with lines at its top, before the first table.
fn with_lines(lines: &str) -> Pipeline {
    parse(&WARD.replacen("[record]", &format!("{lines}\n[record]"), 1))
}

fn with_operate(lines: &str) -> Pipeline {
    parse(&format!("{WARD}\n[operate]\n{lines}\n"))
}

/// Models are made for a file by its hash: one that changes between releases would refuse them all.
#[test]
fn the_shipped_pipelines_have_the_hashes_that_their_models_were_made_with() {
    let hashes = [
        (
            "pipelines/diabetes.toml",
            "b458def1faf9414a3b68b273b39941267662b149a2977310e6d019a3e002b6a1",
        ),
        (
            "examples/diabetes-net/pipeline.toml",
            "dfa979fae6f89726f4617c6ad2daf26733ec3cb442f0cf401d0a77a22a5b0f30",
        ),
        (
            "examples/digits/pipeline.toml",
            "333e0c3b0f4e6346e2c9100f0d7ce50e5da19ab9ea7c279196600a9de3fe7ffa",
        ),
        (
            "examples/iris/pipeline.toml",
            "ea6190359468fb71c327bdfd82d5e542d5f7ee676f25c99cba4f2d5998965453",
        ),
    ];
    for (file, hash) in hashes {
        let pipeline = Pipeline::load(&repository().join(file)).unwrap().remove(0);
        assert_eq!(hex(&pipeline.hash()), hash, "{file}");
    }
    let package = diabetes().config_hash(&[7; 32]);
    assert_eq!(
        hex(&package),
        "3714d9d76d518797b4e0cb6e64bd59dc545d3aa82c16470c1228ee6e8b78edf9"
    );
}

#[test]
fn the_format_is_1_whether_the_file_says_so_or_not() {
    let said = with_lines("format = 1");
    assert_eq!(said.hash(), parse(WARD).hash());
    assert_eq!(said.canonical(), parse(WARD).canonical());
}

#[test]
fn a_newer_format_is_refused_with_the_newest_that_is_read_whatever_else_it_has() {
    let newer = "format = 2\nnobody_knows = 1\n[record]";
    assert_eq!(
        fault("[record]", newer),
        "ward.toml:2: format: 2 is no format that this release reads; the newest it reads is 1: \
         use a newer release, or write the file in that format"
    );
    for wrong in ["0", "1.5", "\"1\"", "true", "[1]"] {
        let error = fault("[record]", &format!("format = {wrong}\n[record]"));
        assert!(error.starts_with("ward.toml:2: format: "), "{error}");
    }
}

#[test]
fn how_a_pipeline_is_operated_changes_no_hash_and_no_schema() {
    let plain = parse(WARD);
    for edited in [
        with_operate(""),
        with_operate("latency_objective = \"1s\""),
        with_operate("latency_objective = \"90s\""),
        with_lines("latency_objective = \"2s\""),
    ] {
        assert_eq!(edited.hash(), plain.hash());
        assert_eq!(edited.config_hash(&[1; 32]), plain.config_hash(&[1; 32]));
        assert_eq!(edited.record_schema_id(), plain.record_schema_id());
        assert_eq!(edited.feature_schema_id(), plain.feature_schema_id());
        assert_eq!(edited.prediction_schema_id(), plain.prediction_schema_id());
    }
}

#[test]
fn an_objective_is_read_where_it_ever_was_and_in_operate_but_not_twice() {
    let at_the_top = "latency_objective = \"1s\"";
    assert_eq!(with_lines(at_the_top).latency_objective_ms(), Some(1_000));
    assert_eq!(with_operate(at_the_top).latency_objective_ms(), Some(1_000));
    assert_eq!(with_operate("").latency_objective_ms(), None);
    let both = format!("{at_the_top}\n[operate]\nlatency_objective = \"2s\"\n[record]");
    let error = fault("[record]", &both);
    assert!(
        error.contains("is set twice, here and in [operate]; keep the one in"),
        "{error}"
    );
    let error = fault("[record]", "[operate]\nlatency = \"2s\"\n[record]");
    assert!(
        error.contains("unknown key \"latency\"; the keys here are"),
        "{error}"
    );
    let error = fault("[record]", "[operate]\nlatency_objective = \"2\"\n[record]");
    assert!(
        error.contains("operate.latency_objective: \"2\" is not a duration"),
        "{error}"
    );
}

#[test]
fn a_fault_has_its_column_in_characters() {
    let text = "name = \"ward\"\nrecord = { key = \"é\", kex = 1 }";
    let error = Pipeline::parse("ward.toml", text).unwrap_err();
    assert_eq!((error.line, error.column), (Some(2), Some(23)));
}

/// The warnings of `WARD` with `old` replaced by `new`: line, column and words.
fn warnings(old: &str, new: &str) -> Vec<String> {
    assert!(WARD.contains(old), "{old}");
    let pipeline = parse(&WARD.replacen(old, new, 1));
    let warnings = pipeline.warnings().iter();
    warnings.map(ToString::to_string).collect()
}

#[test]
fn a_missing_feature_that_can_never_be_1_is_warned_of() {
    assert_eq!(warnings("[model]", "[model]"), [""; 0]);
    let never = "name = \"no_beats\"\nkind = \"missing\"\nfield = \"temperature\"";
    let found = warnings(
        "name = \"no_beats\"\nkind = \"missing\"\nfield = \"beats\"",
        never,
    );
    assert_eq!(
        found,
        [
            "ward.toml:32: features.no_beats: is 0 for every record: field \"temperature\" is required and has no markers; \
          set required = false or list markers in missing = […] at the field, or remove the feature"
        ]
    );
    // A marker is enough, and null means it then too.
    let marked = WARD.replacen("min = 20", "missing = [0]", 1);
    let marked = marked.replacen("field = \"beats\"", "field = \"temperature\"", 1);
    assert_eq!(parse(&marked).warnings(), []);
    assert_eq!(
        warnings("field = \"beats\"", "field = \"ventilated\""),
        [""; 0]
    );
}

#[test]
fn an_edge_that_no_value_reaches_or_all_do_is_warned_of() {
    for edges in ["[20, 38.5]", "[36, 50.5]"] {
        let found = warnings("[36, 38.5]", edges);
        assert!(
            found[0].contains("divides nothing: field \"temperature\" is at "),
            "{found:?}"
        );
    }
    assert_eq!(warnings("[36, 38.5]", "[20.5, 50]"), [""; 0]);
}
