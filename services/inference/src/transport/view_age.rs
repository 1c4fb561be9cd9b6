//! Answers say how old the view of models and deployments is, where it is not fresh: what answered may not be what is deployed.

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use tower::util::MapResponseLayer;

use crate::serving::Serving;

/// Whole seconds; absent while the view is fresh. For gRPC it is initial metadata of the same name.
const VIEW_AGE: HeaderName = HeaderName::from_static("quadrille-view-age");

/// The same endpoints, with the view's age on their answers.
pub(crate) fn with_view_age(router: Router, serving: Serving) -> Router {
    router.layer(MapResponseLayer::new(move |mut response: Response| {
        insert_view_age(response.headers_mut(), &serving);
        response
    }))
}

/// Puts the view's age into an answer's headers.
pub(crate) fn insert_view_age(headers: &mut HeaderMap, serving: &Serving) {
    if let Some(age) = serving.stale() {
        headers.insert(VIEW_AGE, HeaderValue::from(age.as_secs()));
    }
}
