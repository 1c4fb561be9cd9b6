//! Compiles the proto files without a `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "quadrille/v1/messages.proto",
        "quadrille/v1/registry.proto",
        "quadrille/v1/pipelines.proto",
        "quadrille/v1/dead_letters.proto",
        "quadrille/v1/ingest.proto",
        "quadrille/v1/feature.proto",
        "quadrille/v1/inference.proto",
        "quadrille/v1/results.proto",
        "inference/grpc_service.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("quadrille.binpb");
    std::fs::write(path, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Raw tensors are read where they arrived; maps are mostly empty.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .btree_map(".inference")
        .compile_fds(descriptors)?;
    Ok(())
}
