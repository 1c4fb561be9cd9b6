//! `quadrille.v1.PredictService`: the stream's features and model, on request.

use std::{sync::Arc, time::Instant};

use quadrille_pipeline::{NeedKey, Pipeline};
use quadrille_proto::v1::{
    PredictRequest, PredictResponse, predict_service_server::PredictService,
};
use quadrille_service::fields::{invalid_argument, pick, read_struct};
use quadrille_telemetry::{Tracing, metrics::ModelTimes};
use tonic::{Request, Response, Status};

use crate::Scorer;

pub(crate) struct Predict {
    pub pipelines: Vec<Arc<Pipeline>>,
    /// One a pipeline, in the same order.
    pub scorers: Vec<(Arc<Scorer>, ModelTimes)>,
    pub tracing: Tracing,
}

#[tonic::async_trait]
impl PredictService for Predict {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        let request = request.into_inner();
        let pipeline = pick(&self.pipelines, &request.pipeline)?;
        let record = request.record.unwrap_or_default();
        let reading = read_struct(pipeline, &record, NeedKey::Optional)
            .map_err(|invalid| invalid_argument(&invalid))?;
        let (scorer, times) = self
            .scorers
            .iter()
            .find(|(scorer, _)| scorer.pipeline().name() == pipeline.name())
            .ok_or_else(|| {
                Status::unavailable(format!("no model is loaded for {}", pipeline.name()))
            })?;
        // A model is cheap enough to be scored where the request arrives.
        let (mut features, mut inputs, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
        let step = self.tracing.step("features");
        pipeline.features(&reading.values, &mut features);
        pipeline.model_inputs(&features, &mut inputs);
        drop(step);
        let step = self.tracing.step("model");
        let start = Instant::now();
        scorer.score(&inputs, &mut probabilities);
        times.compute(start.elapsed());
        drop(step);
        let probability = probabilities.first().copied().unwrap_or(f64::NAN);
        Ok(Response::new(PredictResponse {
            probability,
            decision: pipeline.decide(probability).to_owned(),
            model: scorer.model().to_owned(),
            version: scorer.version().to_owned(),
            pipeline: pipeline.name().to_owned(),
            config_hash: scorer.config_hash().to_vec(),
        }))
    }
}
