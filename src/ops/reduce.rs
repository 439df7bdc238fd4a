//! Reductions as the operator set at hand spells them.

use crate::ir::{DType, Dim, Graph, Op, Tensor, Type, ValueId};

/// Adds reductions to the smallest and the largest element, or to one of each for each index of `kept` = (axis, rank);
/// returns their outputs. Reductions are defined for few types; every number fits float32 as far as a range needs.
pub(crate) fn ends(graph: &mut Graph, opset: i64, of: ValueId, kept: Option<(usize, usize)>) -> [ValueId; 2] {
    let float = match graph.dtype(of) {
        Some(DType::F32) => of,
        _ => {
            let name = format!("{}_float", graph.name_of(of));
            let cast = Op::new("Cast", "").with("to", i64::from(DType::F32.onnx()));
            graph.add_node(cast, &[of], &name, None)
        }
    };
    ["ReduceMin", "ReduceMax"].map(|op| reduce(graph, opset, op, float, kept))
}

/// Adds a reduction (ReduceMin, ReduceMax, ReduceMean, whose axes became an input with operator set 18) to a
/// scalar, or to one number for each index of `kept` = (axis, rank); returns its output.
pub(crate) fn reduce(
    graph: &mut Graph,
    opset: i64,
    op: &str,
    of: ValueId,
    kept: Option<(usize, usize)>,
) -> ValueId {
    let name = format!("{}_{op}", graph.name_of(of));
    let extent = |(axis, _)| graph.shape(of).and_then(|s| s.get(axis).cloned()).unwrap_or(Dim::Unknown);
    let ty = Type::tensor(graph.dtype(of).unwrap_or(DType::F32), kept.map(extent));
    let axes: Option<Vec<i64>> =
        kept.map(|(axis, rank)| (0..rank).filter(|k| *k != axis).map(|k| k as i64).collect());
    let (node, mut inputs) = (Op::new(op, "").with("keepdims", 0), vec![of]);
    let node = match axes {
        None => node,
        // No axes to reduce would mean all of them: the numbers are kept as they are.
        Some(axes) if axes.is_empty() => Op::new("Identity", ""),
        Some(axes) if opset < 18 => node.with("axes", axes),
        Some(axes) => {
            inputs.push(graph.add_initializer(&format!("{name}_axes"), Tensor::ints(axes)));
            node
        }
    };
    graph.add_node(node, &inputs, &name, Some(ty))
}
