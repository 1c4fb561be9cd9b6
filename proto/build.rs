//! Compiles the proto files without a `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "messages",
        "registry",
        "ingest",
        "feature",
        "inference",
        "results",
    ]
    .map(|name| format!("quadrille/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("quadrille.binpb");
    std::fs::write(path, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
