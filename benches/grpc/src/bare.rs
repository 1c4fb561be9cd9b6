//! The reference: tonic's own server, which decodes the request and answers a constant.

use std::{net::Ipv4Addr, pin::Pin};

use quadrille_proto::oip::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_infer_response::InferOutputTensor,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{load::MODEL, ours::NEGATIVE};

/// Serves until the process is ended.
pub fn serve() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |stream| {
            stream.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        });
        Server::builder()
            .add_service(GrpcInferenceServiceServer::new(Constant))
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}

struct Constant;

/// As large as the forest's answer to so many rows.
fn constant(rows: usize) -> ModelInferResponse {
    let output = |name: &str, datatype: &str, shape: &[i64]| InferOutputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    };
    let count = i64::try_from(rows).unwrap_or(i64::MAX);
    let label = [&[8, 0, 0, 0], NEGATIVE.as_bytes()].concat();
    ModelInferResponse {
        model_name: MODEL.to_owned(),
        model_version: "1".to_owned(),
        outputs: vec![
            output("probabilities", "FP64", &[count, 1]),
            output("label", "BYTES", &[count]),
        ],
        raw_output_contents: vec![vec![0; 8 * rows].into(), label.repeat(rows).into()],
        ..Default::default()
    }
}

const NOT_MEASURED: &str = "this server knows ModelInfer only";

#[tonic::async_trait]
impl GrpcInferenceService for Constant {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let rows = request.inputs.first().and_then(|input| input.shape.first());
        let rows = rows.and_then(|rows| usize::try_from(*rows).ok());
        Ok(Response::new(constant(rows.unwrap_or_default())))
    }

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
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        _: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Ok(Response::new(ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        _: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn model_config(
        &self,
        _: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }

    async fn model_statistics(
        &self,
        _: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        Err(Status::unimplemented(NOT_MEASURED))
    }
}
