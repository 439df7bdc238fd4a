//! What a model costs to run and to ship: multiply-accumulates, parameters, bytes moved.
//!
//! - MACs are those of linear algebra (convolutions, matrix products, recurrent layers, attention, Einsum); elementwise
//!   work counts as none, as is the custom when networks are compared.
//! - Extents that are not known count as 1: with a symbolic batch the cost is that of one sample, and a symbolic
//!   sequence counts as one step. Run [`infer_types`](crate::ops::infer_types) first.
//! - Parameters are the elements of constants other than int64, bool and string ones, which hold shapes, indices and
//!   masks. A constant that several ops share counts once in a model.
//! - Bytes are those of all tensors an op reads and writes, sub-byte types packed.
//! - The body of a Loop or Scan counts as run once, of the branches of an If the dearest one.

use super::macs;
use crate::ir::{DType, Graph, Model, OpId, ValueId};
use std::{iter::Sum, ops::Add};

/// The cost of an op or of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-accumulates of linear algebra, for one sample.
    pub macs: u64,
    /// Elements of weights.
    pub params: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            macs: self.macs.saturating_add(other.macs),
            params: self.params.saturating_add(other.params),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}
impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}

/// The cost of one op, its bodies included. `params` are those of the constants it reads, shared or not.
pub fn of_op(g: &Graph, op: OpId) -> Cost {
    let slots = || g.inputs_of(op).into_iter().chain(g.outputs_of(op)).flatten();
    let own = Cost {
        macs: macs(g, op),
        params: g.inputs_of(op).into_iter().flatten().map(|v| params(g, v)).sum(),
        bytes: slots().map(|v| bytes(g, v)).fold(0, u64::saturating_add),
    };
    own + of_bodies(g, op)
}

/// The cost of what an op's bodies do.
pub(super) fn of_bodies(g: &Graph, op: OpId) -> Cost {
    let bodies = g.op(op).bodies().map(of_graph);
    match &*g.op(op).op_type {
        "If" => bodies.max_by_key(|c| (c.macs, c.bytes)).unwrap_or_default(),
        _ => bodies.sum(),
    }
}

/// The cost of a whole model; shared parameters count once. Calls of model-local functions count as their bytes.
pub fn of_model(model: &Model) -> Cost {
    let mut cost = of_graph(&model.graph);
    cost.params = 0;
    model.graph.for_each_nested(&mut |g| {
        let used = |v: &ValueId| !g.uses(*v).is_empty() || g.is_output(*v);
        let constants = g.values().filter(|v| g.constant(*v).is_some() || g.initializer(*v).is_some());
        cost.params = constants.filter(used).map(|v| params(g, v)).fold(cost.params, u64::saturating_add);
    });
    cost
}

fn of_graph(g: &Graph) -> Cost {
    g.ops().map(|op| of_op(g, op)).sum()
}

fn params(g: &Graph, v: ValueId) -> u64 {
    let tensor = g.constant(v).or_else(|| g.initializer(v));
    tensor
        .filter(|t| !matches!(t.dtype(), DType::I64 | DType::Bool | DType::String))
        .map_or(0, |t| t.len() as u64)
}

fn bytes(g: &Graph, v: ValueId) -> u64 {
    let bits = g.dtype(v).map_or(0, DType::bits) as u64;
    let extents =
        |v| Some(g.shape(v)?.iter().map(|d| d.known().unwrap_or(1) as u64).fold(1, u64::saturating_mul));
    extents(v).unwrap_or(0u64).saturating_mul(bits).div_ceil(8)
}

/// The multiply-accumulates of one op, its bodies left out.
fn macs(g: &Graph, op: OpId) -> u64 {
    let products = macs::of_op(g, op).unwrap_or_default();
    products.iter().map(|p| p.value(|axis| axis.extent(g))).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Dim, Op, OpsetImport, Tensor, Type};

    #[test]
    fn a_network_by_hand() {
        let onnx = OpsetImport { version: 17, ..OpsetImport::default() };
        let mut m = Model { ir_version: 8, opsets: vec![onnx], ..Model::default() };
        let g = &mut m.graph;
        let shape = [Dim::from("n"), Dim::Known(3), Dim::Known(8), Dim::Known(8)];
        let x = g.add_input("x", Type::tensor(DType::F32, shape));
        let weight = |n: usize, shape: &[usize]| Tensor::from_vec(shape.to_vec(), vec![0f32; n]);
        let w = g.add_initializer("w", weight(4 * 27, &[4, 3, 3, 3]));
        let conv = |pads: i64| Op::new("Conv", "").with("pads", vec![pads; 4]);
        let a = g.add_node(conv(1), &[x, w], "a", None);
        let b = g.add_node(conv(1), &[x, w], "b", None);
        let sum = g.add_node(Op::new("Add", ""), &[a, b], "sum", None);
        let flat = g.add_node(Op::new("Flatten", ""), &[sum], "flat", None);
        let f = g.add_initializer("f", weight(2560, &[256, 10]));
        let y = g.add_node(Op::new("Gemm", ""), &[flat, f], "y", None);
        g.outputs.push(y);
        crate::ops::infer_types(&mut m).unwrap();
        let conv_macs = 4 * 64 * 27;
        let first = m.graph.producer(a).unwrap().0;
        let io = 4 * (3 * 64 + 4 * 27 + 4 * 64);
        assert_eq!(of_op(&m.graph, first), Cost { macs: conv_macs, params: 108, bytes: io });
        let total = of_model(&m);
        assert_eq!(
            (total.macs, total.params),
            (2 * conv_macs + 2560, 108 + 2560),
            "the shared kernel counts once"
        );
    }
}
