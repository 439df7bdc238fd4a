//! Reductions of squares, absolute values and exponentials:
//!
//! ```text
//! ReduceSumSquare(x) = Σ x²      ReduceL2(x) = √(Σ x²)      ReduceL1(x) = Σ |x|
//! ReduceLogSumExp(x) = log(Σ eˣ)
//! ```
//!
//! The axes of ReduceSum are an input from operator set 13, those of the others from 18.

use crate::{
    ir::Tensor,
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The axes of a reduction as its op says them, none meaning all.
pub(in crate::passes::simplify) fn axes_of(
    m: &Match<'_>,
    out: &str,
    input: &str,
) -> Result<Option<Vec<i64>>, Miss> {
    let op = m.op(out).ok_or("")?;
    if op.int("noop_with_empty_axes").unwrap_or(0) != 0 {
        return Err("");
    }
    if let Some(axes) = op.ints("axes") {
        return Ok(Some(axes.to_vec()));
    }
    match m.value(input) {
        None => Ok(None),
        Some(_) => {
            let axes = m.tensor(input).and_then(Tensor::to_i64).ok_or("the axes are not constant")?;
            Ok(Some(axes).filter(|axes| !axes.is_empty()))
        }
    }
}

fn same_axes(m: &Match<'_>) -> Result<Bindings, Miss> {
    let found = super::narrow(m)?;
    let found = found.attr("keepdims", m.op("r").and_then(|op| op.int("keepdims")).unwrap_or(1));
    Ok(match axes_of(m, "r", "axes")? {
        Some(axes) if m.opset < 18 => found.attr("axes", axes),
        Some(axes) => found.tensor("over", Tensor::ints(axes)),
        None => found,
    })
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "reduce-l2",
        lhs: "q = Mul(x, x) | Pow(x, 2)  r = ReduceSum(q, $axes?) | ReduceSumSquare(x, $axes?)  y = Sqrt(r)",
        rhs: "y = ReduceL2(x, over)",
        bind: same_axes,
    },
    Rule {
        name: "reduce-log-sum-exp",
        lhs: "e = Exp(x)  r = ReduceSum(e, $axes?)  y = Log(r)",
        rhs: "y = ReduceLogSumExp(x, over)",
        bind: same_axes,
    },
    Rule {
        name: "reduce-sum-square",
        lhs: "q = Mul(x, x) | Pow(x, 2)  r = ReduceSum(q, $axes?)",
        rhs: "y = ReduceSumSquare(x, over)",
        bind: same_axes,
    },
    Rule {
        name: "reduce-l1",
        lhs: "q = Abs(x)  r = ReduceSum(q, $axes?)",
        rhs: "y = ReduceL1(x, over)",
        bind: same_axes,
    },
];
