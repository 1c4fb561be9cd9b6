//! What the server says of itself and of its models.

use quadrille_proto::oip::{
    DataType, InferParameter, ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
    infer_parameter::ParameterChoice,
};
use tonic::{Code, transport::Channel};

use super::{Client, ask, client, doubles};
use crate::server::server;

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
