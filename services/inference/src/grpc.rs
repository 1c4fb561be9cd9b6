//! `quadrille.v1.PredictService`: the stream's features and model, on request.

use quadrille_pipeline::NeedKey;
use quadrille_proto::v1::{
    PredictRequest, PredictResponse, predict_service_server::PredictService,
};
use quadrille_service::fields::{invalid_argument, pick, read_struct};
use quadrille_telemetry::Tracing;
use tonic::{Request, Response, Status};

use crate::serving::{NotServed, Refused, Serving};

/// By which a caller chooses the variant.
const VARIANT_METADATA: &str = "quadrille-variant";

pub(crate) struct Predict {
    pub serving: Serving,
    pub tracing: Tracing,
}

#[tonic::async_trait]
impl PredictService for Predict {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        let variant = request.metadata().get(VARIANT_METADATA);
        let variant = variant
            .map(|value| value.to_str())
            .transpose()
            .map_err(|_| Status::invalid_argument("quadrille-variant is not ASCII"))?
            .map(str::to_owned);
        let request = request.into_inner();
        let pipeline = pick(self.serving.pipelines(), &request.pipeline)?;
        let record = request.record.unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| invalid_argument(&invalid))?;
        let key = Some(reading.key.as_str()).filter(|key| !key.is_empty());
        let choice = self
            .serving
            .choose(pipeline.name(), key, variant.as_deref())
            .map_err(not_served)?;
        let (mut features, mut inputs) = (Vec::new(), Vec::new());
        let step = self.tracing.step("features");
        pipeline.features(&reading.values, &mut features);
        pipeline.model_inputs(&features, &mut inputs);
        drop(step);
        let step = self.tracing.step("model");
        let outputs = choice.loaded.score(inputs, None).await.map_err(refused)?;
        drop(step);
        let probability = outputs.first().copied().unwrap_or(f64::NAN);
        let id = choice.loaded.id();
        Ok(Response::new(PredictResponse {
            probability,
            decision: pipeline.decide(probability).to_owned(),
            model: id.name.clone(),
            version: id.version.clone(),
            pipeline: pipeline.name().to_owned(),
            config_hash: choice.config_hash.to_vec(),
        }))
    }
}

fn not_served(error: NotServed) -> Status {
    let message = error.to_string();
    match error {
        NotServed::NotReady { .. } => Status::unavailable(message),
        NotServed::UnknownVariant { .. } => Status::invalid_argument(message),
        _ => Status::not_found(message),
    }
}

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Overloaded => Status::resource_exhausted(refused.to_string()),
        Refused::Expired => Status::deadline_exceeded(refused.to_string()),
        Refused::Failed => Status::internal(refused.to_string()),
    }
}
