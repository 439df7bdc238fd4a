//! Layers that are to compute in float do, though they stand between integers.

use crate::{
    ir::{Grain, Graph, OpId, QuantForm},
    ops::quantized::rounded_at_load,
};

/// Gives what layers read that ONNX Runtime would round the form [`QuantForm::Shielded`]. The weights have their forms. What
/// saturates on the way (HardSwish) is computed in float then: its value has one form, and floats that are floats matter more.
pub(super) fn mark(graph: &mut Graph) {
    for op in graph.ops().collect::<Vec<OpId>>() {
        let Some(from) = rounded_at_load(graph, op) else { continue };
        let scheme = graph.value_mut(from.value).quant.as_mut();
        let rounded = |form| matches!(form, QuantForm::Qdq | QuantForm::Saturated);
        if let Some(scheme) = scheme.filter(|s| s.grain == Grain::Tensor && rounded(s.form)) {
            scheme.form = QuantForm::Shielded;
        }
    }
}
