//! `quadrille.v1.FeatureService`: features on request.

use std::sync::Arc;

use quadrille_pipeline::Pipeline;
use quadrille_proto::v1::{
    FeaturesSource, GetFeaturesRequest, GetFeaturesResponse, feature_service_server::FeatureService,
};
use quadrille_service::{Deadline, fields::pick};
use quadrille_telemetry::metrics::{AskedBy, FeatureMetrics};
use tonic::{Request, Response, Status};

use crate::query::{Call, Query};

pub(crate) struct Features {
    pub pipelines: Vec<Arc<Pipeline>>,
    pub query: Query,
    pub metrics: FeatureMetrics,
}

#[tonic::async_trait]
impl FeatureService for Features {
    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<GetFeaturesResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let pipeline = pick(&self.pipelines, &request.pipeline)?;
        let call = Call {
            metadata: &metadata,
            deadline: extensions.get().map(|deadline: &Deadline| deadline.0),
        };
        let answer = self.query.answer(pipeline, &request, &call).await;
        let asked_by = match request.forwarded {
            true => AskedBy::Replica,
            false => AskedBy::Client,
        };
        let outcome = match &answer {
            Ok(answer) => source(answer, &self.query.instance),
            Err(error) => error.outcome(),
        };
        self.metrics.request(pipeline.name(), asked_by, outcome);
        Ok(Response::new(answer?))
    }
}

/// Where an answer is from, as metrics say it.
fn source(answer: &GetFeaturesResponse, own: &str) -> &'static str {
    let as_of = answer.as_of.as_ref();
    match as_of.map(|it| (it.instance == own, it.source())) {
        Some((false, _)) => "forwarded",
        Some((true, FeaturesSource::Owner)) => "owner",
        Some((true, FeaturesSource::Standby)) => "standby",
        Some((true, FeaturesSource::Computed)) => "computed",
        Some((true, FeaturesSource::Stored)) => "stored",
        Some((true, FeaturesSource::Unspecified)) | None => "unspecified",
    }
}

#[cfg(test)]
mod tests {
    use quadrille_proto::v1::AsOf;

    use super::*;

    #[test]
    fn an_answer_is_counted_by_where_it_is_from() {
        let answer = |instance: &str, source: FeaturesSource| GetFeaturesResponse {
            as_of: Some(AsOf {
                instance: instance.to_owned(),
                source: source.into(),
                ..AsOf::default()
            }),
            ..GetFeaturesResponse::default()
        };
        assert_eq!(source(&answer("a", FeaturesSource::Owner), "a"), "owner");
        let other = answer("b", FeaturesSource::Owner);
        assert_eq!(source(&other, "a"), "forwarded");
        assert_eq!(source(&answer("a", FeaturesSource::Stored), "a"), "stored");
    }
}
