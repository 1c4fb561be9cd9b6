//! `quadrille.v1.ResultsService`, called through the generated trait.

mod common;

use common::{Database, PIPELINE, batch, prediction, shadows};
use prost_types::Timestamp;
use quadrille_proto::v1::{
    CountPredictionsRequest, GetPredictionRequest, ListPredictionsRequest, StoredPrediction,
    results_service_server::ResultsService,
};
use results::{
    grpc::Service,
    prediction::Prediction,
    store::{UnitOfWork, WriteStore},
};
use tonic::{Code, Request, Status};

async fn service() -> (Service, Database) {
    let database = Database::sqlite().await;
    let store = database.open().await;
    let at = |number: i64| Prediction {
        event_time_ms: number - 2,
        ..prediction(["a", "b", "c", "d", "count"][number as usize])
    };
    store
        .write(&UnitOfWork {
            shadows: shadows("candidate", ["a", "e"]),
            ..batch(None, (0..5).map(at).collect())
        })
        .await
        .expect("a write");
    (
        Service::new(store, vec![PIPELINE.into(), "sepsis".into()]),
        database,
    )
}

fn get(id: &str) -> Request<GetPredictionRequest> {
    Request::new(GetPredictionRequest {
        pipeline: PIPELINE.into(),
        id: id.into(),
        shadow_variant: String::new(),
    })
}

fn everything() -> ListPredictionsRequest {
    ListPredictionsRequest {
        pipeline: PIPELINE.into(),
        ..Default::default()
    }
}

async fn list(service: &Service, request: ListPredictionsRequest) -> Result<Vec<String>, Status> {
    let listed = service
        .list_predictions(Request::new(request))
        .await?
        .into_inner();
    Ok(listed
        .predictions
        .into_iter()
        .map(|prediction| prediction.id)
        .collect())
}

#[tokio::test]
async fn shadows_are_listed_marked_and_only_when_asked_for() {
    let (service, _database) = service().await;
    let request = ListPredictionsRequest {
        shadow: true,
        ..everything()
    };
    let listed = service.list_predictions(Request::new(request)).await;
    let listed = listed.expect("listed").into_inner().predictions;
    let shown: Vec<_> = listed
        .iter()
        .map(|it| (it.id.as_str(), it.variant.as_str(), it.shadow))
        .collect();
    assert_eq!(shown, [("e", "candidate", true), ("a", "candidate", true)]);
    let live = list(&service, everything()).await.expect("listed");
    assert_eq!(live.len(), 5);
}

#[tokio::test]
async fn a_prediction_is_served_with_all_it_has_even_one_named_count() {
    let (service, _database) = service().await;
    let expected = StoredPrediction {
        id: "a".into(),
        key: "patient-1".into(),
        probability: 0.25,
        decision: "negative".into(),
        model: "forest".into(),
        version: "1".into(),
        variant: "live".into(),
        event_time: Some(Timestamp {
            seconds: -1,
            nanos: 998_000_000,
        }),
        predicted_at: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 250_000_000,
        }),
        config_hash: vec![0, 1, 254, 255],
        input_topic: "diabetes.features".into(),
        input_partition: 3,
        input_offset: 1 << 40,
        shadow: false,
        outputs: vec![0.25],
    };
    let answer = service
        .get_prediction(get("a"))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer, expected);
    let answer = service
        .get_prediction(get("count"))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.id, "count");
}

#[tokio::test]
async fn pages_follow_each_other_until_the_token_is_empty() {
    let (service, _database) = service().await;
    let (mut request, mut seen) = (
        ListPredictionsRequest {
            limit: 2,
            ..everything()
        },
        Vec::new(),
    );
    loop {
        let answer = service
            .list_predictions(Request::new(request.clone()))
            .await;
        let answer = answer.expect("an answer").into_inner();
        seen.extend(
            answer
                .predictions
                .into_iter()
                .map(|prediction| prediction.id),
        );
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    assert_eq!(seen, ["count", "d", "c", "b", "a"]);
}

#[tokio::test]
async fn bounds_are_inclusive_and_exclusive_to_the_nanosecond() {
    let (service, _database) = service().await;
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    for (from, to, expected) in [
        (time(0, 0), time(0, 1_000_000), "c"),
        (time(0, 0), time(0, 1_000_001), "dc"),
        (time(-1, 999_000_001), time(0, 1), "c"),
        (time(-1, 999_000_000), time(0, 0), "b"),
    ] {
        let listed = list(
            &service,
            ListPredictionsRequest {
                from,
                to,
                ..everything()
            },
        )
        .await;
        assert_eq!(
            listed.expect("a list").concat(),
            expected,
            "{from:?} {to:?}"
        );
    }
}

#[tokio::test]
async fn counts_are_served() {
    let (service, _database) = service().await;
    let request = CountPredictionsRequest {
        pipeline: PIPELINE.into(),
    };
    let answer = service
        .count_predictions(Request::new(request))
        .await
        .expect("an answer");
    assert_eq!(
        (answer.get_ref().count, answer.get_ref().duplicates),
        (5, 0)
    );
}

#[tokio::test]
async fn errors_have_the_canonical_code_and_say_what_to_change() {
    let (service, _database) = service().await;
    let expect = |status: &Status, code: Code, part: &str| {
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{part:?} in {status}");
    };
    let all = everything;
    let far = Some(Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    });
    for (request, code, part) in [
        (
            ListPredictionsRequest { limit: -1, ..all() },
            Code::InvalidArgument,
            "limit",
        ),
        (
            ListPredictionsRequest {
                limit: 1001,
                ..all()
            },
            Code::InvalidArgument,
            "1 to 1000",
        ),
        (
            ListPredictionsRequest { from: far, ..all() },
            Code::InvalidArgument,
            "from must be",
        ),
        (
            ListPredictionsRequest {
                page_token: "x".into(),
                ..all()
            },
            Code::InvalidArgument,
            "page_token",
        ),
        (
            ListPredictionsRequest {
                pipeline: String::new(),
                ..all()
            },
            Code::InvalidArgument,
            "pipeline",
        ),
        (
            ListPredictionsRequest {
                pipeline: "nobody".into(),
                ..all()
            },
            Code::NotFound,
            "diabetes, sepsis",
        ),
    ] {
        expect(
            &list(&service, request).await.expect_err("refused"),
            code,
            part,
        );
    }
    let missing = service.get_prediction(get("z")).await.expect_err("refused");
    expect(&missing, Code::NotFound, "\"z\"");
    let empty = service.get_prediction(get("")).await.expect_err("refused");
    expect(&empty, Code::InvalidArgument, "id must not be empty");
}
