//! The REST surface, called as a client would.

mod common;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use common::{Database, PIPELINE, batch, prediction, shadows};
use results::{
    prediction::Prediction,
    reader::Served,
    store::{UnitOfWork, WriteStore},
};
use serde_json::{Value, json};
use tower::ServiceExt;

struct Service {
    router: Router,
    _database: Database,
}

/// A service that stored five predictions, and one of them a second time.
async fn service() -> Service {
    let database = Database::sqlite().await;
    let store = database.open().await;
    let at = |number: i64| Prediction {
        event_time_ms: 1_700_000_000_000 + number,
        key: format!("patient-{}", number % 2),
        decision: if number == 3 {
            "positive".into()
        } else {
            "negative".into()
        },
        ..prediction(format!("r/{number}"))
    };
    store
        .write(&UnitOfWork {
            shadows: shadows("candidate", ["r/0", "r/9"]),
            ..batch(None, [0, 1, 2, 3, 4, 4].map(at).into())
        })
        .await
        .expect("a write");
    let decided = Served {
        name: PIPELINE.to_owned(),
        // The pipeline's file of now; that of before called them positive and negative.
        decisions: vec!["diabetic".to_owned(), "healthy".to_owned()],
    };
    let router = results::rest::router(store, vec![decided, "sepsis".into()]);
    Service {
        router,
        _database: database,
    }
}

impl Service {
    async fn call(&self, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty());
        let response = self
            .router
            .clone()
            .oneshot(request.expect("a request"))
            .await
            .expect("an answer");
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        (
            head.status,
            head.headers,
            String::from_utf8(body.into()).expect("text"),
        )
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.call("GET", path).await;
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn refused(&self, path: &str, expected: StatusCode, parts: &[&str]) {
        let (status, body) = self.get(path).await;
        assert_eq!(status, expected, "{path}: {body}");
        let error = body["error"].as_str().expect("an error text");
        for part in parts {
            assert!(error.contains(part), "{path}: {part:?} in {error:?}");
        }
    }
}

fn ids(listing: &Value) -> Vec<&str> {
    let predictions = listing["predictions"].as_array().expect("a list");
    predictions
        .iter()
        .map(|prediction| prediction["id"].as_str().expect("an id"))
        .collect()
}

#[tokio::test]
async fn a_prediction_is_served_with_all_it_has() {
    let expected = json!({
        "id": "r/3",
        "key": "patient-1",
        "probability": 0.25,
        "outputs": [0.25],
        "decision": "positive",
        "model": "forest",
        "version": "1",
        "variant": "live",
        "event_time": "2023-11-14T22:13:20.003Z",
        "predicted_at": "2023-11-14T22:13:20.250Z",
        "config_hash": "0001feff",
        "input_topic": "diabetes.features",
        "input_partition": 3,
        "input_offset": 1_099_511_627_776_i64,
    });
    let service = service().await;
    assert_eq!(
        service.ok("/v1/pipelines/diabetes/predictions/r%2F3").await,
        expected
    );
    let listing = service
        .ok("/v1/pipelines/diabetes/predictions?decision=positive")
        .await;
    assert_eq!(
        listing,
        json!({"predictions": [expected], "next_page_token": null})
    );
}

#[tokio::test]
async fn shadows_are_listed_when_asked_for_and_never_else() {
    let service = service().await;
    let path = "/v1/pipelines/diabetes/predictions";
    for live in [path.to_owned(), format!("{path}?shadow=false")] {
        let listing = service.ok(&live).await;
        assert_eq!(ids(&listing), ["r/4", "r/3", "r/2", "r/1", "r/0"]);
    }
    let page = service.ok(&format!("{path}?shadow=true&limit=1")).await;
    assert_eq!(ids(&page), ["r/9"]);
    assert_eq!(page["predictions"][0]["variant"], json!("candidate"));
    let token = page["next_page_token"].as_str().expect("another page");
    let next = format!("{path}?shadow=true&limit=9&page_token={token}");
    assert_eq!(ids(&service.ok(&next).await), ["r/0"]);
    let other = format!("{path}?page_token={token}");
    service
        .refused(&other, StatusCode::BAD_REQUEST, &["page_token"])
        .await;
    let unclear = format!("{path}?shadow=1");
    service
        .refused(&unclear, StatusCode::BAD_REQUEST, &["true or false"])
        .await;
    let hidden = format!("{path}/r%2F9");
    service
        .refused(&hidden, StatusCode::NOT_FOUND, &["r/9"])
        .await;
}

#[tokio::test]
async fn counts_and_pipelines_are_served() {
    let service = service().await;
    let count = service.ok("/v1/pipelines/diabetes/predictions/count").await;
    assert_eq!(count, json!({"count": 5, "duplicates": 1}));
    let count = service.ok("/v1/pipelines/sepsis/predictions/count").await;
    assert_eq!(count, json!({"count": 0, "duplicates": 0}));
    assert_eq!(
        service.ok("/v1/pipelines").await,
        json!({"pipelines": ["diabetes", "sepsis"]})
    );
}

#[tokio::test]
async fn a_decision_that_nothing_has_is_refused_with_those_there_are() {
    let service = service().await;
    for query in ["?decision=frau", "?decision=frau&key=patient-0&limit=2"] {
        let path = format!("/v1/pipelines/diabetes/predictions{query}");
        let wanted = ["the decision \"frau\"", r#""diabetic", "healthy""#];
        service
            .refused(&path, StatusCode::BAD_REQUEST, &wanted)
            .await;
    }
    // Shadows have none of that name either, whatever was answered.
    let path = "/v1/pipelines/diabetes/predictions?decision=positive&shadow=true";
    service
        .refused(path, StatusCode::BAD_REQUEST, &["positive"])
        .await;
    let any = service
        .ok("/v1/pipelines/sepsis/predictions?decision=frau")
        .await;
    assert!(
        ids(&any).is_empty(),
        "no file says which decisions there are"
    );
}

#[tokio::test]
async fn filters_are_read_from_the_query_and_empty_ones_do_not_filter() {
    let service = service().await;
    for (query, expected) in [
        ("", "43210"),
        ("?key=&from=&to=&decision=&limit=&page_token=", "43210"),
        ("?key=patient-0", "420"),
        ("?decision=positive&key=patient-0", ""),
        ("?decision=diabetic", ""),
        ("?decision=negative", "4210"),
        ("?variant=live&key=patient-0", "420"),
        ("?variant=canary", ""),
        (
            "?from=2023-11-14T22:13:20.001Z&to=2023-11-14T22:13:20.003Z",
            "21",
        ),
        ("?from=2023-11-15T00:13:20.0009%2B02:00", "4321"),
        ("?limit=2", "43"),
    ] {
        let listing = service
            .ok(&format!("/v1/pipelines/diabetes/predictions{query}"))
            .await;
        let numbers: String = ids(&listing)
            .iter()
            .map(|id| id.trim_start_matches("r/"))
            .collect();
        assert_eq!(numbers, expected, "{query}");
    }
}

#[tokio::test]
async fn page_tokens_lead_through_everything() {
    let service = service().await;
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!("/v1/pipelines/diabetes/predictions?limit=2&page_token={token}");
        let listing = service.ok(&path).await;
        seen.extend(ids(&listing).into_iter().map(str::to_owned));
        match listing["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["r/4", "r/3", "r/2", "r/1", "r/0"]);
}

#[tokio::test]
async fn a_bad_request_names_what_to_change() {
    let service = service().await;
    let refused = async |query: &str, parts: &[&str]| {
        let path = format!("/v1/pipelines/diabetes/predictions{query}");
        service.refused(&path, StatusCode::BAD_REQUEST, parts).await;
    };
    refused("?limit=0", &["limit", "1 to 1000"]).await;
    refused("?limit=1001", &["limit", "1001"]).await;
    refused("?limit=many", &["limit", "many"]).await;
    refused("?from=yesterday", &["from", "RFC 3339", "yesterday"]).await;
    refused("?to=2023-11-15T00:13:20+02:00", &["to", "%2B"]).await;
    refused(
        "?from=2024-01-01T00:00:00Z&to=2024-01-01T00:00:00Z",
        &["from must be before to"],
    )
    .await;
    refused("?page_token=abc", &["page_token"]).await;
    refused("?patient=1", &["\"patient\"", "known here: key, from"]).await;
    refused("?key=a&key=b", &["\"key\"", "more than once"]).await;
    refused("?key=%00", &["key", "NUL"]).await;
    refused("/count?limit=1", &["\"limit\"", "none"]).await;
    refused("/r%2F1?x", &["\"x\""]).await;
    refused("/%ff", &["path"]).await;
    let path = "/v1/pipelines/diabetes/predictions?limit=1";
    let token = service.ok(path).await["next_page_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    refused(&format!("?key=patient-1&page_token={token}"), &["filters"]).await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let service = service().await;
    let not_found = StatusCode::NOT_FOUND;
    let known = ["\"nobody\"", "diabetes, sepsis"];
    for path in ["predictions", "predictions/count", "predictions/r-1"] {
        service
            .refused(&format!("/v1/pipelines/nobody/{path}"), not_found, &known)
            .await;
    }
    let parts = ["\"diabetes\"", "\"r/9\""];
    service
        .refused(
            "/v1/pipelines/diabetes/predictions/r%2F9",
            not_found,
            &parts,
        )
        .await;
    service
        .refused("/v1/pipelines/diabetes/predictions/%00", not_found, &[])
        .await;
    for path in [
        "/v1",
        "/v1/pipeline",
        "/v1/pipelines/diabetes",
        "/v1/pipelines/diabetes/predictions/a/b",
    ] {
        service.refused(path, not_found, &["/v1/pipelines"]).await;
    }
    let (status, _, body) = service
        .call("POST", "/v1/pipelines/diabetes/predictions")
        .await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body.contains("\"error\""), "{body}");
}

#[tokio::test]
async fn the_page_is_served_with_a_policy_that_lets_in_only_itself() {
    let service = service().await;
    let (status, headers, body) = service.call("GET", "/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("<!doctype html>"));
    assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn a_database_that_went_away_is_503_and_worth_another_try() {
    let mut database = Database::postgres_alone().await;
    let store = database.open().await;
    let router = results::rest::router(store, vec![PIPELINE.into()]);
    database.stop();
    let service = Service {
        router,
        _database: database,
    };
    let (status, headers, body) = service
        .call("GET", "/v1/pipelines/diabetes/predictions/count")
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(headers[header::RETRY_AFTER], "1");
    assert!(body.contains("database cannot be reached"), "{body}");
}
