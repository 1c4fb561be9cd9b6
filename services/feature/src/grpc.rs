//! `quadrille.v1.FeatureService`: features on request.

use std::sync::Arc;

use quadrille_pipeline::Pipeline;
use quadrille_proto::v1::{
    GetFeaturesRequest, GetFeaturesResponse, feature_service_server::FeatureService,
};
use quadrille_service::{Deadline, fields::pick};
use tonic::{Request, Response, Status};

use crate::query::{Call, Query};

pub(crate) struct Features {
    pub pipelines: Vec<Arc<Pipeline>>,
    pub query: Query,
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
        let answer = self.query.answer(pipeline, &request, &call).await?;
        Ok(Response::new(answer))
    }
}
