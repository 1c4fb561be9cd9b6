//! `ModelInfer` and `ModelStreamInfer`: datatypes, records and inputs, variants, outputs.

use std::collections::BTreeMap;

use quadrille_proto::oip::{
    InferParameter, InferTensorContents,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use tonic::{Code, Request};

use super::{
    WIDTH, ask, client, doubles, input, raw_doubles, text, texts, two_rows, typed_doubles,
};
use crate::server::{scores, server};

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
