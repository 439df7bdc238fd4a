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

use crate::ir::{DType, Graph, Model, OpId, ValueId};
use std::{collections::BTreeMap, iter::Sum, ops::Add};

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
        macs: macs(g, op).unwrap_or(0),
        params: g.inputs_of(op).into_iter().flatten().map(|v| params(g, v)).sum(),
        bytes: slots().map(|v| bytes(g, v)).fold(0, u64::saturating_add),
    };
    let bodies = g.op(op).bodies().map(of_graph);
    own + match &*g.op(op).op_type {
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
    sizes(g, v).map_or(0, |s| volume(&s)).saturating_mul(bits).div_ceil(8)
}

/// The extents of a value, unknown ones as 1.
fn sizes(g: &Graph, v: ValueId) -> Option<Vec<u64>> {
    Some(g.shape(v)?.iter().map(|d| d.known().unwrap_or(1) as u64).collect())
}

fn volume(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |n, d| n.saturating_mul(*d))
}

fn macs(g: &Graph, id: OpId) -> Option<u64> {
    let op = g.op(id);
    let input = |slot: usize| sizes(g, g.input(id, slot)?);
    let out = || Some(volume(&sizes(g, g.output(id, 0)?)?));
    Some(match (&*op.domain, &*op.op_type) {
        ("" | "ai.onnx", "Conv" | "ConvInteger" | "DeformConv") => {
            out()?.saturating_mul(volume(input(1)?.get(1..)?))
        }
        ("" | "ai.onnx", "QLinearConv") => out()?.saturating_mul(volume(input(3)?.get(1..)?)),
        ("" | "ai.onnx", "ConvTranspose") => volume(&input(0)?).saturating_mul(volume(input(1)?.get(1..)?)),
        ("" | "ai.onnx", "MatMul" | "MatMulInteger" | "QLinearMatMul") => {
            out()?.saturating_mul(*input(0)?.last()?)
        }
        ("com.microsoft", "MatMulNBits") => out()?.saturating_mul(*input(0)?.last()?),
        ("" | "ai.onnx", "Gemm") => {
            let inner = usize::from(op.int("transA") != Some(1));
            out()?.saturating_mul(*input(0)?.get(inner)?)
        }
        ("" | "ai.onnx", "LSTM" | "GRU" | "RNN") => {
            let steps = volume(input(0)?.get(..2)?);
            steps.saturating_mul(volume(&input(1)?).saturating_add(volume(&input(2)?)))
        }
        ("" | "ai.onnx", "Attention") => {
            // Scores for every pair of query and key, and as much again for the values. 3-d inputs hold all heads.
            let (q, k, v) = (input(0)?, input(1)?, input(2)?);
            let keys = k[k.len().checked_sub(2)?];
            let heads = if q.len() == 3 { op.int("q_num_heads").unwrap_or(1).max(1) as u64 } else { 1 };
            let groups = if v.len() == 3 { op.int("kv_num_heads").unwrap_or(1).max(1) as u64 } else { 1 };
            let queries = volume(&q).checked_div(*q.last()?)?.saturating_mul(heads);
            let scores = volume(&q).saturating_mul(keys);
            scores.saturating_add(queries.saturating_mul(keys).saturating_mul(v.last()? / groups))
        }
        ("" | "ai.onnx", "Einsum") => {
            let equation: String = op.str("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
            let terms = equation.split("->").next()?.split(',');
            let mut labels = BTreeMap::new();
            for (slot, term) in terms.enumerate() {
                let sizes = input(slot)?;
                (term.chars().count() == sizes.len()).then_some(())?;
                for (label, size) in term.chars().zip(sizes) {
                    let known = labels.entry(label).or_insert(1u64);
                    *known = size.max(*known);
                }
            }
            labels.values().fold(1, |n: u64, d| n.saturating_mul(*d))
        }
        _ => return None,
    })
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
