//! What the protocol says of the server and its models; the same for gRPC and REST.

use quadrille_proto::oip::{
    ModelMetadataResponse, ServerMetadataResponse, model_metadata_response::TensorMetadata,
};

use crate::scoring::{About, TensorSpec};

pub(super) fn server() -> ServerMetadataResponse {
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

pub(super) fn model(about: About) -> ModelMetadataResponse {
    let properties = about.properties.into_iter();
    ModelMetadataResponse {
        name: about.name,
        versions: about.versions,
        platform: about.platform.to_owned(),
        inputs: about.inputs.into_iter().map(tensor).collect(),
        outputs: about.outputs.into_iter().map(tensor).collect(),
        properties: properties
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

fn tensor(spec: TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name,
        datatype: spec.datatype.name().to_owned(),
        shape: spec.shape,
    }
}
