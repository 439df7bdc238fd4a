//! What weights do to the outputs when they alone are rounded, all else in float.

use super::{
    learned, scales,
    weights::{Layers, Plan},
};
use crate::{
    error::{Error, Result},
    ir::{Model, Origin, QuantScheme, Tensor, ValueId, Where},
};

/// A weight, its scheme, and the reals that its integers stand for.
pub(super) struct Rounded {
    pub of: ValueId,
    pub scheme: QuantScheme,
    pub weight: Tensor,
}

/// The model with all these weights float again.
pub(super) fn float(model: &Model, layers: &Layers) -> Model {
    let mut model = model.clone();
    layers.weights.iter().for_each(|v| model.graph.value_mut(*v).quant = None);
    model
}

/// The model with all these weights as the floats that their integers stand for.
pub(super) fn dequantized(model: &Model, layers: &Layers) -> Result<Model> {
    let mut reals = model.clone();
    for v in &layers.weights {
        let scheme = reals.graph.value_mut(*v).quant.take();
        let weight = scheme.zip(model.graph.constant(*v)).ok_or_else(|| unfit(model, *v))?;
        let weight =
            scales::rounded(weight.1, &weight.0, layers.integers[v]).ok_or_else(|| unfit(model, *v))?;
        reals.graph.value_mut(*v).origin = Origin::Initializer(weight);
    }
    Ok(reals)
}

/// The weights rounded to the nearest with so many bits each, in their order.
pub(super) fn rounded(plan: &Plan<'_>, model: &Model, layers: &Layers, bits: usize) -> Result<Vec<Rounded>> {
    let mut narrow = model.clone();
    let these = layers.with_bits(plan, &mut narrow.graph, &vec![Some(bits); layers.weights.len()]);
    learned::to_nearest(&these, &mut narrow.graph, &these.weights);
    let of = |v: &ValueId| {
        let scheme = narrow.graph.value(*v).quant.clone();
        let (weight, scheme) =
            narrow.graph.constant(*v).cloned().zip(scheme).ok_or_else(|| unfit(model, *v))?;
        Ok(Rounded { of: *v, scheme, weight })
    };
    layers.weights.iter().map(of).collect()
}

/// The model with these weights in place of its own.
pub(super) fn with(float: &Model, set: &[Rounded]) -> Model {
    let mut model = float.clone();
    for Rounded { of, weight, .. } in set {
        model.graph.value_mut(*of).origin = Origin::Initializer(weight.clone());
    }
    model
}

fn unfit(model: &Model, v: ValueId) -> Error {
    Error::unsupported(Where::Value(model.graph.name_of(v).to_owned()), "it has no integers of so few bits")
}
