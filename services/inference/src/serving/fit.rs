//! Whether a model fits a pipeline: its inputs, and what it answers.

use quadrille_model::{
    Model, Outputs,
    package::{Difference, Labels},
};
use quadrille_pipeline::{Decision, Pipeline, Threshold, Truth};

/// Checks that a model fits a pipeline.
///
/// # Errors
/// The difference, in words.
pub fn check(pipeline: &Pipeline, model: &dyn Model) -> Result<(), String> {
    if let Some(difference) = Difference::between(model.inputs(), pipeline.inputs()) {
        return Err(format!("the model wants other inputs: {difference}"));
    }
    let difference = match (model.outputs(), pipeline.decision()) {
        (Outputs::Binary(has), Decision::Threshold(decision)) => {
            return check_sides(has, pipeline, decision);
        }
        (Outputs::Classes(has), Decision::Argmax(decision)) => {
            Difference::between(has, &decision.classes)
        }
        (Outputs::Values(has), Decision::Value(decision)) => {
            Difference::between(has, &decision.values)
        }
        (has, _) => {
            let has = match has {
                Outputs::Binary(_) => "the probability of one of two classes (threshold)",
                Outputs::Classes(_) => "the probabilities of several classes (argmax)",
                Outputs::Values(_) => "values (value)",
            };
            return Err(format!(
                "the model gives {has}, the pipeline decides otherwise"
            ));
        }
    };
    match difference {
        None => Ok(()),
        Some(difference) => Err(format!("the model has other outputs: {difference}")),
    }
}

/// Checks that a model's positive class is not the pipeline's negative one, or the reverse. Models are trained on the words of the data and
/// imported with those of the decision, and may have others, which say nothing; only words that they share say something. Those of the data come
/// first, as data may call "no" what the decision calls "yes".
fn check_sides(has: &Labels, pipeline: &Pipeline, decision: &Threshold) -> Result<(), String> {
    let data = match pipeline.label().map(|it| &it.truth) {
        Some(Truth::Two { positive, negative }) => Some(("data", negative, positive)),
        _ => None,
    };
    let decision = Some(("decision", &decision.negative, &decision.positive));
    for (whose, negative, positive) in [data, decision].into_iter().flatten() {
        let wanted = Labels {
            negative: negative.clone(),
            positive: positive.clone(),
        };
        if !has.shares_a_name(&wanted) {
            continue;
        }
        if has.is_inverted(&wanted) {
            return Err(format!(
                "the model has its classes ({has}) the other way round than the pipeline's {whose} ({wanted}), so that each \
                 decision would be the opposite; train or export a model whose positive class is {positive:?}"
            ));
        }
        return Ok(());
    }
    Ok(())
}
