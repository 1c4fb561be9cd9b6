//! Which model is served, as TensorFlow Serving answers it: health checks look at this.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use quadrille_telemetry::metrics::ModelTimes;
use serde_json::{Value, json};

use crate::Scorer;

/// `GET /v1/models/{model}`.
pub(crate) fn router(scorers: &[(Arc<Scorer>, ModelTimes)]) -> Router {
    let mut models: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (scorer, _) in scorers {
        let versions = models.entry(scorer.model().to_owned()).or_default();
        let status = json!({
            "version": scorer.version(),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        });
        if !versions.contains(&status) {
            versions.push(status);
        }
    }
    let models = Arc::new(models);
    Router::new().route(
        "/v1/models/{model}",
        get(move |Path(model): Path<String>| async move { answer(&models, &model) }),
    )
}

fn answer(models: &BTreeMap<String, Vec<Value>>, model: &str) -> Response {
    match models.get(model) {
        Some(versions) => Json(json!({ "model_version_status": versions })).into_response(),
        None => {
            let known: Vec<&str> = models.keys().map(String::as_str).collect();
            let error = format!(
                "no model {model:?} is served; there is {}",
                known.join(", ")
            );
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    }
}
