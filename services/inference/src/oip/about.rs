//! What the server says of itself, its models and its pipelines; the same for gRPC and REST.

use std::collections::BTreeMap;

use quadrille_model::Outputs;
use quadrille_pipeline::{Pipeline, quote::quote};
use quadrille_proto::{
    FieldType,
    oip::{
        ModelMetadataResponse, ServerMetadataResponse, model_metadata_response::TensorMetadata,
        repository_index_response::ModelIndex,
    },
};

use super::{
    infer::{Doors, Target},
    outputs::{DECISION, LABEL, PROBABILITIES, VALUES, labels, offered, threshold},
    refusal::Refusal,
};
use crate::{engine::Loaded, serving::ModelState};

/// The name of the one tensor that holds all columns.
const INPUT: &str = "input";
/// How many rows there are is the request's affair.
const ROWS: i64 = -1;

pub(crate) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "quadrille".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: [
            "classification",
            "binary_tensor_data",
            "model_repository",
            "model_configuration",
            "statistics",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

impl Doors {
    /// # Errors
    /// Nobody of this name is served.
    pub(crate) fn about(
        &self,
        name: &str,
        version: &str,
    ) -> Result<ModelMetadataResponse, Refusal> {
        match self.target(name, version)? {
            Target::Model(loaded) => Ok(self.of_model(name, &loaded)),
            Target::Pipeline(pipeline) => {
                let choice = self.serving.choose(name, None, None)?;
                Ok(of_pipeline(&pipeline, &choice.loaded))
            }
        }
    }

    fn of_model(&self, name: &str, loaded: &Loaded) -> ModelMetadataResponse {
        let models = self.serving.models().into_iter();
        let versions = models.filter(|it| it.id.name == name && it.state == ModelState::Ready);
        let columns = loaded.model().inputs();
        ModelMetadataResponse {
            name: name.to_owned(),
            versions: versions.map(|it| it.id.version).collect(),
            platform: loaded.platform().to_owned(),
            inputs: vec![matrix(columns)],
            outputs: outputs(loaded.model().outputs(), false),
            properties: properties(
                loaded,
                None,
                "one tensor of all columns, or a tensor [N] for each column by its name",
            ),
        }
    }

    /// Whether a model or a pipeline answers; what is not known does not.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn ready(&self, name: &str, version: &str) -> Result<(), Refusal> {
        match self.target(name, version)? {
            Target::Model(_) => Ok(()),
            Target::Pipeline(_) => Ok(self.serving.choose(name, None, None).map(drop)?),
        }
    }

    /// Models and pipelines, and how far each is.
    pub(crate) fn index(&self, repository: &str, ready: bool) -> Result<Vec<ModelIndex>, Refusal> {
        one_repository(repository)?;
        let models = self.serving.models().into_iter().map(|model| {
            let (state, reason) = match model.state {
                ModelState::Ready => ("READY", String::new()),
                ModelState::Loading => ("LOADING", String::new()),
                ModelState::Wanted => ("UNAVAILABLE", "waits to be loaded".to_owned()),
                ModelState::Failed { why } => ("UNAVAILABLE", why),
            };
            index(model.id.name, model.id.version, state, reason)
        });
        let pipelines = self.serving.pipelines().iter().map(|pipeline| {
            let name = pipeline.name().to_owned();
            match self.serving.choose(&name, None, None) {
                Ok(_) => index(name, String::new(), "READY", String::new()),
                Err(not) => index(name, String::new(), "UNAVAILABLE", not.to_string()),
            }
        });
        let all = models.chain(pipelines);
        Ok(all.filter(|it| !ready || it.state == "READY").collect())
    }

    /// Says whether a model is loaded: what is to be loaded is for deployments to say.
    ///
    /// # Errors
    /// It is not, and how it will be.
    pub(crate) fn load(
        &self,
        repository: &str,
        name: &str,
        parameters: bool,
    ) -> Result<(), Refusal> {
        one_repository(repository)?;
        if parameters {
            return Err(Refusal::invalid(
                "a model's configuration is in its package; push a package with `quadrille model push`, and send no parameters",
            ));
        }
        self.ready(name, "").map_err(|refusal| match refusal {
            Refusal::Unknown(message) => Refusal::Unknown(format!(
                "{message}; a replica loads what its deployments need: `quadrille model push`, then `quadrille deploy set`"
            )),
            other => other,
        })
    }

    /// Says whether a model is gone.
    ///
    /// # Errors
    /// It is not, and how it goes.
    pub(crate) fn unload(&self, repository: &str, name: &str) -> Result<(), Refusal> {
        one_repository(repository)?;
        match self.target(name, "") {
            Err(_) => Ok(()),
            Ok(_) => Err(Refusal::Conflict(format!(
                "{name:?} serves; a model is unloaded once no deployment routes to it: `quadrille deploy set`"
            ))),
        }
    }
}

fn one_repository(name: &str) -> Result<(), Refusal> {
    match name {
        "" => Ok(()),
        _ => Err(Refusal::Unknown(format!(
            "no repository {}; there is one, without a name",
            quote(name)
        ))),
    }
}

fn index(name: String, version: String, state: &str, reason: String) -> ModelIndex {
    ModelIndex {
        name,
        version,
        state: state.to_owned(),
        reason,
    }
}

/// A pipeline's inputs are its record's fields.
fn of_pipeline(pipeline: &Pipeline, loaded: &Loaded) -> ModelMetadataResponse {
    let fields = pipeline.record_schema().fields.iter().map(|field| {
        let datatype = match field.field_type {
            FieldType::Number => "FP64",
            FieldType::Integer => "INT64",
            FieldType::Boolean => "BOOL",
            FieldType::Category(_) => "BYTES",
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
    ModelMetadataResponse {
        name: pipeline.name().to_owned(),
        versions: Vec::new(),
        platform: "quadrille_pipeline".to_owned(),
        inputs: fields.collect(),
        outputs: outputs(loaded.model().outputs(), true),
        properties: properties(loaded, Some(pipeline), &features),
    }
}

fn properties(
    loaded: &Loaded,
    pipeline: Option<&Pipeline>,
    inputs: &str,
) -> BTreeMap<String, String> {
    let classes = labels(loaded.model().outputs()).join(",");
    let columns = loaded.model().inputs().join(",");
    let properties = [
        ("inputs", inputs.to_owned()),
        ("columns", columns),
        ("classes", classes),
    ];
    let mut properties: BTreeMap<String, String> = properties
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    if matches!(loaded.model().outputs(), Outputs::Binary(_)) {
        let threshold = threshold(pipeline).to_string();
        properties.insert("threshold".to_owned(), threshold);
    }
    properties
}

fn matrix(columns: &[String]) -> TensorMetadata {
    tensor(INPUT, "FP64", vec![ROWS, side(columns.len())])
}

fn outputs(outputs: &Outputs, decides: bool) -> Vec<TensorMetadata> {
    let output = |name: &&'static str| match *name {
        PROBABILITIES | VALUES => tensor(name, "FP64", vec![ROWS, side(outputs.width())]),
        LABEL | DECISION => tensor(name, "BYTES", vec![ROWS]),
        _ => tensor(name, "BYTES", vec![ROWS]),
    };
    offered(outputs, decides).iter().map(output).collect()
}

fn tensor(name: &str, datatype: &str, shape: Vec<i64>) -> TensorMetadata {
    TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape,
    }
}

/// Models have at most some thousand inputs and outputs.
fn side(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
