//! From an ONNX file and flags to a package that loads.

use clap::Parser;

use quadrille_model::WARM_UP_ROWS_MAX;

use super::{super::push, *};
use crate::{kafka::Kafka, output::OutputArg, pipelines};

const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/crates/model/tests/golden/onnx"
);
pub const DIABETES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/diabetes.toml");

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

pub fn args(line: &[&str]) -> Result<Args, clap::Error> {
    let line = ["import"].iter().chain(line);
    Cli::try_parse_from(line).map(|cli| cli.args)
}

/// The golden rows and answers as a CSV file.
fn golden_csv(folder: &Path, change: f64) -> PathBuf {
    let text = std::fs::read_to_string(format!("{GOLDEN}/rf-iris.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    let lines = case["rows"].as_array().unwrap().iter();
    let mut csv = "a,b,c,d,x,y,z\n".to_owned();
    for (row, answers) in lines.zip(case["expected"].as_array().unwrap()) {
        let answers = answers.as_array().unwrap().iter();
        let answers = answers.map(|it| it.as_f64().unwrap() + change);
        let row = row
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_f64().unwrap());
        let cells: Vec<String> = row.chain(answers).map(|it| it.to_string()).collect();
        csv += &format!("{}\n", cells.join(","));
    }
    let path = folder.join("rows.csv");
    std::fs::write(&path, csv).unwrap();
    path
}

#[test]
fn an_onnx_file_becomes_a_package_that_proves_its_answers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("iris");
    let import = |change| {
        let rows = golden_csv(folder.path(), change);
        let onnx = format!("{GOLDEN}/rf-iris.onnx");
        let (rows, out) = (rows.to_str().unwrap(), out.to_str().unwrap());
        run(&args(&[
            &onnx,
            "--name",
            "iris",
            "--version",
            "1",
            "--inputs",
            "a,b,c,d",
            "--outputs",
            "classes:x,y,z",
            "--warm-up",
            rows,
            "--out",
            out,
        ])
        .unwrap())
    };
    let refused = import(0.01).unwrap_err();
    assert!(
        matches!(&refused, Error::Config(it) if it.contains("row 1") && it.contains("--activation")),
        "{refused}"
    );
    import(0.0).unwrap();
    let package = Package::load(&out).unwrap();
    assert_eq!(
        package.manifest().warm_up.as_ref().unwrap().rows.len(),
        WARM_UP_ROWS_MAX
    );
    assert!(
        package
            .model()
            .contributions(&[5.0, 3.0, 1.0, 0.2])
            .is_some()
    );
    let again = import(0.0).unwrap_err();
    assert!(
        matches!(&again, Error::Config(it) if it.contains("--replace")),
        "{again}"
    );
}

#[test]
fn classes_in_another_order_than_the_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let onnx = format!("{GOLDEN}/rf-iris.onnx");
    let out = folder.path().join("iris");
    let import = |outputs| {
        run(&args(&[
            &onnx,
            "--name",
            "iris",
            "--inputs",
            "a,b,c,d",
            "--outputs",
            outputs,
            "--out",
            out.to_str().unwrap(),
        ])
        .unwrap())
    };
    let refused = import("classes:1,0,2").unwrap_err();
    assert!(
        matches!(&refused, Error::Config(it) if it.contains("the classes 0, 1, 2, in this order")
            && it.contains("(--outputs)")),
        "{refused}"
    );
    assert!(!out.exists());
    import("classes:0,1,2").unwrap();
    let renamed = Renamed {
        column: 1,
        file: "normal".to_owned(),
        named: "abnormal".to_owned(),
    };
    assert_eq!(
        taken_for(&renamed),
        "column 1 (counting from 0): the file's class \"normal\" is taken for \"abnormal\""
    );
}

#[test]
fn a_model_whose_positive_class_is_the_pipelines_negative_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = folder.path().join("ward.toml");
    let text = r#"
        name = "ward"
        record = { key = "bed", fields = [{ name = "a", type = "number" }, { name = "b", type = "number" }] }
        features = [{ name = "a", kind = "pass", field = "a" }, { name = "b", kind = "pass", field = "b" }]
        model = { inputs = ["a", "b"] }
        decision = { threshold = 0.5, positive = "alarm", negative = "fine" }
        label = { field = "state", positive = "abnormal", negative = "normal" }
    "#;
    std::fs::write(&pipeline, text).unwrap();
    let onnx = format!("{GOLDEN}/logistic-tiny.onnx");
    let import = |outputs: &str| {
        let out = folder.path().join(outputs.replace([':', ','], "-"));
        let (pipeline, out) = (pipeline.to_str().unwrap(), out.to_str().unwrap());
        let line = [
            &onnx,
            "--pipeline",
            pipeline,
            "--outputs",
            outputs,
            "--out",
            out,
        ];
        run(&args(&line).unwrap()).map(|()| Package::load(Path::new(out)).unwrap())
    };
    for outputs in [
        "binary:abnormal,normal",
        "binary:alarm,fine",
        "binary:other,normal",
        "binary:abnormal,other",
    ] {
        let refused = import(outputs).unwrap_err().to_string();
        assert!(
            refused.contains("the other way round than the pipeline's"),
            "{refused}"
        );
    }
    let refused = import("values:y").unwrap_err().to_string();
    assert!(refused.contains("the model gives values"), "{refused}");
    // Words of its own say nothing about a model.
    for outputs in [
        "binary:normal,abnormal",
        "binary:fine,alarm",
        "binary:0,1",
        "binary:normal,other",
    ] {
        let package = import(outputs).unwrap();
        fits(&package, &[pipelines::one(&pipeline).unwrap()]).unwrap();
    }
    // Made without the pipeline, and pushed with it.
    let out = folder.path().join("apart");
    let line = [
        &*onnx,
        "--name",
        "m",
        "--inputs",
        "a,b",
        "--outputs",
        "binary:alarm,fine",
        "--out",
        out.to_str().unwrap(),
    ];
    run(&args(&line).unwrap()).unwrap();
    let pushed = push::Args {
        dir: Some(out),
        uri: None,
        sha256: None,
        pipeline: Some(pipeline),
        by: None,
        output: OutputArg::default(),
        kafka: Kafka {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            kafka_properties: String::new(),
        },
    };
    let refused = push::run(&pushed).unwrap_err().to_string();
    assert!(refused.contains("the other way round"), "{refused}");
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = run(&args(&[
        DIABETES,
        "--pipeline",
        DIABETES,
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap());
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, Error::Config(it) if it.contains("diabetes.toml")),
        "{refused}"
    );
    assert!(!out.exists());
}
