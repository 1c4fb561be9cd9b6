//! `inference.GRPCInferenceService` and `PredictService`, by generated clients.

mod infer;
mod limits;
mod models;
mod predict;

use quadrille_proto::oip::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use tonic::transport::Channel;

use crate::server::server;

/// The diabetes forest's inputs.
const WIDTH: usize = 10;

type Client = GrpcInferenceServiceClient<Channel>;

async fn client() -> Client {
    let server = tokio::task::spawn_blocking(server).await.expect("a server");
    Client::connect(server.url()).await.expect("a connection")
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn doubles(name: &str, shape: &[i64], numbers: &[f64]) -> InferInputTensor {
    let contents = InferTensorContents {
        fp64_contents: numbers.to_vec(),
        ..Default::default()
    };
    InferInputTensor {
        contents: Some(contents),
        ..input(name, "FP64", shape)
    }
}

fn ask(model: &str, inputs: Vec<InferInputTensor>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        id: "q-1".to_owned(),
        inputs,
        ..Default::default()
    }
}

fn text(text: &str) -> InferParameter {
    InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.to_owned())),
    }
}

fn texts(raw: &[u8]) -> Vec<String> {
    let (mut texts, mut rest) = (Vec::new(), raw);
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (text, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        texts.push(String::from_utf8(text.to_vec()).expect("text"));
        rest = more;
    }
    texts
}

fn raw_doubles(raw: &[u8]) -> Vec<f64> {
    let (numbers, _) = raw.as_chunks::<8>();
    numbers.iter().map(|it| f64::from_le_bytes(*it)).collect()
}

fn typed_doubles(response: &ModelInferResponse, at: usize) -> Vec<f64> {
    let contents = response.outputs[at].contents.as_ref();
    contents.expect("typed contents").fp64_contents.clone()
}

/// Numbers that every datatype but BOOL has.
fn two_rows() -> Vec<f64> {
    [
        6, 120, 72, 35, 0, 33, 1, 50, 1, 0, 1, 85, 66, 29, 0, 26, 0, 31, 1, 0,
    ]
    .map(f64::from)
    .to_vec()
}
