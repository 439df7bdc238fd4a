//! Zeros around the input of a window move into the window's own padding.
//!
//! Conv adds zeros itself; so does AveragePool where it counts them. MaxPool pads with what is below everything: that is
//! the same only where nothing is below zero, as after Relu.

use super::no_op::never_negative;
use crate::{
    ir::Tensor,
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The zeros that a Pad adds, begins before ends, as its op and inputs say.
fn zeros(m: &Match<'_>) -> Result<Vec<i64>, Miss> {
    let op = m.op("h").ok_or("")?;
    if op.str("mode").unwrap_or("constant") != "constant" {
        return Err("the padding is not constant");
    }
    let zero = match m.value("v") {
        Some(_) => m.tensor("v").and_then(Tensor::scalar_f32),
        None => Some(op.float("value").unwrap_or(0.0)),
    };
    if zero != Some(0.0) {
        return Err("the padding is not zero");
    }
    match op.ints("pads") {
        Some(pads) => Ok(pads.to_vec()),
        None => m.tensor("p").and_then(Tensor::to_i64).ok_or("the padding is not known"),
    }
}

fn padded(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (zeros, window) = (zeros(m)?, m.op("y").ok_or("")?);
    let rank = zeros.len() / 2;
    if window.str("auto_pad").is_some_and(|mode| mode != "NOTSET" && mode != "VALID") {
        return Err("the layer chooses its own padding");
    }
    if window.is("AveragePool") && window.int("count_include_pad").unwrap_or(0) == 0 {
        return Err("the pool does not count its padding");
    }
    if window.is("MaxPool") && !never_negative(m, "x") {
        return Err("zeros may be larger than what they surround");
    }
    if window.int("ceil_mode").unwrap_or(0) != 0 {
        return Err("the pool rounds up");
    }
    let outer = |k: usize| k % rank.max(1) < 2;
    if rank < 3 || zeros.iter().enumerate().any(|(k, n)| *n < 0 || outer(k) && *n != 0) {
        return Err("the padding is not only around the spatial axes");
    }
    let spatial = rank - 2;
    let own = window.ints("pads").map_or_else(|| vec![0; 2 * spatial], <[i64]>::to_vec);
    if own.len() != 2 * spatial || own.iter().any(|n| *n < 0) {
        return Err("");
    }
    let added = (0..2 * spatial).map(|k| zeros[k / spatial * rank + 2 + k % spatial]);
    let pads: Vec<i64> = own.iter().zip(added).map(|(own, added)| own + added).collect();
    // VALID means no padding at all.
    Ok(Bindings::default().attr("auto_pad", "NOTSET").attr("pads", pads))
}

/// A pool whose padding is as wide as its window would be of nothing; ONNX Runtime refuses it.
fn narrower(m: &Match<'_>) -> Result<Bindings, Miss> {
    let window = m.op("y").and_then(|op| op.ints("kernel_shape")).ok_or("")?;
    let zeros = zeros(m)?;
    let spatial = zeros.len().saturating_sub(4) / 2;
    let own =
        |k: usize| m.op("y").and_then(|op| op.ints("pads")).and_then(|p| p.get(k).copied()).unwrap_or(0);
    let fits = (0..2 * spatial).all(|k| {
        let added = zeros[k / spatial * (spatial + 2) + 2 + k % spatial];
        window.get(k % spatial).is_some_and(|n| own(k) + added < *n)
    });
    if fits { padded(m) } else { Err("the padding is wider than the window") }
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "pad-into-conv",
        lhs: "h = Pad(x, $p?, $v?)  y = Conv(h, w, b?)",
        rhs: "y = Conv(x, w, b)",
        bind: padded,
    },
    Rule {
        name: "pad-into-average-pool",
        lhs: "h = Pad(x, $p?, $v?)  y = AveragePool(h)",
        rhs: "y = AveragePool(x)",
        bind: narrower,
    },
    Rule {
        name: "pad-into-max-pool",
        lhs: "h = Pad(x, $p?, $v?)  y = MaxPool(h)",
        rhs: "y = MaxPool(x)",
        bind: narrower,
    },
];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
        passes::{Context, Pass, simplify::Simplify},
    };

    /// ONNX Runtime moves any zeros into MaxPool, so that its outputs tell nothing here.
    #[test]
    fn zeros_move_into_max_pool_only_around_what_is_not_negative() {
        for (before, left) in [("Relu", 2), ("Tanh", 3)] {
            let mut g = Graph::new("g");
            let x = g.add_input("x", Type::tensor(DType::F32, [1, 2, 4, 4].map(Into::into)));
            let r = g.add_node(Op::new(before, "r"), &[x], "r", None);
            let pads = g.add_initializer("pads", Tensor::ints([0, 0, 1, 1, 0, 0, 1, 1]));
            let p = g.add_node(Op::new("Pad", "p"), &[r, pads], "p", None);
            let pool = Op::new("MaxPool", "m").with("kernel_shape", vec![3, 3]);
            let y = g.add_node(pool, &[p], "y", None);
            g.outputs.push(y);
            let opset = OpsetImport { version: 17, ..OpsetImport::default() };
            let mut model = Model { graph: g, ir_version: 8, opsets: vec![opset], ..Model::default() };
            let _changed = Simplify::default().run(&mut model, &mut Context::new()).unwrap();
            assert_eq!(model.graph.ops().count(), left, "after {before}");
        }
    }
}
