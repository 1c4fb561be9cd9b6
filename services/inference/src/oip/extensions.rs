//! What Triton's clients ask beside the protocol: a model's configuration and its statistics; the same for gRPC and REST.

use std::collections::BTreeSet;

use quadrille_proto::oip::{
    DataType, InferStatistics, ModelConfig, ModelInput, ModelOutput, ModelParameter,
    ModelStatistics, ModelTensorReshape, StatisticDuration,
};
use quadrille_registry::ModelId;
use serde_json::{Value, json};

use crate::{
    engine::Statistics,
    scoring::{Error, Scorer, Target, TensorSpec},
    serving::ModelState,
    tensor::Datatype,
};

/// The names that are served: models, then pipelines.
pub(super) fn names(scorer: &Scorer) -> Vec<String> {
    let ready = ready_versions(scorer).into_iter().map(|id| id.name);
    let mut names: Vec<String> = ready.collect();
    names.dedup();
    let pipelines = scorer.serving.pipelines().iter();
    names.extend(pipelines.map(|pipeline| pipeline.name().to_owned()));
    names
}

fn ready_versions(scorer: &Scorer) -> Vec<ModelId> {
    let models = scorer.serving.models().into_iter();
    let ready = models.filter(|it| it.state == ModelState::Ready);
    ready.map(|it| it.id).collect()
}

/// # Errors
/// Nobody of this name is served.
pub(super) fn config(scorer: &Scorer, name: &str, version: &str) -> Result<ModelConfig, Error> {
    let about = scorer.about(name, version)?;
    let input = |tensor: TensorSpec| {
        let (data_type, dims, reshape) = described(&tensor);
        ModelInput {
            name: tensor.name,
            data_type,
            dims,
            reshape,
        }
    };
    let output = |tensor: TensorSpec| {
        let (data_type, dims, reshape) = described(&tensor);
        ModelOutput {
            name: tensor.name,
            data_type,
            dims,
            reshape,
        }
    };
    let parameters = about.properties.into_iter();
    Ok(ModelConfig {
        name: about.name,
        platform: about.platform.to_owned(),
        max_batch_size: i32::try_from(scorer.limits.rows_max).unwrap_or(i32::MAX),
        input: about.inputs.into_iter().map(input).collect(),
        output: about.outputs.into_iter().map(output).collect(),
        parameters: parameters
            .map(|(name, string_value)| (name.to_owned(), ModelParameter { string_value }))
            .collect(),
    })
}

/// Of one version, of all versions of a model, of those that serve a pipeline, or (no name) of all.
///
/// # Errors
/// Nobody of this name is served.
pub(super) fn statistics(
    scorer: &Scorer,
    name: &str,
    version: &str,
) -> Result<Vec<ModelStatistics>, Error> {
    let versions: BTreeSet<ModelId> = match name {
        "" => ready_versions(scorer).into_iter().collect(),
        name => match scorer.target(name, version)? {
            Target::Model(loaded) if !version.is_empty() => [loaded.id().clone()].into(),
            Target::Model(_) => {
                let versions = ready_versions(scorer).into_iter();
                versions.filter(|id| id.name == name).collect()
            }
            Target::Pipeline(_) => {
                let routes = scorer.serving.routes(scorer.serving.place(name)?);
                let variants = routes.iter().flat_map(|routes| &routes.variants);
                variants.map(|it| it.loaded.id().clone()).collect()
            }
        },
    };
    let of = |id: ModelId| {
        let loaded = scorer.serving.model(&id.name, Some(&id.version)).ok()?;
        Some(statistics_of(id, loaded.statistics()))
    };
    Ok(versions.into_iter().filter_map(of).collect())
}

/// A tensor's type and sides. Rows are a batch to Triton, and no side; a tensor must have one left.
fn described(tensor: &TensorSpec) -> (i32, Vec<i64>, Option<ModelTensorReshape>) {
    let data_type = match tensor.datatype {
        Datatype::Fp64 => DataType::TypeFp64,
        Datatype::Fp32 => DataType::TypeFp32,
        Datatype::Int64 => DataType::TypeInt64,
        Datatype::Bool => DataType::TypeBool,
        _ => DataType::TypeString,
    };
    let sides = tensor.shape.get(1..).unwrap_or_default();
    match sides {
        [] => {
            let reshape = ModelTensorReshape { shape: Vec::new() };
            (data_type.into(), vec![1], Some(reshape))
        }
        sides => (data_type.into(), sides.to_vec(), None),
    }
}

fn statistics_of(id: ModelId, so_far: Statistics) -> ModelStatistics {
    let duration = |(count, ns)| Some(StatisticDuration { count, ns });
    ModelStatistics {
        name: id.name,
        version: id.version,
        last_inference: so_far.last_ms,
        inference_count: so_far.rows,
        execution_count: so_far.runs.0,
        inference_stats: Some(InferStatistics {
            success: duration(so_far.answered),
            fail: duration(so_far.refused),
            queue: duration(so_far.queued),
            compute_input: duration(so_far.prepared),
            compute_infer: duration(so_far.runs),
            compute_output: duration(so_far.written),
        }),
    }
}

pub(super) fn config_json(config: &ModelConfig) -> Value {
    let tensor = |name: &str, data_type: i32, dims: &[i64], reshape: &Option<_>| {
        let data_type = DataType::try_from(data_type).unwrap_or(DataType::TypeInvalid);
        let mut tensor = json!({"name": name, "data_type": data_type.as_str_name(), "dims": dims});
        if reshape.is_some() {
            tensor["reshape"] = json!({"shape": []});
        }
        tensor
    };
    let inputs = config.input.iter();
    let inputs = inputs.map(|it| tensor(&it.name, it.data_type, &it.dims, &it.reshape));
    let outputs = config.output.iter();
    let outputs = outputs.map(|it| tensor(&it.name, it.data_type, &it.dims, &it.reshape));
    let parameters = config.parameters.iter();
    let parameters =
        parameters.map(|(name, it)| (name.clone(), json!({"string_value": it.string_value})));
    json!({
        "name": config.name,
        "platform": config.platform,
        "max_batch_size": config.max_batch_size,
        "input": inputs.collect::<Value>(),
        "output": outputs.collect::<Value>(),
        "parameters": Value::Object(parameters.collect()),
    })
}

pub(super) fn statistics_json(models: &[ModelStatistics]) -> Value {
    let duration = |it: &Option<StatisticDuration>| {
        let it = it.unwrap_or_default();
        json!({"count": it.count, "ns": it.ns})
    };
    let model = |it: &ModelStatistics| {
        let times = it.inference_stats.unwrap_or_default();
        json!({
            "name": it.name,
            "version": it.version,
            "last_inference": it.last_inference,
            "inference_count": it.inference_count,
            "execution_count": it.execution_count,
            "inference_stats": {
                "success": duration(&times.success),
                "fail": duration(&times.fail),
                "queue": duration(&times.queue),
                "compute_input": duration(&times.compute_input),
                "compute_infer": duration(&times.compute_infer),
                "compute_output": duration(&times.compute_output),
            },
            "batch_stats": [],
        })
    };
    json!({"model_stats": models.iter().map(model).collect::<Value>()})
}
