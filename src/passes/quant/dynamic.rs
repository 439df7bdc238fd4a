//! Layers whose other operand is rounded as the model runs, from the smallest and largest element at hand.

use super::{
    placement::{How, Placement},
    weights::Layers,
};
use crate::ir::{DType, Graph, OpId, QuantForm, ValueId};

/// Gives the weights of the layers that the placement wants so the form that says it.
pub(super) fn annotate(graph: &mut Graph, layers: &Layers, placement: &Placement) {
    for v in &layers.weights {
        let all = graph
            .uses(*v)
            .iter()
            .all(|at| placement.of(graph, at.op()) == How::Dynamic && has_kernel(graph, at.op()));
        if let Some(scheme) = graph.value_mut(*v).quant.as_mut().filter(|_| all) {
            scheme.form = QuantForm::Dynamic;
        }
    }
}

/// Whether the runtime has a kernel for the op and its int8 weights that rounds what else it reads.
fn has_kernel(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    let int8 = |v: ValueId| graph.value(v).quant.as_ref().is_some_and(|s| s.dtype == DType::I8);
    let weight = |slot| graph.input(op, slot).filter(|v| int8(*v));
    let Some(w) = weight(1) else { return false };
    let float = graph.input(op, 0).and_then(|x| graph.dtype(x)).is_none_or(|d| d == DType::F32);
    let zero = |name: &str| node.int(name).unwrap_or(0) == 0;
    let one = |name: &str| node.float(name).unwrap_or(1.0) == 1.0;
    float
        && match node.op_type.as_str() {
            "MatMul" => graph.rank(w) == Some(2),
            "Gemm" => zero("transA") && one("alpha") && one("beta"),
            // Its two weights go together, and no other op reads them.
            "LSTM" => {
                let alone = |v: &ValueId| graph.uses(*v).len() == 1;
                zero("layout") && alone(&w) && weight(2).as_ref().is_some_and(alone)
            }
            _ => false,
        }
}
