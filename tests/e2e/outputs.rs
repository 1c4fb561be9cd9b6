//! What commands print for scripts, and names as they are typed.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    cli::{Cli, written},
    world::World,
};

fn json(cli: &Cli, args: &[&str]) -> Value {
    let text = cli.good(&[args, &["--output", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

#[test]
fn what_a_command_did_is_one_json_document() {
    let world = World::new(2);
    let (pipeline, cli) = (world.pipeline.as_str(), Cli(world.bootstrap.clone()));
    let file = world.pipeline_file().display().to_string();
    let created = json(&cli, &["topics", "create", "--pipeline", &file]);
    assert_eq!(created["topics"][0]["created"], false, "{created}");
    let checked = json(&cli, &["topics", "check", "--pipeline", &file]);
    assert_eq!(checked["topics"][0]["partitions"], 2, "{checked}");
    assert_eq!(checked["faults"], Value::Array(Vec::new()));
    let accepted = json(&cli, &["topics", "accept", "--pipeline", &file]);
    assert_eq!(accepted["generation"], 0, "{accepted}");

    let folder = TempDir::new().expect("a folder");
    let name = format!("{pipeline}-m");
    let package = written(folder.path(), &name, "1", "test");
    let package = package.display().to_string();
    assert_eq!(json(&cli, &["model", "push", &package])["new"], true);
    assert_eq!(json(&cli, &["model", "push", &package])["new"], false);
    let id = format!("{name}:1");
    assert_eq!(
        json(&cli, &["model", "show", &id])["models"][0]["version"],
        "1"
    );
    assert!(
        cli.good(&["model", "show", &id, "--manifest"])
            .starts_with('{')
    );
    let unknown = cli.bad(64, &["model", "show", &format!("{name}:7")]);
    assert!(unknown.contains("versions are: 1"), "{unknown}");

    let set = json(&cli, &["deploy", "set", pipeline, "--live", &id]);
    assert_eq!(
        (&set["revision"], &set["routes"][0]["version"]),
        (&1.into(), &"1".into())
    );
    assert_eq!(
        json(&cli, &["deploy", "unset", pipeline])["action"],
        "unset"
    );
    assert_eq!(json(&cli, &["model", "delete", &id])["name"], name.as_str());
    let topic = world.topics().inbox;
    let rehearsed = json(&cli, &["dlq", "redrive", "--topic", &topic, "--dry-run"]);
    assert_eq!(
        (&rehearsed["count"], &rehearsed["dry_run"]),
        (&0.into(), &true.into())
    );
}

#[test]
fn an_import_takes_the_pipeline_that_the_services_have() {
    let folder = TempDir::new().expect("a folder");
    let pipeline = folder.path().join("ward.toml");
    let text = r#"
        name = "ward"
        record = { key = "bed", fields = [{ name = "a", type = "number" }, { name = "b", type = "number" }] }
        features = [{ name = "a", kind = "pass", field = "a" }, { name = "b", kind = "pass", field = "b" }]
        model = { inputs = ["a", "b"] }
        decision = { threshold = 0.5, positive = "alarm", negative = "fine" }
    "#;
    fs::write(&pipeline, text).expect("written");
    let onnx = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/model/tests/golden/onnx/logistic-tiny.onnx"
    );
    let cli = Cli("127.0.0.1:1".to_owned());
    let import_with = |variable: &str, args: &[&str], out: &str| {
        let out = folder.path().join(out).display().to_string();
        let line = [
            &["model", "import", onnx, "--output", "json"],
            args,
            &["--out", &out],
        ];
        let mut command = cli.command(&line.concat());
        let output = command.env("QUADRILLE_PIPELINE", variable).output();
        let output = output.expect("the CLI starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let variable = pipeline.display().to_string();
    let import = |args: &[&str], out: &str| import_with(&variable, args, out);
    let of_pipeline = import(&["--model-version", "7"], "one");
    assert_eq!(
        (&of_pipeline["name"], &of_pipeline["version"]),
        (&"ward".into(), &"7".into())
    );
    assert_eq!(of_pipeline["outputs"][0], "alarm");
    // What is typed counts, and nothing conflicts.
    let outputs = ["--inputs", "x,y", "--outputs", "binary:no,yes"];
    let of_lists = import(
        &[&["--name", "m", "--version", "8"], &outputs[..]].concat(),
        "two",
    );
    assert_eq!(
        (&of_lists["name"], &of_lists["inputs"][0]),
        (&"m".into(), &"x".into())
    );
    // Set to nothing it is as if it were not set.
    let without = import_with("", &[&["--name", "m"], &outputs[..]].concat(), "three");
    assert_eq!(without["name"], "m");
}
