//! `inference.GRPCInferenceService`: the protocol's messages to questions, and answers to messages.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Instant};

use futures_util::{Stream, StreamExt};
use prost::Message as _;
use quadrille_pipeline::quote::message;
use quadrille_proto::oip::{
    InferParameter, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
    model_infer_response::InferOutputTensor,
};
use quadrille_service::Memory;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::{
    contents, extensions,
    infer::{InferRequest, Inferred, deadline, infer},
    metadata,
    parameters::{InferParameters, no_shared_memory},
    repository,
};
use crate::{
    scoring::{Error, Scorer},
    tensor::{self, Data, Datatype, INPUTS_MAX, Limits, Tensor, wrong},
    transport::grpc::{self, variant},
};

/// Requests of one stream that are answered at once: enough that they can be scored together.
const STREAM_AHEAD: usize = 32;

pub(crate) struct Inference(Scorer);

/// The service, ready to be mounted.
pub(crate) fn service(scorer: Scorer) -> GrpcInferenceServiceServer<Inference> {
    let bytes_max = scorer.limits.bytes_max;
    GrpcInferenceServiceServer::new(Inference(scorer)).max_decoding_message_size(bytes_max)
}

/// What came with a call beside its messages.
#[derive(Default, Clone)]
struct Call {
    deadline: Option<Instant>,
    variant: Option<String>,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, Error> {
        Ok(Call {
            deadline: grpc::deadline(request),
            variant: variant(request.metadata())?,
        })
    }
}

async fn answer(
    scorer: &Scorer,
    request: &ModelInferRequest,
    call: &Call,
) -> Result<ModelInferResponse, Error> {
    let mut parameters = InferParameters::read(&request.parameters)?;
    if parameters.variant.is_none() {
        parameters.variant.clone_from(&call.variant);
    }
    let tensors = tensors(request, scorer.limits)?;
    let question = InferRequest {
        model: &request.model_name,
        version: &request.model_version,
        parameters: &parameters,
        tensors: &tensors,
        outputs: &request.outputs,
        deadline: deadline(call.deadline, parameters.timeout),
    };
    let inferred = infer(scorer, question).await?;
    let response = response(request, &inferred);
    inferred.written();
    Ok(response)
}

/// A stream goes on after a request that cannot be answered.
async fn answer_of_stream(
    scorer: &Scorer,
    request: ModelInferRequest,
    call: &Call,
) -> ModelStreamInferResponse {
    match answer(scorer, &request, call).await {
        Ok(mut response) => {
            response.parameters.extend(is_final());
            ModelStreamInferResponse {
                error_message: String::new(),
                infer_response: Some(response),
            }
        }
        Err(error) => ModelStreamInferResponse {
            error_message: message(error.to_string()),
            infer_response: Some(ModelInferResponse {
                model_name: request.model_name,
                id: request.id,
                parameters: is_final().into(),
                ..ModelInferResponse::default()
            }),
        },
    }
}

/// The inputs, where their contents are; raw and typed contents are never mixed.
fn tensors(request: &ModelInferRequest, limits: Limits) -> Result<Vec<Tensor<'_>>, tensor::Error> {
    let (inputs, raw) = (&request.inputs, &request.raw_input_contents);
    if inputs.len() > INPUTS_MAX || request.outputs.len() > INPUTS_MAX {
        return Err(tensor::Error::TooLarge(format!(
            "a request has at most {INPUTS_MAX} inputs and outputs; send columns in one tensor"
        )));
    }
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(tensor::Error::Invalid(format!(
            "raw_input_contents has {} entries for {} inputs; send one for each input, in their order",
            raw.len(),
            inputs.len()
        )));
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let parse = || Datatype::parse(&input.name, &input.datatype);
        let (datatype, data) = match (raw.get(at), &input.contents) {
            (Some(raw), None) => (parse()?, Data::Raw(raw)),
            (None, Some(contents)) => {
                let datatype = parse()?;
                (datatype, Data::List(contents::list(datatype, contents)))
            }
            (Some(_), Some(_)) => {
                return Err(wrong(
                    &input.name,
                    "has contents while the request has raw_input_contents; send the one or the other",
                ));
            }
            (None, None) => return Err(no_data(input)),
        };
        tensors.push(Tensor {
            name: &input.name,
            datatype,
            shape: &input.shape,
            data,
            limits,
        });
    }
    Ok(tensors)
}

fn no_data(input: &InferInputTensor) -> tensor::Error {
    if input.parameters.contains_key("shared_memory_region") {
        return no_shared_memory(&input.name);
    }
    wrong(
        &input.name,
        "has no data; send contents, or raw_input_contents beside the inputs",
    )
}

fn response(request: &ModelInferRequest, inferred: &Inferred) -> ModelInferResponse {
    let raw = !request.raw_input_contents.is_empty();
    let mut response = ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: inferred.id().version.clone(),
        id: request.id.clone(),
        parameters: parameters(inferred),
        outputs: Vec::with_capacity(3),
        raw_output_contents: Vec::new(),
    };
    for made in inferred.tensors() {
        let contents = match raw {
            true => {
                response.raw_output_contents.push(made.values.raw().into());
                None
            }
            false => Some(made.values.typed()),
        };
        response.outputs.push(InferOutputTensor {
            name: made.name.to_owned(),
            datatype: made.values.datatype().to_owned(),
            shape: made.shape,
            parameters: BTreeMap::new(),
            contents,
        });
    }
    response
}

fn parameters(inferred: &Inferred) -> BTreeMap<String, InferParameter> {
    let parameter = |(name, text): (&str, &str)| {
        let parameter_choice = Some(ParameterChoice::StringParam(text.to_owned()));
        (name.to_owned(), InferParameter { parameter_choice })
    };
    let parameters = inferred.answered_by().into_iter().flatten();
    parameters.map(parameter).collect()
}

/// What Triton's clients look for in a stream: whether a request has all its answers. It has one.
fn is_final() -> [(String, InferParameter); 1] {
    let parameter_choice = Some(ParameterChoice::BoolParam(true));
    [(
        "triton_final_response".to_owned(),
        InferParameter { parameter_choice },
    )]
}

/// What a request takes in memory, about.
fn size(request: &ModelInferRequest) -> usize {
    let inputs = request.inputs.len() * size_of::<InferInputTensor>();
    request.encoded_len().saturating_add(inputs)
}

/// Answers a stream's requests in order, some at once: so many, and so many bytes of them until their answers go, or one.
/// What they are counts against what all bodies may hold.
fn ahead<R, A, F>(
    requests: impl Stream<Item = Result<R, Status>> + Send,
    bytes_max: usize,
    memory: Option<Memory>,
    size: impl Fn(&R) -> usize + Send,
    mut answer: impl FnMut(R) -> F + Send,
) -> impl Stream<Item = Result<A, Status>> + Send
where
    R: Send,
    A: Send,
    F: Future<Output = A> + Send,
{
    // A semaphore counts in 32 bits.
    let kib = |bytes: usize| u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4);
    let most = kib(bytes_max).max(1);
    let room = Arc::new(Semaphore::new(most as usize));
    let begun = requests.then(move |request| {
        let bytes = request.as_ref().map_or(0, &size);
        let room = Arc::clone(&room);
        async move {
            let permits = kib(bytes).saturating_add(1).min(most);
            // It is never closed.
            let permit = room.acquire_many_owned(permits).await.ok();
            request.map(|request| (request, bytes, permit))
        }
    });
    let answers = begun.map(move |begun: Result<_, Status>| {
        let begun = begun.map(|(request, bytes, permit)| (answer(request), bytes, permit));
        let memory = memory.clone();
        async move {
            let (answer, bytes, permit) = begun?;
            // The stream has been asked for more by now, and the message counts as one that comes no longer.
            let held = memory.map(|memory| memory.hold(bytes)).transpose()?;
            Ok((answer.await, (held, permit)))
        }
    });
    let answers = answers.buffered(STREAM_AHEAD);
    answers.map(|answered: Result<_, Status>| answered.map(|(answer, _)| answer))
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.0.serving.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.0.ready(&name, &version).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(metadata::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let about = self.0.about(&name, &version)?;
        Ok(Response::new(metadata::model(about)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let call = Call::of(&request)?;
        let response = answer(&self.0, request.get_ref(), &call).await?;
        Ok(Response::new(response))
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let call = Call::of(&request)?;
        let memory: Option<Memory> = request.extensions().get().cloned();
        let scorer = self.0.clone();
        let bytes_max = scorer.limits.bytes_max;
        let answers = ahead(
            request.into_inner(),
            bytes_max,
            memory,
            size,
            move |request| {
                let (scorer, call) = (scorer.clone(), call.clone());
                async move { answer_of_stream(&scorer, request, &call).await }
            },
        );
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let config = Some(extensions::config(&self.0, &name, &version)?);
        Ok(Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let model_stats = extensions::statistics(&self.0, &name, &version)?;
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let request = request.into_inner();
        let models = repository::index(&self.0, &request.repository_name, request.ready)?;
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let request = request.into_inner();
        let parameters = !request.parameters.is_empty();
        let (from, model) = (&request.repository_name, &request.model_name);
        repository::load(&self.0, from, model, parameters)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let request = request.into_inner();
        repository::unload(&self.0, &request.repository_name, &request.model_name)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{future::pending, stream};

    use super::*;

    /// How many of a stream's requests of so many bytes are begun while none is answered.
    async fn begun(bytes: usize) -> usize {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let requests = stream::iter((0..100).map(move |_| Ok(bytes)));
        let answers = ahead(
            requests,
            20 << 20,
            None,
            |bytes| *bytes,
            move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                pending::<()>()
            },
        );
        let mut answers = Box::pin(answers);
        assert!(futures_util::poll!(answers.next()).is_pending());
        begun.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_stream_holds_no_more_than_one_request_may_have() {
        assert_eq!(begun(100).await, STREAM_AHEAD);
        assert_eq!(begun(9 << 20).await, 2);
        assert_eq!(begun(20 << 20).await, 1);
        assert_eq!(begun(1 << 40).await, 1, "one always goes");
    }

    #[tokio::test]
    async fn a_stream_is_answered_in_order_whatever_its_requests_hold() {
        let sizes = (0..50).map(|at| Ok((at * 7_919) % (30 << 20)));
        let requests = stream::iter(sizes.collect::<Vec<_>>());
        let answers = ahead(
            requests,
            20 << 20,
            None,
            |bytes| *bytes,
            async |bytes| bytes,
        );
        let answers: Vec<usize> = answers.map(Result::unwrap).collect().await;
        let expected: Vec<usize> = (0..50).map(|at| (at * 7_919) % (30 << 20)).collect();
        assert_eq!(answers, expected);
    }
}
