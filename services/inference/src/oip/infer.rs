//! A question by the protocol, gRPC or REST: what it asks for beside its scores, and the tensors of its answer.

use std::time::{Duration, Instant};

use quadrille_proto::oip::model_infer_request::InferRequestedOutputTensor;
use quadrille_registry::ModelId;

use super::{
    outputs::{OutputSpec, OutputTensor, check_precision, make, plan},
    parameters::{InferParameters, Precision},
};
use crate::{
    scoring::{Answer, Error, Question, Scorer, Through, outputs::offered},
    tensor::Tensor,
};

pub(super) struct InferRequest<'a> {
    pub model: &'a str,
    /// Empty: none named.
    pub version: &'a str,
    pub parameters: &'a InferParameters,
    pub tensors: &'a [Tensor<'a>],
    pub outputs: &'a [InferRequestedOutputTensor],
    pub deadline: Option<Instant>,
}

/// An answer, and the outputs that are asked for.
pub(super) struct Inferred {
    through: Option<Through>,
    answer: Answer,
    outputs: Vec<OutputSpec>,
}

impl Inferred {
    pub fn id(&self) -> &ModelId {
        self.answer.id()
    }

    /// Model, version and variant that answered for a pipeline. A model that was asked by its own name is in the
    /// answer already.
    pub fn answered_by(&self) -> Option<[(&'static str, &str); 3]> {
        let through = self.through.as_ref()?;
        let id = self.id();
        Some([
            ("model", &id.name),
            ("version", &id.version),
            ("variant", &through.variant),
        ])
    }

    /// The outputs that are asked for, in their order.
    pub fn tensors(&self) -> impl Iterator<Item = OutputTensor<'_>> {
        let pipeline = self.through.as_ref().map(|it| &*it.pipeline);
        let (outputs, scores) = (self.answer.outputs(), &self.answer.scores);
        let made = move |spec| make(spec, outputs, pipeline, scores);
        self.outputs.iter().map(made)
    }

    /// The answer has been written.
    pub fn written(&self) {
        self.answer.written();
    }
}

/// # Errors
/// Why there is no answer, and what to change.
pub(super) async fn infer(scorer: &Scorer, request: InferRequest<'_>) -> Result<Inferred, Error> {
    let parameters = request.parameters;
    let target = scorer.target(request.model, request.version)?;
    let question = Question {
        name: request.model,
        key: parameters.key.as_deref(),
        variant: parameters.variant.as_deref(),
        form: parameters.form,
        tensors: request.tensors,
    };
    let (through, prepared) = scorer.prepare(target, &question)?;
    let offered = offered(prepared.outputs(), through.is_some());
    let precision = parameters.precision.unwrap_or(Precision::Double);
    let outputs = plan(request.outputs, offered, precision)?;
    let check = |scores: &[f64]| Ok(check_precision(&outputs, scores)?);
    let answer = scorer.score(prepared, request.deadline, check).await?;
    Ok(Inferred {
        through,
        answer,
        outputs,
    })
}

/// The sooner of what the transport and the parameters allow.
pub(super) fn deadline(transport: Option<Instant>, timeout: Option<Duration>) -> Option<Instant> {
    let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match (transport, own) {
        (Some(transport), Some(own)) => Some(transport.min(own)),
        (transport, own) => transport.or(own),
    }
}
