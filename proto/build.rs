//! Compiles the proto files without a `protoc`.

use std::{collections::BTreeSet, env, fmt::Write as _, path::PathBuf};

use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

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
    let path = PathBuf::from(env::var("OUT_DIR")?).join("shapes.rs");
    std::fs::write(path, shapes(&descriptors)?)?;
    tonic_prost_build::configure()
        // Raw tensors are read where they arrived; maps are mostly empty.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .btree_map(".inference")
        .codec_path("crate::codec::Bounded")
        .compile_fds(descriptors)?;
    Ok(())
}

/// What the codec counts in each message, and which messages it counts: those that are asked with. Answers are ours.
fn shapes(set: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for file in &set.file {
        for message in &file.message_type {
            shape(&mut text, &format!(".{}", file.package()), message)?;
        }
    }
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods: Vec<_> = services.flat_map(|service| &service.method).collect();
    let asked: BTreeSet<&str> = methods.iter().map(|it| it.input_type()).collect();
    let answered: BTreeSet<&str> = methods.iter().map(|it| it.output_type()).collect();
    for name in asked.union(&answered) {
        let (package, message) = name.rsplit_once('.').unwrap_or_default();
        let module = match package {
            ".inference" => "oip",
            _ => "v1",
        };
        let shape = match asked.contains(name) {
            true => format!("Some(&{})", constant(name)),
            false => "None".to_owned(),
        };
        writeln!(
            text,
            "impl Counted for crate::{module}::{message} {{ const SHAPE: Option<&'static Shape> = {shape}; }}"
        )?;
    }
    Ok(text)
}

fn shape(text: &mut String, parent: &str, message: &DescriptorProto) -> std::fmt::Result {
    let name = format!("{parent}.{}", message.name());
    write!(text, "static {}: Shape = Shape(&[", constant(&name))?;
    for field in &message.field {
        let repeated = field.label() == Label::Repeated;
        let inner = match field.r#type() {
            Type::Message => format!("Inner::Message(&{})", constant(field.type_name())),
            Type::String | Type::Bytes if repeated => "Inner::Text".to_owned(),
            Type::Int32
            | Type::Int64
            | Type::Uint32
            | Type::Uint64
            | Type::Sint32
            | Type::Sint64
            | Type::Enum
                if repeated =>
            {
                "Inner::Varints".to_owned()
            }
            // As large in memory as on the wire, or there once.
            _ => continue,
        };
        write!(text, "({}, {inner}),", field.number())?;
    }
    writeln!(text, "]);")?;
    message
        .nested_type
        .iter()
        .try_for_each(|nested| shape(text, &name, nested))
}

fn constant(name: &str) -> String {
    name.trim_start_matches('.')
        .replace('.', "_")
        .to_uppercase()
}
