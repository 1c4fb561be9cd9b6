//! A pipeline for tests: one number by key.

use quadrille_pipeline::Pipeline;

/// `record`: more lines of the table `[record]`.
pub fn pipeline(record: &str) -> Pipeline {
    let file = format!(
        r#"
        name = "p"
        [record]
        key = "k"
        {record}
        [[record.fields]]
        name = "a"
        type = "number"
        [[features]]
        name = "a"
        kind = "pass"
        field = "a"
        [model]
        inputs = ["a"]
        [decision]
        threshold = 0.5
        positive = "y"
        negative = "n"
        "#
    );
    Pipeline::parse("p.toml", &file).expect("a pipeline")
}
