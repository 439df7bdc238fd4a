//! Constants that a model stores in few bits and computes back: by DequantizeLinear, or by Cast and arithmetic that a
//! runtime does once, when it loads the model.

use crate::ir::{DType, Graph, OpId, ValueId};
use std::collections::HashSet;

/// The values that such constants are computed back to, and what depends on them and other constants alone.
///
/// Folding any of these would store the weights in full again. Dimensions (Shape, Size) tell nothing of the contents
/// and do not count.
pub fn dequantized(g: &Graph) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for op in g.order() {
        let node = g.op(op);
        let inputs = g.inputs_of(op);
        let mut inputs = inputs.iter().flatten();
        let inherits = !node.is("Shape")
            && !node.is("Size")
            && inputs.clone().any(|v| found.contains(v))
            && inputs.all(|v| found.contains(v) || g.constant(*v).is_some());
        if inherits || widens(g, op) {
            found.extend(g.outputs_of(op).into_iter().flatten());
        }
    }
    found
}

/// Whether an op turns a constant of at most eight bits into wider reals.
fn widens(g: &Graph, op: OpId) -> bool {
    let node = g.op(op);
    let Some(stored) = g.input(op, 0).and_then(|v| g.constant(v)) else { return false };
    if node.op_type == "DequantizeLinear" {
        return true;
    }
    let to = node.int("to").and_then(|to| DType::from_onnx(i32::try_from(to).ok()?));
    let narrow = is_narrow(stored.dtype()) && stored.len() > 1;
    node.is("Cast") && narrow && to.is_some_and(|to| to.is_float() && to.bits() > 8)
}

/// Whether numbers of this type take at most eight bits, as quantized weights do.
pub fn is_narrow(dtype: DType) -> bool {
    (dtype.is_integer() || dtype.is_float()) && dtype.bits() <= 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Op, Tensor};

    #[test]
    fn contents_count_and_dimensions_do_not() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", crate::ir::Type::tensor(DType::F32, [2.into()]));
        let q = g.add_initializer("q", Tensor::from_vec([2], vec![1i8, -3]));
        let s = g.add_initializer("s", Tensor::from_vec([], vec![0.5f32]));
        let mask = g.add_initializer("mask", Tensor::from_vec([1], vec![1u8]));
        let to = |name: &str| Op::new("Cast", name).with("to", i64::from(DType::F32.onnx()));
        let real = g.add_node(to("cast"), &[q], "real", None);
        let w = g.add_node(Op::new("Mul", "scale"), &[real, s], "w", None);
        let shape = g.add_node(Op::new("Shape", "shape"), &[w], "shape", None);
        let scalar = g.add_node(to("cast_mask"), &[mask], "scalar", None);
        let y = g.add_node(Op::new("Add", "add"), &[x, w], "y", None);
        let found = dequantized(&g);
        assert!([real, w].iter().all(|v| found.contains(v)));
        assert!([shape, scalar, y].iter().all(|v| !found.contains(v)));
    }
}
