//! `quadrille.v1.FeatureService`: features on request.

use std::sync::Arc;

use quadrille_pipeline::{NeedKey, Pipeline};
use quadrille_proto::v1::{
    Feature, GetFeaturesRequest, GetFeaturesResponse, feature_service_server::FeatureService,
};
use quadrille_service::fields::{invalid_argument, pick, read_struct};
use quadrille_telemetry::Tracing;
use tonic::{Request, Response, Status};

pub(crate) struct Features {
    pub pipelines: Vec<Arc<Pipeline>>,
    pub tracing: Tracing,
}

#[tonic::async_trait]
impl FeatureService for Features {
    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<GetFeaturesResponse>, Status> {
        let request = request.into_inner();
        let pipeline = pick(&self.pipelines, &request.pipeline)?;
        let record = request.record.unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| invalid_argument(&invalid))?;
        let mut values = Vec::new();
        let step = self.tracing.step("features");
        pipeline
            .features(&reading.values, &mut values)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        drop(step);
        let features = pipeline
            .feature_schema()
            .fields
            .iter()
            .zip(values)
            .map(|(field, value)| Feature {
                name: field.name.clone(),
                value: (!value.is_nan()).then_some(value),
            })
            .collect();
        Ok(Response::new(GetFeaturesResponse { features }))
    }
}
