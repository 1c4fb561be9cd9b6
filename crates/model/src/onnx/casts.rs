//! `Cast` for tract, as ONNX Runtime computes it.
//!
//! tract takes every cast to int64 for arithmetic on sizes, which it does in 32 bits: 3000000000 became 2147483647, a finite and wrong
//! answer. Here such a cast makes integers of 64 bits. A float that no integer of the type is (NaN, or beyond its range) has no
//! defined cast: it fails, so that its row has no answer.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::internal::*;

use super::Error;
use super::attributes::short;

/// Builds the operator of a node.
pub(super) fn cast(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let to = node.get_attr::<DatumType>("to")?;
    Ok((expand(Cast { to }), Vec::new()))
}

/// Refuses a plan that computes a row's integers as sizes: tract does that in 32 bits. Sizes alone are constants by now.
pub(super) fn check_integers(model: &TypedModel) -> Result<(), Error> {
    let computed = |node: &&TypedNode| {
        let facts = node.outputs.iter().map(|outlet| &outlet.fact);
        let mut sizes = facts.filter(|fact| fact.datum_type == TDim::datum_type());
        sizes.any(|fact| fact.konst.is_none())
    };
    match model.nodes.iter().find(computed) {
        None => Ok(()),
        Some(node) => Err(Error::Network(format!(
            "its node {:?} computes integers of a row together with sizes (of Shape), which is not supported; export it with fixed sizes, \
             or compute with floats",
            short(&node.name)
        ))),
    }
}

#[derive(Debug, Clone)]
struct Cast {
    to: DatumType,
}

impl Cast {
    /// Sizes stay sizes: tract computes shapes with them before any row comes.
    fn to(&self, from: DatumType) -> DatumType {
        match (from, self.to) {
            (DatumType::TDim, DatumType::I64) => DatumType::TDim,
            (_, to) => to,
        }
    }
}

impl Expansion for Cast {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        solver.given(&inputs[0].datum_type, |solver, from| {
            solver.equals(&outputs[0].datum_type, self.to(from))
        })?;
        solver.equals(&outputs[0].rank, &inputs[0].rank)?;
        solver.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let from = model.outlet_fact(inputs[0])?.datum_type;
        let to = self.to(from);
        match from.is_float() && to.is_integer() {
            true => model.wire_node(
                prefix,
                ElementWiseOp(Box::new(Truncate { to }), None),
                inputs,
            ),
            false => model.wire_node(prefix, tract_core::ops::cast::cast(to), inputs),
        }
    }
}

/// Floats to integers, towards zero.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Truncate {
    to: DatumType,
}

impl Truncate {
    /// Whether a number of the type is this one without its fraction.
    fn holds(&self, number: f64) -> bool {
        let bits = 8 * i32::try_from(self.to.size_of()).unwrap_or_default();
        let (least, beyond) = match self.to.is_signed() {
            true => (-2_f64.powi(bits - 1), 2_f64.powi(bits - 1)),
            false => (0.0, 2_f64.powi(bits)),
        };
        (least..beyond).contains(&number.trunc())
    }
}

impl ElementWiseMiniOp for Truncate {
    fn name(&self) -> String {
        format!("Truncate to {:?}", self.to)
    }

    fn output_type(&self, _: DatumType) -> Option<DatumType> {
        Some(self.to)
    }

    fn eval_out_of_place(&self, input: &Tensor, _: Option<DatumType>) -> TractResult<Tensor> {
        let numbers = input.cast_to::<f64>()?;
        let numbers = numbers.to_plain_array_view::<f64>()?;
        if let Some(number) = numbers.iter().find(|it| !self.holds(**it)) {
            bail!(
                "{number} is cast to {:?}, which has no such number",
                self.to
            );
        }
        Ok(input.cast_to_dt(self.to)?.into_owned())
    }
}
