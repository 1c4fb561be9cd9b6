//! `quadrille.v1.PredictService`: the stream's features and model, on request.

use std::time::Instant;

use quadrille_pipeline::NeedKey;
use quadrille_proto::v1::{
    PredictRequest, PredictResponse, predict_service_server::PredictService,
};
use quadrille_service::{
    Deadline,
    fields::{invalid_argument, pick, read_struct},
};
use tonic::{Request, Response, Status};

use crate::oip::{grpc::variant, infer::Doors, refusal::Refusal};

pub(crate) struct Predict(pub Doors);

#[tonic::async_trait]
impl PredictService for Predict {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        let Predict(doors) = self;
        let deadline = request
            .extensions()
            .get()
            .map(|deadline: &Deadline| deadline.0);
        let variant = variant(request.metadata())?;
        let request = request.into_inner();
        let pipeline = pick(doors.serving.pipelines(), &request.pipeline)?;
        let record = request.record.unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| invalid_argument(&invalid))?;
        let key = (!reading.key.is_empty()).then_some(reading.key.as_str());
        let choice = doors
            .serving
            .choose(pipeline.name(), key, variant.as_deref())
            .map_err(Refusal::from)?;
        let asked_at = Instant::now();
        let (mut features, mut inputs) = (Vec::new(), Vec::new());
        let step = doors.tracing.step("features");
        pipeline.features(&reading.values, &mut features);
        pipeline.model_inputs(&features, &mut inputs);
        drop(step);
        let step = doors.tracing.step("model");
        let start = Instant::now();
        let scored = choice.loaded.score(inputs, deadline).await;
        let outputs = scored.map_err(Refusal::from)?;
        let scored_at = Instant::now();
        let id = choice.loaded.id();
        choice.times.compute(scored_at - start);
        choice.loaded.prepared(start - asked_at);
        choice.records.scored(1);
        drop(step);
        let response = PredictResponse {
            probability: pipeline.headline(&outputs),
            decision: pipeline.decide(&outputs).to_owned(),
            model: id.name.clone(),
            version: id.version.clone(),
            pipeline: pipeline.name().to_owned(),
            config_hash: choice.config_hash.to_vec(),
            variant: choice.variant,
        };
        choice.loaded.written(scored_at.elapsed());
        Ok(Response::new(response))
    }
}
