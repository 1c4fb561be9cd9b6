//! Which model is served, as TensorFlow Serving answers it: health checks look at this.

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::serving::{ModelState, ModelStatus, Serving};

/// `GET /v1/models/{model}`.
pub(crate) fn router(serving: Serving) -> Router {
    Router::new().route(
        "/v1/models/{model}",
        get(move |Path(model): Path<String>| async move { answer(&serving, &model) }),
    )
}

fn answer(serving: &Serving, model: &str) -> Response {
    let versions: Vec<Value> = serving
        .models()
        .iter()
        .filter(|status| status.id.name == model)
        .map(version)
        .collect();
    if !versions.is_empty() {
        return Json(json!({ "model_version_status": versions })).into_response();
    }
    match serving.model(model, None) {
        Ok(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(error) => {
            let error = json!({ "error": error.to_string() });
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    }
}

fn version(status: &ModelStatus) -> Value {
    let (state, code, message) = match &status.state {
        ModelState::Wanted => ("START", "OK", ""),
        ModelState::Loading => ("LOADING", "OK", ""),
        ModelState::Ready => ("AVAILABLE", "OK", ""),
        // As TensorFlow Serving says it of a version that did not load.
        ModelState::Failed { why } => ("END", "FAILED_PRECONDITION", why.as_str()),
    };
    json!({
        "version": status.id.version,
        "state": state,
        "status": {"error_code": code, "error_message": message},
    })
}
