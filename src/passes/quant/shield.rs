//! Layers that are to compute in float do, though they stand between integers.

use crate::{
    ir::{Grain, Model, OpId, QuantForm},
    ops::quantized::rounded_at_load,
};

/// The operator set since which DequantizeLinear has a scale for each channel.
const BY_CHANNEL: i64 = 13;

/// Gives what layers read that ONNX Runtime would round the form [`QuantForm::Shielded`]. The weights have their forms.
pub(super) fn mark(model: &mut Model) {
    if model.opset() < BY_CHANNEL {
        return;
    }
    let graph = &mut model.graph;
    for op in graph.ops().collect::<Vec<OpId>>() {
        let Some(from) = rounded_at_load(graph, op) else { continue };
        let scheme = graph.value_mut(from.value).quant.as_mut();
        let rounded = |form| matches!(form, QuantForm::Qdq | QuantForm::Saturated);
        if let Some(scheme) = scheme.filter(|s| s.grain == Grain::Tensor && rounded(s.form)) {
            scheme.form = QuantForm::Shielded;
        }
    }
}
