//! Layers whose other operand is rounded as the model runs, from the smallest and largest element at hand.

use super::{
    placement::{How, Placement},
    weights::Layers,
};
use crate::ir::{DType, Graph, OpId, QuantForm, ValueId, Where};

/// Gives the weights of the layers that the placement, or a table, wants so the form that says it, and says where there is
/// no kernel for what a table asks for.
pub(super) fn annotate(
    graph: &mut Graph,
    layers: &Layers,
    placement: &Placement,
    said: &mut Vec<(Where, String)>,
) {
    for v in &layers.weights {
        let ops: Vec<OpId> = graph.uses(*v).iter().map(|at| at.op()).collect();
        let wanted = |op: &OpId| layers.how(graph, placement, *op) == How::Dynamic;
        if ops.iter().all(|op| wanted(op) && has_kernel(graph, *op)) {
            if let Some(scheme) = graph.value_mut(*v).quant.as_mut() {
                scheme.form = QuantForm::Dynamic;
            }
        } else {
            let asked = ops.into_iter().filter(|op| layers.dynamic.contains(op));
            let why = "stays float: there is no kernel that rounds what it reads as it runs";
            said.extend(asked.map(|op| (graph.place(op), why.to_owned())));
        }
    }
}

/// Whether there is a kernel for the op and its int8 weights that rounds what else it reads.
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
            // The bias, added behind it, has to lie along the channels.
            "Conv" => graph.input(op, 2).is_none_or(|b| graph.initializer(b).is_some() && !graph.is_input(b)),
            // Its two weights go together, and no other op reads them.
            "LSTM" => {
                let alone = |v: &ValueId| graph.uses(*v).len() == 1;
                zero("layout") && alone(&w) && weight(2).as_ref().is_some_and(alone)
            }
            _ => false,
        }
}
