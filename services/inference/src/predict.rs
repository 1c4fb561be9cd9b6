//! `quadrille.v1.PredictService`: the stream's features and model, on request.

mod asked;

use std::time::Instant;

use quadrille_proto::v1::{
    PredictRequest, PredictResponse,
    predict_service_server::{PredictService, PredictServiceServer},
};
use quadrille_service::fields::pick;
use tonic::{Request, Response, Status};

use self::asked::Asked;
use crate::{
    scoring::{Error, Prepared, Scorer},
    serving::Choice,
    transport::grpc::{deadline, variant},
};

pub(crate) struct Predict(Scorer);

/// The service, ready to be mounted.
pub(crate) fn service(scorer: Scorer) -> PredictServiceServer<Predict> {
    PredictServiceServer::new(Predict(scorer))
}

#[tonic::async_trait]
impl PredictService for Predict {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        let Predict(scorer) = self;
        let deadline = deadline(&request);
        let variant = variant(request.metadata())?;
        let request = request.into_inner();
        let pipeline = pick(scorer.serving.pipelines(), &request.pipeline)?;
        let asked_at = Instant::now();
        let step = scorer.tracing.step("features");
        let asked = Asked::read(pipeline, request)?;
        drop(step);
        let choice = scorer
            .serving
            .choose(pipeline.name(), asked.key.as_deref(), variant.as_deref())
            .map_err(Error::from)?;
        let mut rows = Vec::new();
        pipeline.model_inputs(&asked.features, &mut rows);
        let Choice {
            variant,
            loaded,
            config_hash,
            times,
            records,
        } = choice;
        let prepared = Prepared {
            loaded,
            times,
            records: Some(records),
            rows,
            asked_at,
        };
        let answer = scorer.score(prepared, deadline, |_| Ok(())).await?;
        let (id, outputs) = (answer.id(), &answer.scores);
        let response = PredictResponse {
            probability: pipeline.headline(outputs),
            decision: pipeline.decide(outputs).to_owned(),
            model: id.name.clone(),
            version: id.version.clone(),
            pipeline: pipeline.name().to_owned(),
            config_hash: config_hash.to_vec(),
            variant,
        };
        // Not among the pipeline's output times, which are of tensors.
        answer.loaded.written(answer.scored_at.elapsed());
        Ok(Response::new(response))
    }
}
