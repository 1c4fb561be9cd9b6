//! The code in `src/generated` is what the proto files give. It is checked in: the compilers of protobuf would be a part of
//! everybody's first build, and nobody who uses the crate needs them.
//!
//! ```sh
//! QUADRILLE_UPDATE_PROTO=1 cargo test -p quadrille-proto --test generated    # writes it anew
//! ```

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const UPDATE: &str = "QUADRILLE_UPDATE_PROTO";
const FILES: [&str; 9] = [
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

#[test]
fn the_generated_code_is_what_the_proto_files_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("src/generated");
    let update = std::env::var_os(UPDATE).is_some_and(|it| !it.is_empty());
    let generated = generate(root);
    if update {
        fs::create_dir_all(&folder).expect("a folder in the repository");
    }
    for (name, expected) in &generated {
        let path = folder.join(name);
        if update {
            fs::write(&path, expected).expect("a file in the repository");
        }
        let found = fs::read(&path).unwrap_or_default();
        assert!(
            found == *expected,
            "src/generated/{name} is not what the proto files give. Update it: {UPDATE}=1 cargo test -p quadrille-proto --test generated"
        );
    }
    let mut names: Vec<_> = generated.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, list(&folder), "files that nothing generates");
}

#[test]
fn every_proto_file_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiled = FILES.to_vec();
    compiled.sort();
    let found = ["inference", "quadrille/v1"].map(|folder| {
        let names = list(&root.join(folder)).into_iter();
        names.map(move |name| format!("{folder}/{name}"))
    });
    let found: Vec<_> = found.into_iter().flatten().collect();
    assert_eq!(found, compiled);
}

fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder in the repository");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Names and contents of the files.
fn generate(root: &Path) -> Vec<(String, Vec<u8>)> {
    let descriptors = protox::compile(FILES, [root]).expect("proto files that compile");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("a folder for temporary files");
    fs::write(out.join("quadrille.binpb"), descriptors.encode_to_vec()).expect("a temporary file");
    let shapes = shapes(&descriptors).expect("a String takes everything");
    fs::write(out.join("shapes.rs"), shapes).expect("a temporary file");
    tonic_prost_build::configure()
        // Raw tensors are read where they arrived; maps are mostly empty.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .btree_map(".inference")
        .codec_path("crate::codec::Bounded")
        .out_dir(&out)
        .compile_fds(descriptors)
        .expect("code for every file");
    let read = |name: String| {
        let bytes = fs::read(out.join(&name)).expect("a file just written");
        (name, bytes)
    };
    list(&out).into_iter().map(read).collect()
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
