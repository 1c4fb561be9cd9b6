//! What is said of a model or a pipeline: its inputs, its outputs, and what a client needs to know to ask it.

use std::collections::BTreeMap;

use quadrille_model::Outputs;
use quadrille_pipeline::Pipeline;
use quadrille_proto::FieldType;

use super::{
    error::Error,
    outputs::{PROBABILITIES, VALUES, labels, offered, threshold},
    scorer::{Scorer, Target},
};
use crate::{engine::Loaded, serving::ModelState, tensor::Datatype};

/// The name of the one tensor that holds all columns.
const INPUT: &str = "input";
/// How many rows there are is the request's affair.
const ROWS: i64 = -1;

/// A tensor that is taken or given.
#[derive(Debug)]
pub(crate) struct TensorSpec {
    pub name: String,
    pub datatype: Datatype,
    /// The first side, of rows, is -1.
    pub shape: Vec<i64>,
}

/// A model or a pipeline.
#[derive(Debug)]
pub(crate) struct About {
    pub name: String,
    /// Those of a model that are ready; a pipeline has none.
    pub versions: Vec<String>,
    pub platform: &'static str,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    pub properties: BTreeMap<&'static str, String>,
}

impl Scorer {
    /// # Errors
    /// Nobody of this name is served.
    pub(crate) fn about(&self, name: &str, version: &str) -> Result<About, Error> {
        match self.target(name, version)? {
            Target::Model(loaded) => Ok(self.of_model(name, &loaded)),
            Target::Pipeline(pipeline) => {
                let choice = self.serving.choose(name, None, None)?;
                Ok(of_pipeline(&pipeline, &choice.loaded))
            }
        }
    }

    fn of_model(&self, name: &str, loaded: &Loaded) -> About {
        let models = self.serving.models().into_iter();
        let versions = models.filter(|it| it.id.name == name && it.state == ModelState::Ready);
        let columns = loaded.model().inputs();
        About {
            name: name.to_owned(),
            versions: versions.map(|it| it.id.version).collect(),
            platform: loaded.platform(),
            inputs: vec![tensor(
                INPUT,
                Datatype::Fp64,
                vec![ROWS, side(columns.len())],
            )],
            outputs: outputs(loaded.model().outputs(), false),
            properties: properties(
                loaded,
                None,
                "one tensor of all columns, or a tensor [N] for each column by its name",
            ),
        }
    }
}

/// A pipeline's inputs are its record's fields.
fn of_pipeline(pipeline: &Pipeline, loaded: &Loaded) -> About {
    let fields = pipeline.record_schema().fields.iter().map(|field| {
        let datatype = match field.field_type {
            FieldType::Number => Datatype::Fp64,
            FieldType::Integer => Datatype::Int64,
            FieldType::Boolean => Datatype::Bool,
            FieldType::Category(_) => Datatype::Bytes,
        };
        tensor(&field.name, datatype, vec![ROWS])
    });
    let features = format!(
        "the record's fields (a tensor [N] each; {} too, for the split), or FP64 [N, {}] of the columns{}",
        pipeline.key_field(),
        pipeline.inputs().len(),
        match pipeline.only_field() {
            Some(_) => " with the parameter inputs = \"features\"",
            None => "",
        }
    );
    About {
        name: pipeline.name().to_owned(),
        versions: Vec::new(),
        platform: "quadrille_pipeline",
        inputs: fields.collect(),
        outputs: outputs(loaded.model().outputs(), true),
        properties: properties(loaded, Some(pipeline), &features),
    }
}

fn properties(
    loaded: &Loaded,
    pipeline: Option<&Pipeline>,
    inputs: &str,
) -> BTreeMap<&'static str, String> {
    let classes = labels(loaded.model().outputs()).join(",");
    let columns = loaded.model().inputs().join(",");
    let mut properties = BTreeMap::from([
        ("inputs", inputs.to_owned()),
        ("columns", columns),
        ("classes", classes),
    ]);
    if matches!(loaded.model().outputs(), Outputs::Binary(_)) {
        properties.insert("threshold", threshold(pipeline).to_string());
    }
    properties
}

fn outputs(outputs: &Outputs, decides: bool) -> Vec<TensorSpec> {
    let output = |name: &&'static str| match *name {
        PROBABILITIES | VALUES => tensor(name, Datatype::Fp64, vec![ROWS, side(outputs.width())]),
        _ => tensor(name, Datatype::Bytes, vec![ROWS]),
    };
    offered(outputs, decides).iter().map(output).collect()
}

fn tensor(name: &str, datatype: Datatype, shape: Vec<i64>) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape,
    }
}

/// Models have at most some thousand inputs and outputs.
fn side(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
