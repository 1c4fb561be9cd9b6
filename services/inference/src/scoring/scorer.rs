//! Who answers, and how: the same for all protocols.

use std::{sync::Arc, time::Instant};

use quadrille_pipeline::{Pipeline, quote::quote};
use quadrille_telemetry::Tracing;

use super::{
    answer::{Answer, Prepared, Through},
    error::Error,
    question::{Form, Question, check_finite, computed, form},
};
use crate::{
    engine::Loaded,
    serving::{Choice, Serving},
    tensor::{
        Limits,
        rows::{Rows, rows},
    },
};

/// What serves, and within which limits it is asked. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scorer {
    pub serving: Serving,
    pub limits: Limits,
    pub tracing: Tracing,
}

/// Who is asked.
pub(crate) enum Target {
    Model(Arc<Loaded>),
    Pipeline(Arc<Pipeline>),
}

impl Scorer {
    /// A pipeline by its name; a model by its own, or where a version is named.
    pub(crate) fn target(&self, name: &str, version: &str) -> Result<Target, Error> {
        let mut pipelines = self.serving.pipelines().iter();
        let pipeline = pipelines.find(|pipeline| pipeline.name() == name);
        match pipeline {
            Some(pipeline) if version.is_empty() => Ok(Target::Pipeline(Arc::clone(pipeline))),
            pipeline => {
                let version = (!version.is_empty()).then_some(version);
                match self.serving.model(name, version) {
                    Ok(loaded) => Ok(Target::Model(loaded)),
                    Err(_) if pipeline.is_some() => Err(Error::Unknown(format!(
                        "{name:?} is a pipeline and has no versions; leave the version out, or ask a model by its own name"
                    ))),
                    Err(not) => Err(self.unknown(name, not.into())),
                }
            }
        }
    }

    /// Pipelines are models too, and belong to the list of what there is.
    fn unknown(&self, name: &str, error: Error) -> Error {
        let pipelines = self.serving.pipelines().iter();
        let pipelines: Vec<&str> = pipelines.map(|it| it.name()).collect();
        let models = self.serving.models();
        match error {
            Error::Unknown(message) if !models.iter().any(|model| model.id.name == name) => {
                let pipelines = pipelines.join(", ");
                Error::Unknown(format!("{message}; pipelines: {pipelines}"))
            }
            error => error,
        }
    }

    /// Whether a model or a pipeline answers; what is not known does not.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn ready(&self, name: &str, version: &str) -> Result<(), Error> {
        match self.target(name, version)? {
            Target::Model(_) => Ok(()),
            Target::Pipeline(_) => Ok(self.serving.choose(name, None, None).map(drop)?),
        }
    }

    /// The rows of a question, and who is to score them. The target is the one that was found before: found again it may be another.
    ///
    /// # Errors
    /// What to change so that there is an answer.
    pub(crate) fn prepare(
        &self,
        target: Target,
        question: &Question<'_>,
    ) -> Result<(Option<Through>, Prepared), Error> {
        let asked_at = Instant::now();
        match target {
            Target::Model(loaded) => {
                if let Some(variant) = question.variant {
                    return Err(Error::Invalid(format!(
                        "variant {}: variants belong to pipelines, and {} is asked as a model; ask the pipeline, or leave the variant out",
                        quote(variant),
                        quote(question.name)
                    )));
                }
                let rows = rows(question.tensors, loaded.model().inputs())?;
                let prepared = Prepared {
                    times: loaded.times().clone(),
                    loaded,
                    records: None,
                    rows: rows.values,
                    asked_at,
                };
                Ok((None, prepared))
            }
            Target::Pipeline(pipeline) => {
                let (choice, rows) = self.through(&pipeline, question)?;
                let through = Through {
                    pipeline,
                    variant: choice.variant,
                };
                let prepared = Prepared {
                    loaded: choice.loaded,
                    times: choice.times,
                    records: Some(choice.records),
                    rows: rows.values,
                    asked_at,
                };
                Ok((Some(through), prepared))
            }
        }
    }

    /// Scores prepared rows; `check` may refuse the scores before they count as answered.
    ///
    /// # Errors
    /// Why there is no answer, and what to change.
    pub(crate) async fn score(
        &self,
        prepared: Prepared,
        deadline: Option<Instant>,
        check: impl FnOnce(&[f64]) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let Prepared {
            loaded,
            times,
            records,
            rows,
            asked_at,
        } = prepared;
        let _step = self.tracing.step("model");
        let start = Instant::now();
        let scores = loaded.score(rows, deadline).await?;
        let scored_at = Instant::now();
        times.compute(scored_at - start);
        check(&scores)?;
        loaded.prepared(start - asked_at);
        if let Some(records) = records {
            records.scored(scores.len() / loaded.model().outputs().width().max(1));
        }
        Ok(Answer {
            loaded,
            scores,
            scored_at,
            times,
        })
    }

    /// What a pipeline chooses, and its model's rows.
    fn through(
        &self,
        pipeline: &Pipeline,
        question: &Question<'_>,
    ) -> Result<(Choice, Rows), Error> {
        let Question {
            key,
            variant,
            tensors,
            ..
        } = *question;
        if form(pipeline, question)? == Form::Features {
            let rows = rows(tensors, pipeline.inputs())?;
            check_finite(&rows, pipeline.inputs())?;
            return Ok((self.serving.choose(pipeline.name(), key, variant)?, rows));
        }
        let step = self.tracing.step("features");
        let (rows, keys) = computed(pipeline, tensors, self.limits.values_max)?;
        drop(step);
        match (key, keys.as_slice()) {
            (None, [first, others @ ..]) => {
                let choose = |key: &String| {
                    let key = (!key.is_empty()).then_some(key.as_str());
                    self.serving.choose(pipeline.name(), key, variant)
                };
                let choice = choose(first)?;
                for other in others {
                    let another = choose(other)?;
                    if another.variant != choice.variant {
                        return Err(Error::Invalid(format!(
                            "the rows of {first:?} and {other:?} belong to different variants ({} and {}); send them apart, or name a variant",
                            choice.variant, another.variant
                        )));
                    }
                }
                Ok((choice, rows))
            }
            _ => Ok((self.serving.choose(pipeline.name(), key, variant)?, rows)),
        }
    }
}
