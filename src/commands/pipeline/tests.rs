use super::*;

const WARD: &str = r#"format = 1
name = "ward"
[operate]
latency_objective = "2s"
[record]
key = "bed"
[[record.fields]]
name = "temperature"
type = "number"
min = 20
max = 50
[[record.fields]]
name = "sex"
type = "category"
categories = ["f", "m"]
missing = ["unknown"]
[[record.fields]]
name = "beats"
type = "integer"
required = false
[[features]]
name = "temperature"
kind = "pass"
field = "temperature"
[[features]]
name = "sex"
kind = "one_hot"
field = "sex"
[[features]]
name = "cold"
kind = "missing"
field = "temperature"
[model]
inputs = ["temperature", "sex=m"]
"#;

/// A folder with these files, loaded.
fn loaded(files: &[(&str, &str)]) -> Vec<Loaded> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let files = Files {
        files: vec![folder.path().to_owned()],
        output: OutputArg::default(),
    };
    files.load().unwrap()
}

#[test]
fn each_file_is_reported_with_place_and_fix_and_a_refused_one_hides_no_other() {
    let wrong = WARD
        .replace("max = 50", "mx = 50")
        .replace("\"ward\"", "\"other\"");
    let checked = loaded(&[("a.toml", &wrong), ("b.toml", WARD), ("c.toml", WARD)]);
    let page = check::page(&checked);
    for line in [
        "a.toml:11:1: error: record.fields: unknown key \"mx\"",
        "    fix: did you mean \"max\"?",
        "b.toml:29:1: warning: features.cold: is 0 for every record",
        "b.toml: pipeline ward: ok, 1 warning",
        "c.toml: error: pipeline \"ward\" has the topics of",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    let json = check::to_json(&checked);
    let files = json["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(files[0]["error"]["column"], 1);
    assert!(files[0]["pipeline"].is_null() && files[1]["error"].is_null());
    assert_eq!(files[1]["warnings"][0]["field"], "features.cold");
}

#[test]
fn a_refused_file_is_wrong_usage_and_a_warning_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let line = ["quadrille", "pipeline", "check", file.to_str().unwrap()];
        let cli = <crate::Cli as clap::Parser>::try_parse_from(line).unwrap();
        match cli.command {
            Some(crate::commands::Command::Pipeline(command)) => super::run(&command),
            other => panic!("{other:?}"),
        }
    };
    assert!(run(WARD).is_ok());
    let refused = run("name = 5").unwrap_err();
    assert!(matches!(&refused, Error::Config(it) if it.contains("1 pipeline file is refused")));
}

#[test]
fn what_is_kept_of_a_key_is_shown_where_a_feature_looks_back() {
    let page = |text: &str| show::page(&Pipeline::parse("ward.toml", text).unwrap());
    assert!(!page(WARD).contains("\nstate "), "{}", page(WARD));
    let text = WARD
        .replace("key = \"bed\"", "key = \"bed\"\nevent_time = \"at\"")
        .replace(
            "[[features]]\nname = \"sex\"",
            "[state]\nlateness = \"1h\"\nemit = { field = \"sex\", is = [\"m\"] }\n[[features]]\nname = \"beats\"\nkind = \"mean\"\n\
             field = \"beats\"\nto = \"2h\"\n[[features]]\nname = \"sex\"",
        );
    let page = page(&text);
    for part in [
        "records of a key may come 1h late, later ones are dead letters; at most 10000 are kept; only where sex is m there is a vector",
        "beats        mean     beats, last 2h  no",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[test]
fn a_pipeline_is_shown_with_what_null_and_absent_fields_mean() {
    let pipeline = Pipeline::parse("ward.toml", WARD).unwrap();
    let page = show::page(&pipeline);
    let row = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(name));
        let cells = line.unwrap_or_default().split("  ").map(str::trim);
        cells
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    assert_eq!(
        row("temperature  "),
        [
            "temperature",
            "number",
            "from 20 to 50",
            "refused",
            "refused"
        ]
    );
    assert_eq!(
        row("sex  "),
        [
            "sex",
            "category",
            "f, m",
            "unknown",
            "refused",
            "not measured"
        ]
    );
    assert_eq!(
        row("beats  "),
        ["beats", "integer", "not measured", "not measured"]
    );
    assert_eq!(row("latency objective"), ["latency objective", "2000 ms"]);
    assert!(
        page.contains("sex          one_hot  sex          sex=m"),
        "{page}"
    );
    for text in [
        "ward.inbox, ward.records",
        "quadrille.inference.ward",
        &crate::output::hex(&pipeline.hash()),
    ] {
        assert!(page.contains(text), "{page}");
    }
    let json = show::to_json(&pipeline);
    assert_eq!(json["definition"]["record"]["key"], "bed");
    assert_eq!(json["operate"]["latency_objective_ms"], 2_000);
    assert_eq!(json["fields"][1]["null"], "not measured");
    // What is shown as an example is one.
    let example = pipeline.example_record();
    pipeline.read_json(example.as_bytes(), 0).unwrap();
    assert_eq!(json["example"]["bed"], "b-1");
}
