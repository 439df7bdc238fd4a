//! Weights become plain initializers: not Constant nodes, not defaults of graph inputs.

use crate::ir::{Attr, Graph, Model, Tensor};

/// Turns Constant nodes into initializers, in bodies too; returns how many.
///
/// A Constant that is a graph output stays: ONNX wants outputs computed.
pub(super) fn constants(g: &mut Graph) -> usize {
    let mut lifted = 0;
    for op in g.ops().collect::<Vec<_>>() {
        g.edit_bodies(op, |body| {
            let inner = constants(body);
            lifted += inner;
            inner > 0
        });
        let Some(out) = g.output(op, 0).filter(|v| g.op(op).is("Constant") && !g.is_output(*v)) else {
            continue;
        };
        let op_ref = g.op(op);
        let tensor = op_ref.attrs.first().filter(|_| op_ref.attrs.len() == 1).and_then(|a| match &a.value {
            Attr::Tensor(t) => Some(t.clone()),
            Attr::Int(v) => Some(Tensor::scalar(*v)),
            Attr::Float(v) => Some(Tensor::scalar(*v)),
            Attr::Ints(v) => Some(Tensor::ints(v.iter().copied())),
            Attr::Floats(v) => Some(Tensor::from_vec([v.len()], v.clone())),
            _ => None,
        });
        if let Some(tensor) = tensor {
            g.make_constant(out, tensor);
            g.remove_op(op);
            lifted += 1;
        }
    }
    lifted
}

/// Makes initializers that also are graph inputs plain constants; returns how many. Files of version 3 must list every
/// weight as an input, so such a model is raised to version 4, which counts as one more.
pub(super) fn close_inputs(model: &mut Model) -> usize {
    let g = &mut model.graph;
    let before = g.inputs.len();
    g.inputs = g.inputs.iter().copied().filter(|v| g.initializer(*v).is_none()).collect();
    let closed = before - g.inputs.len();
    let raised = model.ir_version < 4;
    model.ir_version = model.ir_version.max(4);
    closed + usize::from(raised)
}
