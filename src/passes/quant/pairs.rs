//! Products of two activations, as attention has them: queries by keys, probabilities by values.
//!
//! Their second operand is int8 about zero, as a weight is: ONNX Runtime's kernel for uint8 by int8 takes 0.8 of the time of
//! floats for heads of 64 numbers, and more than that for heads of 32 and less, so they are for the clock to decide.

use super::{Quant, activations::Schemes, placement::Kind, target::symmetric, weights::Layers};
use crate::{
    ir::{DType, Graph, Model, OpId, Origin, QuantForm, QuantScheme, ValueId},
    ops::quantized::dequantized,
};

/// The layers and all such products.
pub(super) fn with(pass: &Quant, model: &Model, layers: &Layers) -> Layers {
    let graph = &model.graph;
    let stored = dequantized(graph);
    // Nothing else reads what they multiply.
    let own = |v: ValueId| {
        let value = graph.value(v);
        let plain = value.origin == Origin::Computed && graph.dtype(v) == Some(DType::F32);
        plain && graph.sole_use(v).is_some() && !stored.contains(&v) && value.quant.is_none()
    };
    let suits = |op: &OpId| {
        Kind::of(graph, *op) == Some(Kind::Pair)
            && !pass.excludes(graph, *op)
            && operands(graph, *op).is_some_and(|operands| operands.into_iter().all(own))
    };
    let mut ops: Vec<OpId> = graph.ops().filter(suits).chain(layers.ops.iter().copied()).collect();
    ops.sort_unstable();
    Layers { ops, ..layers.clone() }
}

/// Those among layers, and the others.
pub(super) fn apart(graph: &Graph, layers: Vec<OpId>) -> (Vec<OpId>, Vec<OpId>) {
    layers.into_iter().partition(|op| Kind::of(graph, *op) == Some(Kind::Pair))
}

/// What a product multiplies.
pub(super) fn operands(graph: &Graph, op: OpId) -> Option<[ValueId; 2]> {
    Some([graph.input(op, 0)?, graph.input(op, 1)?])
}

/// Gives the operands of such products their schemes, where both have a range and are not integers already. Returns how many.
pub(super) fn annotate(graph: &mut Graph, pairs: &[OpId], measured: &Schemes) -> u64 {
    let mut count = 0;
    for op in pairs {
        let Some(operands) = operands(graph, *op) else { continue };
        let open = operands.iter().all(|v| graph.value(*v).quant.is_none());
        let [Some(a), Some(b)] = operands.map(|v| measured.get(&v).cloned().flatten()) else { continue };
        if !open {
            continue;
        }
        let int8 = QuantScheme { dtype: DType::I8, zero_points: vec![b.zero_points[0] - 128], ..b };
        for (v, scheme) in operands.into_iter().zip([a, symmetric(&int8)]) {
            graph.value_mut(v).quant = Some(QuantScheme { form: QuantForm::Multiplied, ..scheme });
            count += 1;
        }
    }
    count
}
