//! What is refused, with the code and with what to change.

use std::time::Duration;

use quadrille_proto::oip::{InferParameter, infer_parameter::ParameterChoice};
use tonic::{Code, Request, Status};

use super::{WIDTH, ask, client, doubles, input, text, two_rows};

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
