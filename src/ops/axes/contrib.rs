//! Axis rules of what ONNX Runtime's optimizers write (`com.microsoft`), attention aside: standard operators with something
//! fused in.

use super::{flow::Flow, rule, scaled, structural};
use crate::ir::OpId;

/// Applies the rule of an op. `None`: there is none, or this op is not of the form it covers.
pub(super) fn apply(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let graph = flow.graph;
    let node = graph.op(op);
    if node.domain != "com.microsoft" {
        return None;
    }
    let line = |flow: &mut Flow<'_>, text| rule::apply(flow, op, text, None);
    match &*node.op_type {
        "Gelu" | "QuickGelu" => line(flow, "a* -> a*"),
        "BiasGelu" | "FastGelu" => line(flow, "a* c, c? -> a* c"),
        "SkipLayerNormalization" => line(flow, "a* c~, a* c, c, c?, c? -> a* c, a* one?, a* one?, a* c?"),
        "SkipSimplifiedLayerNormalization" => {
            line(flow, "a* c~, a* c, c, c? -> a* c, a* one?, a* one?, a* c?")
        }
        "EmbedLayerNormalization" => {
            let text = "b s, b s?, v! h~, p! h, t! h?, h, h, b s?, q s? -> b s h, b?, b s h?";
            line(flow, text)
        }
        "FusedConv" => {
            flow.is_weight(graph.input(op, 1)?).then_some(())?;
            let text = "b (g i) s!*, (g o) i t!*, (g o)?, b (g o) u!*? -> b (g o) u!*";
            rule::apply(flow, op, text, Some(("g", "group", 1)))
        }
        "FusedMatMul" | "TransposeMatMul" => {
            let set = |name| node.int(name).is_some_and(|n| n != 0);
            if set("transBatchA") || set("transBatchB") {
                return None;
            }
            let text = match (set("transA"), set("transB")) {
                (false, false) => "a* m k, a* k n -> a* m n",
                (false, true) => "a* m k, a* n k -> a* m n",
                (true, false) => "a* k m, a* k n -> a* m n",
                (true, true) => "a* k m, a* n k -> a* m n",
            };
            line(flow, text)?;
            summed(flow, op, if set("transA") { 2 } else { 1 })
        }
        "FusedGemm" => {
            structural::gemm(flow, op)?;
            summed(flow, op, if node.int("transA").is_some_and(|n| n != 0) { 2 } else { 1 })
        }
        "QuantizeLinear" | "DequantizeLinear" => scaled::scaled(flow, op),
        _ => None,
    }
}
/// Notes that an op sums over the axis of its first operand that is so many from the end.
fn summed(flow: &mut Flow<'_>, op: OpId, back: usize) -> Option<()> {
    let (a, b) = (flow.graph.input(op, 0)?, flow.graph.input(op, 1)?);
    let dims = flow.dims(a)?;
    flow.sums.push((vec![a, b], dims[dims.len().checked_sub(back)?]));
    Some(())
}
