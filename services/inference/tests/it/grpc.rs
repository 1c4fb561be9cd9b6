//! `inference.GRPCInferenceService` and `PredictService`, by generated clients.

use std::{collections::BTreeMap, time::Duration};

use quadrille_proto::{
    oip::{
        DataType, InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest,
        ModelInferResponse, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
        RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
        ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    v1::{PredictRequest, predict_service_client::PredictServiceClient},
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::server::{scores, server};

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

#[tokio::test]
async fn the_server_and_its_models_say_what_they_are() {
    let mut client = client().await;
    let live = client.server_live(ServerLiveRequest {}).await;
    assert!(live.expect("an answer").into_inner().live);
    let ready = client.server_ready(ServerReadyRequest {}).await;
    assert!(ready.expect("an answer").into_inner().ready);
    let about = client.server_metadata(ServerMetadataRequest {}).await;
    let about = about.expect("an answer").into_inner();
    assert_eq!(about.name, "quadrille");
    for extension in ["binary_tensor_data", "statistics", "model_configuration"] {
        assert!(about.extensions.contains(&extension.to_owned()));
    }
    for (name, version, expected) in [
        ("diabetes-forest", "", true),
        ("diabetes-forest", "7", true),
        ("diabetes", "", true),
        ("diabetes-forest", "8", false),
        ("nobody", "", false),
    ] {
        let (name, version) = (name.to_owned(), version.to_owned());
        let request = ModelReadyRequest { name, version };
        let ready = client.model_ready(request.clone()).await;
        assert_eq!(
            ready.expect("an answer").into_inner().ready,
            expected,
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn metadata_tells_names_datatypes_and_shapes_of_models_and_pipelines() {
    let mut client = client().await;
    let about = async |client: &mut Client, name: &str| {
        let request = ModelMetadataRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        client
            .model_metadata(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let model = about(&mut client, "diabetes-forest")
        .await
        .expect("an answer");
    assert_eq!(
        (model.versions.as_slice(), model.inputs.len()),
        (["7".to_owned()].as_slice(), 1)
    );
    assert_eq!(
        (
            model.inputs[0].datatype.as_str(),
            model.inputs[0].shape.as_slice()
        ),
        ("FP64", [-1, 10].as_slice())
    );
    let outputs: Vec<_> = model
        .outputs
        .iter()
        .map(|it| (it.name.as_str(), it.shape.clone()))
        .collect();
    assert_eq!(
        outputs,
        [("probabilities", vec![-1, 1]), ("label", vec![-1])]
    );
    assert_eq!(model.properties["classes"], "neg,pos");
    let pipeline = about(&mut client, "animals").await.expect("an answer");
    let inputs: Vec<_> = pipeline
        .inputs
        .iter()
        .map(|it| (it.name.as_str(), it.datatype.as_str()))
        .collect();
    assert_eq!(
        inputs,
        [("weight", "FP64"), ("coat", "BYTES"), ("tame", "BOOL")]
    );
    assert_eq!(pipeline.outputs[2].name, "decision");
    let refused = about(&mut client, "nobody").await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("diabetes-forest") && refused.message().contains("animals"),
        "{refused}"
    );
}

/// Raw little endian, and typed contents but for FP16.
fn written(datatype: &str, numbers: &[f64]) -> (Vec<u8>, Option<InferTensorContents>) {
    let mut contents = InferTensorContents::default();
    let bytes = |bytes: fn(f64) -> Vec<u8>| numbers.iter().flat_map(|it| bytes(*it)).collect();
    let raw = match datatype {
        "BOOL" => {
            contents.bool_contents = numbers.iter().map(|it| *it != 0.0).collect();
            bytes(|it| vec![u8::from(it != 0.0)])
        }
        "UINT8" | "UINT16" | "UINT32" => {
            contents.uint_contents = numbers.iter().map(|it| *it as u32).collect();
            match datatype {
                "UINT8" => bytes(|it| vec![it as u8]),
                "UINT16" => bytes(|it| (it as u16).to_le_bytes().to_vec()),
                _ => bytes(|it| (it as u32).to_le_bytes().to_vec()),
            }
        }
        "UINT64" => {
            contents.uint64_contents = numbers.iter().map(|it| *it as u64).collect();
            bytes(|it| (it as u64).to_le_bytes().to_vec())
        }
        "INT8" | "INT16" | "INT32" => {
            contents.int_contents = numbers.iter().map(|it| *it as i32).collect();
            match datatype {
                "INT8" => bytes(|it| (it as i8).to_le_bytes().to_vec()),
                "INT16" => bytes(|it| (it as i16).to_le_bytes().to_vec()),
                _ => bytes(|it| (it as i32).to_le_bytes().to_vec()),
            }
        }
        "INT64" => {
            contents.int64_contents = numbers.iter().map(|it| *it as i64).collect();
            bytes(|it| (it as i64).to_le_bytes().to_vec())
        }
        // 1.0 and 0.0 will do: the reading of halves has tests of its own.
        "FP16" => {
            return (
                bytes(|it| if it == 0.0 { vec![0, 0] } else { vec![0, 0x3c] }),
                None,
            );
        }
        "BF16" => {
            return (
                bytes(|it| ((it as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec()),
                None,
            );
        }
        "FP32" => {
            contents.fp32_contents = numbers.iter().map(|it| *it as f32).collect();
            bytes(|it| (it as f32).to_le_bytes().to_vec())
        }
        "FP64" => {
            contents.fp64_contents = numbers.to_vec();
            bytes(|it| it.to_le_bytes().to_vec())
        }
        "BYTES" => {
            let texts = numbers.iter().map(|it| it.to_string().into_bytes());
            contents.bytes_contents = texts.collect();
            bytes(|it| {
                let text = it.to_string();
                let mut raw = (text.len() as u32).to_le_bytes().to_vec();
                raw.extend(text.as_bytes());
                raw
            })
        }
        other => panic!("{other}"),
    };
    (raw, Some(contents))
}

#[tokio::test]
async fn every_datatype_is_scored_raw_and_typed_and_answered_alike() {
    let mut client = client().await;
    for datatype in [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
        "BF16", "FP32", "FP64", "BYTES",
    ] {
        let narrow = matches!(datatype, "BOOL" | "FP16");
        let rows = two_rows().into_iter();
        let rows: Vec<f64> = rows
            .map(|it| if narrow { f64::from(it != 0.0) } else { it })
            .collect();
        let expected = scores(&server().diabetes, &rows);
        let shape = [2, WIDTH as i64];
        let (raw, contents) = written(datatype, &rows);

        let mut request = ask("diabetes-forest", vec![input("x", datatype, &shape)]);
        request.raw_input_contents = vec![raw.into()];
        let response = client
            .model_infer(request)
            .await
            .expect("an answer")
            .into_inner();
        assert_eq!(
            raw_doubles(&response.raw_output_contents[0]),
            expected,
            "{datatype}"
        );
        assert_eq!(response.outputs[0].shape, [2, 1]);
        assert!(response.outputs.iter().all(|it| it.contents.is_none()));
        assert_eq!(texts(&response.raw_output_contents[1]).len(), 2);

        let Some(contents) = contents else { continue };
        let tensor = InferInputTensor {
            contents: Some(contents),
            ..input("x", datatype, &shape)
        };
        let response = client
            .model_infer(ask("diabetes-forest", vec![tensor]))
            .await;
        let response = response.expect("an answer").into_inner();
        assert_eq!(typed_doubles(&response, 0), expected, "{datatype}");
        assert!(response.raw_output_contents.is_empty());
        assert_eq!(
            (response.id.as_str(), response.model_version.as_str()),
            ("q-1", "7")
        );
    }
}

#[tokio::test]
async fn a_pipeline_takes_its_records_fields_and_its_models_inputs_and_says_who_answered() {
    let mut client = client().await;
    let bytes = |texts: &[&str]| InferTensorContents {
        bytes_contents: texts.iter().map(|it| it.as_bytes().to_vec()).collect(),
        ..Default::default()
    };
    let mut record = vec![
        doubles("weight", &[2], &[70.0, 0.0]),
        InferInputTensor {
            contents: Some(bytes(&["red", "blue"])),
            ..input("coat", "BYTES", &[2])
        },
        InferInputTensor {
            contents: Some(InferTensorContents {
                bool_contents: vec![true, false],
                ..Default::default()
            }),
            ..input("tame", "BOOL", &[2])
        },
        InferInputTensor {
            contents: Some(bytes(&["a-1", "a-2"])),
            ..input("animal", "BYTES", &[2])
        },
    ];
    // 0 stands for a missing weight; features are computed.
    let rows = [70.0, 1.0, 0.0, 1.0, f64::NAN, 0.0, 1.0, 0.0];
    let expected = scores(&server().animals, &rows);
    let response = client
        .model_infer(ask("animals", record.clone()))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(typed_doubles(&response, 0), expected);
    let decisions = &response.outputs[2]
        .contents
        .as_ref()
        .expect("contents")
        .bytes_contents;
    let decide = |it: &f64| {
        if *it >= 0.5 {
            b"keep".to_vec()
        } else {
            b"leave".to_vec()
        }
    };
    assert_eq!(*decisions, expected.iter().map(decide).collect::<Vec<_>>());
    let by = BTreeMap::from([
        ("model".to_owned(), text("zoo-forest")),
        ("variant".to_owned(), text("local")),
        ("version".to_owned(), text("7")),
    ]);
    assert_eq!(response.parameters, by);

    let matrix = vec![doubles("anything", &[2, 4], &rows)];
    let response = client
        .model_infer(ask("animals", matrix))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(typed_doubles(&response, 0), expected);

    let columns = ["weight", "coat=red", "coat=blue", "tame"];
    let columns = columns
        .iter()
        .enumerate()
        .map(|(at, name)| doubles(name, &[1, 1], &rows[at..=at]));
    let response = client
        .model_infer(ask("animals", columns.collect()))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(typed_doubles(&response, 0), expected[..1]);

    record[1].contents = Some(bytes(&["red", "green"]));
    let refused = client
        .model_infer(ask("animals", record))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("row 1: field \"coat\"") && refused.message().contains("blue"),
        "{refused}"
    );
}

#[tokio::test]
async fn variants_are_named_by_parameter_and_by_metadata() {
    let mut client = client().await;
    let request = |variant: Option<&str>| {
        let mut request = ask(
            "diabetes",
            vec![doubles("x", &[1, 10], &two_rows()[..WIDTH])],
        );
        request
            .parameters
            .extend(variant.map(|it| ("variant".to_owned(), text(it))));
        request.parameters.insert("key".to_owned(), text("p-1"));
        request
    };
    client
        .model_infer(request(Some("local")))
        .await
        .expect("an answer");
    let refused = client
        .model_infer(request(Some("other")))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("local"), "{refused}");
    let mut by_metadata = Request::new(request(None));
    by_metadata
        .metadata_mut()
        .insert("quadrille-variant", "other".parse().expect("a value"));
    let refused = client.model_infer(by_metadata).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    // Which of two is meant is not known, nor what is no text.
    for values in [vec!["local", "other"], vec!["loc\u{e4}l"]] {
        let mut unclear = Request::new(request(None));
        for value in values {
            // Latin-1, as HTTP has it.
            let bytes: Vec<u8> = value.chars().map(|it| it as u8).collect();
            let value = tonic::metadata::MetadataValue::try_from(bytes).expect("a value");
            unclear.metadata_mut().append("quadrille-variant", value);
        }
        let refused = client.model_infer(unclear).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("quadrille-variant"), "{refused}");
    }
    let mut model = request(Some("local"));
    model.model_name = "diabetes-forest".to_owned();
    let refused = client.model_infer(model).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn outputs_come_as_they_are_asked_for() {
    let mut client = client().await;
    let mut request = ask(
        "diabetes-forest",
        vec![doubles("x", &[1, 10], &two_rows()[..WIDTH])],
    );
    let output =
        |name: &str, parameter: Option<(&str, InferParameter)>| InferRequestedOutputTensor {
            name: name.to_owned(),
            parameters: parameter
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
    let two = InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(2)),
    };
    request.outputs = vec![
        output("label", None),
        output("probabilities", Some(("classification", two))),
    ];
    let response = client
        .model_infer(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    let names: Vec<_> = response.outputs.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["label", "probabilities"]);
    assert_eq!(
        (
            response.outputs[1].datatype.as_str(),
            response.outputs[1].shape.as_slice()
        ),
        ("BYTES", [1, 2].as_slice())
    );
    let expected = scores(&server().diabetes, &two_rows()[..WIDTH])[0];
    let classes = &response.outputs[1]
        .contents
        .as_ref()
        .expect("contents")
        .bytes_contents;
    let classes: Vec<_> = classes
        .iter()
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .collect();
    assert!(
        classes.contains(&format!("{expected}:1:pos")),
        "{classes:?}"
    );

    request.outputs = vec![output("probabilities", Some(("datatype", text("FP32"))))];
    let response = client
        .model_infer(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    let contents = response.outputs[0].contents.as_ref().expect("contents");
    assert_eq!(contents.fp32_contents, [expected as f32]);
    request.outputs = vec![output("nothing", None)];
    let refused = client.model_infer(request).await.expect_err("refused");
    assert!(
        refused.message().contains("probabilities, label"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_cannot_be_answered_has_the_canonical_code_and_says_what_to_change() {
    let mut client = client().await;
    let good = doubles("x", &[1, 10], &two_rows()[..WIDTH]);
    let mut mixed = ask("diabetes-forest", vec![good.clone()]);
    mixed.raw_input_contents = vec![vec![0; 80].into()];
    let mut uneven = ask("diabetes-forest", vec![input("x", "FP64", &[1, 10])]);
    uneven.raw_input_contents = vec![vec![0; 80].into(), vec![].into()];
    let mut version = ask("diabetes-forest", vec![good.clone()]);
    version.model_version = "8".to_owned();
    let mut sequence = ask("diabetes-forest", vec![good.clone()]);
    sequence
        .parameters
        .insert("sequence_id".to_owned(), text("1"));
    let mut shared = input("x", "FP64", &[1, 10]);
    shared
        .parameters
        .insert("shared_memory_region".to_owned(), text("r"));
    let mut pipeline = ask("diabetes", vec![good.clone()]);
    pipeline.model_version = "7".to_owned();
    for (request, code, part) in [
        (
            ask("nobody", vec![good.clone()]),
            Code::NotFound,
            "diabetes-forest",
        ),
        (version, Code::NotFound, "available: 7"),
        (pipeline, Code::NotFound, "leave the version out"),
        (
            ask("diabetes-forest", vec![]),
            Code::InvalidArgument,
            "no inputs",
        ),
        (mixed, Code::InvalidArgument, "the one or the other"),
        (uneven, Code::InvalidArgument, "2 entries for 1 inputs"),
        (sequence, Code::InvalidArgument, "sequence_id"),
        (
            ask("diabetes-forest", vec![shared]),
            Code::InvalidArgument,
            "shared memory",
        ),
        (
            ask("diabetes-forest", vec![input("x", "FP64", &[1, 10])]),
            Code::InvalidArgument,
            "has no data",
        ),
        (
            ask("diabetes-forest", vec![doubles("x", &[1, 9], &[0.0; 9])]),
            Code::InvalidArgument,
            "send [N, 10]",
        ),
        (
            ask("diabetes-forest", vec![doubles("x", &[2, 10], &[0.0; 10])]),
            Code::InvalidArgument,
            "20 elements, not 10",
        ),
        (
            ask("diabetes-forest", vec![doubles("x", &[1 << 40, 10], &[])]),
            Code::ResourceExhausted,
            "fewer rows",
        ),
        (
            ask("diabetes-forest", vec![input("x", "FP8", &[1])]),
            Code::InvalidArgument,
            "has no data",
        ),
        (
            ask("animals", vec![doubles("weight", &[1], &[1.0])]),
            Code::InvalidArgument,
            "coat",
        ),
        (
            ask(
                "diabetes-forest",
                vec![
                    doubles("glucose", &[1], &[1.0]),
                    doubles("age", &[1], &[1.0]),
                ],
            ),
            Code::InvalidArgument,
            "missing",
        ),
    ] {
        let refused: Status = client
            .model_infer(request.clone())
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), code, "{refused} {request:?}");
        assert!(refused.message().contains(part), "{part:?} in {refused}");
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_as_too_large() {
    let mut client = client().await;
    let mut request = ask("diabetes-forest", vec![input("x", "UINT8", &[1, 10])]);
    request.raw_input_contents = vec![vec![0; 21 << 20].into()];
    let refused = client.model_infer(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_honoured() {
    let mut client = client().await;
    // Longer to read than there is time.
    let rows = two_rows().repeat(500);
    let mut request = ask("diabetes-forest", vec![doubles("x", &[1_000, 10], &rows)]);
    let microsecond = InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(1)),
    };
    request.parameters.insert("timeout".to_owned(), microsecond);
    let refused = client.model_infer(request.clone()).await;
    let refused = refused.expect_err("refused");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    request.parameters.clear();
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(60));
    client.model_infer(request).await.expect("an answer");
}

#[tokio::test]
async fn a_stream_is_answered_in_order_and_goes_on_after_an_error() {
    let mut client = client().await;
    let rows = two_rows();
    let requests = (0..100).map(move |at| {
        let width = if at % 3 == 1 { 9 } else { WIDTH };
        let mut request = ask(
            "diabetes-forest",
            vec![doubles("x", &[1, width as i64], &rows[..width])],
        );
        request.id = at.to_string();
        request
    });
    let answers = client
        .model_stream_infer(tokio_stream::iter(requests))
        .await;
    let mut answers = answers.expect("a stream").into_inner();
    for at in 0..100 {
        let answer = answers
            .message()
            .await
            .expect("an answer")
            .expect("one more");
        assert_eq!(answer.error_message.contains("send [N, 10]"), at % 3 == 1);
        let response = answer.infer_response.expect("a response");
        assert_eq!(response.id, at.to_string());
        let last = &response.parameters["triton_final_response"].parameter_choice;
        assert_eq!(*last, Some(ParameterChoice::BoolParam(true)));
    }
    assert!(answers.message().await.expect("an end").is_none());
}

#[tokio::test]
async fn statistics_count_rows_runs_and_requests_of_a_version() {
    let mut client = client().await;
    let count = async |client: &mut Client, name: &str| {
        let request = ModelStatisticsRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let found = client.model_statistics(request).await.expect("an answer");
        let mut models = found.into_inner().model_stats;
        assert_eq!(models.len(), 1, "{models:?}");
        models.remove(0)
    };
    // No other test asks this one.
    let before = count(&mut client, "counted-forest").await;
    assert_eq!(
        (before.version.as_str(), before.inference_count),
        ("7", 0),
        "{before:?}"
    );
    for rows in [1, 4] {
        let numbers = vec![1.0; rows as usize];
        let request = ask("counted-forest", vec![doubles("x", &[rows, 1], &numbers)]);
        client.model_infer(request).await.expect("an answer");
    }
    let mut late = ask("counted-forest", vec![doubles("x", &[1, 1], &[1.0])]);
    let parameter_choice = Some(ParameterChoice::StringParam("1".to_owned()));
    let parameter = InferParameter { parameter_choice };
    late.parameters.insert("timeout".to_owned(), parameter);
    // A microsecond may just be enough.
    let refused = u64::from(client.model_infer(late).await.is_err());
    let after = count(&mut client, "counted").await;
    let times = after.inference_stats.expect("times");
    let (success, fail) = (times.success.expect("some"), times.fail.expect("some"));
    let runs = times.compute_infer.expect("some");
    assert_eq!((success.count, fail.count), (3 - refused, refused));
    assert_eq!(after.inference_count, 6 - refused);
    assert_eq!(after.execution_count, 3 - refused);
    assert!(runs.count == 3 - refused && runs.ns > 0 && success.ns >= runs.ns);
    let [queue, input, output] =
        [times.queue, times.compute_input, times.compute_output].map(|it| it.expect("some"));
    // One that is refused may have been begun.
    assert!((success.count..=3).contains(&queue.count), "{queue:?}");
    assert_eq!((input.count, output.count), (success.count, success.count));
    assert!(input.ns > 0 && output.ns > 0, "{times:?}");
    assert!(queue.ns < success.ns + fail.ns, "{times:?}");
    assert!(after.last_inference > 1_700_000_000_000);
    let all = client.model_statistics(ModelStatisticsRequest::default());
    assert!(all.await.expect("an answer").into_inner().model_stats.len() > 3);
    let nobody = ModelStatisticsRequest {
        name: "nobody".to_owned(),
        ..Default::default()
    };
    let refused = client.model_statistics(nobody).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_configuration_has_the_tensors_without_their_rows() {
    let mut client = client().await;
    let request = ModelConfigRequest {
        name: "diabetes-forest".to_owned(),
        ..Default::default()
    };
    let config = client.model_config(request).await.expect("an answer");
    let config = config.into_inner().config.expect("a configuration");
    assert_eq!(
        (config.name.as_str(), config.max_batch_size),
        ("diabetes-forest", 5_000)
    );
    let input = &config.input[0];
    assert_eq!(
        (input.name.as_str(), input.data_type(), &input.dims),
        ("input", DataType::TypeFp64, &vec![10])
    );
    let label = &config.output[1];
    assert_eq!(
        (label.name.as_str(), label.data_type(), &label.dims),
        ("label", DataType::TypeString, &vec![1])
    );
    assert_eq!(label.reshape, Some(Default::default()));
}

#[tokio::test]
async fn no_rows_have_no_answers() {
    let mut client = client().await;
    let none = ask("diabetes-forest", vec![doubles("x", &[0, 10], &[])]);
    let response = client.model_infer(none).await.expect("an answer");
    let response = response.into_inner();
    assert_eq!(response.outputs[0].shape, [0, 1]);
    assert_eq!(typed_doubles(&response, 0), [0.0; 0]);
    assert_eq!(response.outputs[1].shape, [0]);
    let columns = ["weight", "coat", "tame"].map(|name| match name {
        "coat" => input(name, "BYTES", &[0]),
        name => input(name, "FP64", &[0]),
    });
    let mut records = ask("animals", columns.to_vec());
    records.raw_input_contents = vec![Default::default(); 3];
    let response = client.model_infer(records).await.expect("an answer");
    assert_eq!(response.into_inner().outputs[2].shape, [0]);
}

#[tokio::test]
async fn the_repository_lists_models_and_says_that_deployments_rule() {
    let mut client = client().await;
    let index = client
        .repository_index(RepositoryIndexRequest::default())
        .await;
    let index = index.expect("an answer").into_inner().models;
    let found: Vec<_> = index
        .iter()
        .map(|it| (it.name.as_str(), it.version.as_str(), it.state.as_str()))
        .collect();
    for expected in [
        ("diabetes-forest", "7", "READY"),
        ("zoo-forest", "7", "READY"),
        ("animals", "", "READY"),
    ] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
    let load = |name: &str| RepositoryModelLoadRequest {
        model_name: name.to_owned(),
        ..Default::default()
    };
    client
        .repository_model_load(load("zoo-forest"))
        .await
        .expect("it is loaded");
    let refused = client
        .repository_model_load(load("nobody"))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("quadrille model push"),
        "{refused}"
    );
    let unload = |name: &str| RepositoryModelUnloadRequest {
        model_name: name.to_owned(),
        ..Default::default()
    };
    let refused = client
        .repository_model_unload(unload("zoo-forest"))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    client
        .repository_model_unload(unload("nobody"))
        .await
        .expect("it is not there");
}

#[tokio::test]
async fn predict_says_which_variant_answered_and_agrees_with_the_protocol() {
    let mut client = client().await;
    let mut predict = PredictServiceClient::connect(server().url())
        .await
        .expect("a connection");
    let number = |number: f64| prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(number)),
    };
    let text_of = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let fields = [
        ("weight", number(70.0)),
        ("coat", text_of("red")),
        (
            "tame",
            prost_types::Value {
                kind: Some(prost_types::value::Kind::BoolValue(true)),
            },
        ),
        ("animal", text_of("a-1")),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    let request = PredictRequest {
        pipeline: "animals".to_owned(),
        record: Some(prost_types::Struct {
            fields: fields.into(),
        }),
        ..PredictRequest::default()
    };
    let answer = predict
        .predict(request.clone())
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        (
            answer.model.as_str(),
            answer.version.as_str(),
            answer.variant.as_str()
        ),
        ("zoo-forest", "7", "local")
    );
    let rows = vec![doubles("x", &[1, 4], &[70.0, 1.0, 0.0, 1.0])];
    let response = client
        .model_infer(ask("animals", rows))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(typed_doubles(&response, 0), [answer.probability]);
    let mut other = Request::new(request);
    other
        .metadata_mut()
        .insert("quadrille-variant", "canary".parse().expect("a value"));
    let refused = predict.predict(other).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn health_and_reflection_know_the_service() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    const NAME: &str = "inference.GRPCInferenceService";
    let url = tokio::task::spawn_blocking(|| server().url())
        .await
        .expect("a server");
    let channel = Channel::from_shared(url).expect("a URL");
    let channel = channel.connect().await.expect("a connection");
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: NAME.to_owned(),
    };
    // The stream ends only when it says that it serves, or with the test.
    let mut states = health.watch(request).await.expect("a stream").into_inner();
    while let Some(state) = states.message().await.expect("a state") {
        if state.status() == ServingStatus::Serving {
            break;
        }
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await;
    let mut answers = answers.expect("a stream").into_inner();
    let answer = answers.message().await.expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) =
        answer.and_then(|answer| answer.message_response)
    else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|service| service.name == NAME));
}
