//! `quadrille pipeline check`: what is wrong with pipeline files, and what is hardly meant.

use std::path::Path;

use quadrille_pipeline::{Error as Fault, Loaded, Pipeline};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::Files;
use crate::output::{self, Output, counted, hex};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
}

/// # Errors
/// A file is refused.
pub fn run(args: &Args) -> Result<(), Error> {
    let checked = args.files.load()?;
    let _ = match args.files.output.get() {
        Output::Text => output::print(page(&checked))?,
        Output::Json => output::print(to_json(&checked))?,
    };
    match checked.iter().filter(|(_, it)| it.is_err()).count() {
        0 => Ok(()),
        1 => Err(Error::Config("1 pipeline file is refused".to_owned())),
        refused => Err(Error::Config(format!(
            "{refused} pipeline files are refused"
        ))),
    }
}

pub fn page(checked: &[Loaded]) -> String {
    let files = checked.iter().map(|(file, result)| match result {
        Err(fault) => told("error", fault),
        Ok(pipeline) => {
            let warnings = pipeline
                .warnings()
                .iter()
                .map(|it| told("warning", it) + "\n");
            let warnings: String = warnings.collect();
            warnings + &verdict(file, pipeline)
        }
    });
    files.collect::<Vec<String>>().join("\n")
}

fn verdict(file: &Path, pipeline: &Pipeline) -> String {
    let warnings = match pipeline.warnings().len() {
        0 => String::new(),
        some => format!(", {}", counted(some, "warning")),
    };
    format!(
        "{}: pipeline {}: ok{warnings}",
        file.display(),
        pipeline.name()
    )
}

/// As compilers report it, so that editors find the place; the fix on a line of its own.
fn told(kind: &str, fault: &Fault) -> String {
    let mut text = fault.file.clone();
    if let Some(line) = fault.line {
        text += &format!(":{line}:{}", fault.column.unwrap_or(1));
    }
    text += &format!(": {kind}: ");
    if !fault.field.is_empty() {
        text += &format!("{}: ", fault.field);
    }
    text += &fault.reason;
    if !fault.fix.is_empty() {
        text += &format!("\n    fix: {}", fault.fix);
    }
    text
}

pub fn to_json(checked: &[Loaded]) -> Value {
    let files = checked.iter().map(|(file, result)| {
        let pipeline = result.as_ref().ok();
        let warnings = pipeline.map(|it| it.warnings().iter().map(fault).collect::<Vec<Value>>());
        json!({
            "file": file.display().to_string(),
            "pipeline": pipeline.map(Pipeline::name),
            "hash": pipeline.map(|it| hex(&it.hash())),
            "error": result.as_ref().err().map(fault),
            "warnings": warnings.unwrap_or_default(),
        })
    });
    json!({ "files": files.collect::<Vec<Value>>() })
}

fn fault(it: &Fault) -> Value {
    json!({
        "file": it.file,
        "line": it.line,
        "column": it.column,
        "field": it.field,
        "reason": it.reason,
        "fix": it.fix,
    })
}
