//! What an ONNX file is imported as: its name, inputs, outputs, from flags or from a pipeline.

use std::path::PathBuf;

use quadrille_model::{
    Outputs,
    import::ImportOptions,
    package::{Activation, Labels},
};
use quadrille_pipeline::{Decision, Pipeline, Truth};
use quadrille_service::Error;

use super::Args;
use crate::{pipelines, time, training::created_at};

/// [`Activation`] as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Last {
    /// The answers are the outputs.
    None,
    /// The answers are logits of all classes.
    Softmax,
    /// Each answer is a log-odds.
    Sigmoid,
}

impl From<Last> for Activation {
    fn from(last: Last) -> Self {
        match last {
            Last::None => Activation::None,
            Last::Softmax => Activation::Softmax,
            Last::Sigmoid => Activation::Sigmoid,
        }
    }
}

pub fn outputs(text: &str) -> Result<Outputs, String> {
    const HOW: &str = "write binary:NEGATIVE,POSITIVE, classes:A,B,C or values:X,Y";
    let (task, names) = text.split_once(':').ok_or(HOW)?;
    let names: Vec<String> = names.split(',').map(|it| it.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(format!("a name is empty; {HOW}"));
    }
    match (task, names.as_slice()) {
        ("binary", [negative, positive]) => Ok(Outputs::Binary(Labels {
            negative: negative.clone(),
            positive: positive.clone(),
        })),
        ("binary", _) => Err(format!("binary has two names, not {}; {HOW}", names.len())),
        ("classes", [_]) => Err(format!("there are two classes at least; {HOW}")),
        ("classes", _) => Ok(Outputs::Classes(names)),
        ("values", _) => Ok(Outputs::Values(names)),
        _ => Err(format!("{task:?} is no task; {HOW}")),
    }
}

impl Args {
    /// The pipeline file that the model is for, if it is for one.
    pub fn pipeline(&self) -> Option<PathBuf> {
        match (&self.pipeline, self.inputs.is_empty()) {
            (Some(path), _) => Some(path.clone()),
            // Apart from the flag: what is typed conflicts with nothing that is in the environment.
            (None, true) => pipelines::of_environment(),
            (None, false) => None,
        }
    }

    /// # Errors
    /// Something is missing, or the pipeline cannot be read.
    pub fn options(&self) -> Result<ImportOptions, Error> {
        let pipeline = match self.pipeline() {
            Some(path) => Some(pipelines::one(&path)?),
            None => None,
        };
        let of_pipeline = pipeline.as_ref();
        let missing = |flag: &str| {
            Error::Config(format!(
                "{flag} is missing; give it, or a pipeline (--pipeline, QUADRILLE_PIPELINE)"
            ))
        };
        let name = self.name.clone();
        let outputs = self.outputs.clone();
        Ok(ImportOptions {
            name: name
                .or_else(|| of_pipeline.map(|it| it.name().to_owned()))
                .ok_or_else(|| missing("--name"))?,
            version: (self.model_version.clone()).unwrap_or_else(time::as_version),
            inputs: match of_pipeline {
                Some(pipeline) => pipeline.inputs().to_vec(),
                None if self.inputs.is_empty() => return Err(missing("--inputs")),
                None => (self.inputs.iter())
                    .map(|it| it.trim().to_owned())
                    .collect(),
            },
            outputs: outputs
                .or_else(|| of_pipeline.map(labels))
                .ok_or_else(|| missing("--outputs"))?,
            output: self.output_tensor.clone(),
            activation: self.activation.into(),
            preprocess: None,
            warm_up: None,
            recorded: Vec::new(),
            created_at: created_at(),
        })
    }
}

/// What a pipeline decides by; two classes as its data calls them, or else its decision.
fn labels(pipeline: &Pipeline) -> Outputs {
    let (negative, positive) = match (pipeline.decision(), pipeline.label().map(|it| &it.truth)) {
        (Decision::Argmax(decision), _) => return Outputs::Classes(decision.classes.clone()),
        (Decision::Value(decision), _) => return Outputs::Values(decision.values.clone()),
        (Decision::Threshold(_), Some(Truth::Two { negative, positive })) => (negative, positive),
        (Decision::Threshold(decision), _) => (&decision.negative, &decision.positive),
    };
    Outputs::Binary(Labels {
        negative: negative.clone(),
        positive: positive.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{DIABETES, args},
        *,
    };

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn outputs_are_a_task_and_its_names() {
        assert_eq!(
            outputs("binary:neg, pos"),
            Ok(Outputs::Binary(Labels {
                negative: "neg".into(),
                positive: "pos".into()
            }))
        );
        assert_eq!(
            outputs("classes:a,b,c"),
            Ok(Outputs::Classes(names(&["a", "b", "c"])))
        );
        assert_eq!(outputs("values:x"), Ok(Outputs::Values(names(&["x"]))));
        for wrong in [
            "",
            "binary",
            "binary:a",
            "binary:a,b,c",
            "classes:a",
            "values:",
            "odds:a",
            "values:a,,b",
        ] {
            assert!(outputs(wrong).unwrap_err().contains("binary:"), "{wrong}");
        }
    }

    #[test]
    fn inputs_come_from_a_list_or_a_pipeline_and_never_from_nowhere() {
        let of_list = args(&[
            "m.onnx",
            "--name",
            "m",
            "--inputs",
            "a, b",
            "--outputs",
            "values:y",
            "--out",
            "o",
        ]);
        let options = of_list.unwrap().options().unwrap();
        assert_eq!(options.inputs, ["a", "b"]);
        let of_pipeline = args(&[
            "m.onnx",
            "--pipeline",
            DIABETES,
            "--version",
            "7",
            "--out",
            "o",
        ]);
        let options = of_pipeline.unwrap().options().unwrap();
        assert_eq!((&*options.name, &*options.version), ("diabetes", "7"));
        assert_eq!(options.inputs[0], "pregnant");
        assert_eq!(options.outputs.names(), ["pos"]);
        for wrong in [
            &[
                "m.onnx",
                "--name",
                "m",
                "--outputs",
                "values:y",
                "--out",
                "o",
            ][..],
            &["m.onnx", "--name", "m", "--inputs", "a", "--out", "o"],
            &[
                "m.onnx",
                "--inputs",
                "a",
                "--outputs",
                "values:y",
                "--out",
                "o",
            ],
            &[
                "m.onnx",
                "--pipeline",
                DIABETES,
                "--inputs",
                "a",
                "--out",
                "o",
            ],
        ] {
            let parsed = args(wrong).map(|args| args.options());
            assert!(!matches!(parsed, Ok(Ok(_))), "{wrong:?}");
        }
    }
}
