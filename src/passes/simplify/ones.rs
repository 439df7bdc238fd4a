//! Axes of one element move freely: where they stand does not change the order of elements.
//!
//! A Transpose that moves nothing else is a Reshape, so beside a Reshape it is part of that. A Reshape that moves nothing
//! else is a Transpose, so beside a Transpose of as many axes it is part of that. And a reduction that is followed by a
//! Reshape to what it would give with `keepdims` the other way round gives that itself.

use super::{layout::result_shape, recognize::axes_of};
use crate::{
    ir::{Dim, Shape},
    ops::fold::{index, moves::permutation as permutation_of},
    passes::rules::{Bindings, Match, Miss, Rule},
};

fn known(m: &Match<'_>, name: &str) -> Result<Shape, Miss> {
    m.ty(name).and_then(|t| t.shape).ok_or("")
}
/// The axes that may have more than one element.
fn wide(shape: &[Dim]) -> impl Iterator<Item = usize> {
    shape.iter().enumerate().filter(|(_, d)| **d != Dim::Known(1)).map(|(axis, _)| axis)
}
/// Whether one shape is the other but for extents of one.
fn alike(a: &[Dim], b: &[Dim]) -> bool {
    wide(a).map(|k| &a[k]).eq(wide(b).map(|k| &b[k])) && !a.contains(&Dim::Unknown)
}

/// The permutation that gives `y` from `x`, whose wide axes come in this order.
fn permutation(x: &[Dim], y: &[Dim], order: &[usize]) -> Option<Vec<i64>> {
    let mut order = order.iter();
    let mut ones = (0..x.len()).filter(|k| x[*k] == Dim::Known(1));
    let from = y.iter().map(|d| if *d == Dim::Known(1) { ones.next() } else { order.next().copied() });
    let perm = from.map(|k| Some(k? as i64)).collect::<Option<Vec<i64>>>()?;
    (x.len() == y.len() && perm.len() == x.len()).then_some(perm)
}

fn ascending(order: &[usize]) -> bool {
    order.windows(2).all(|w| w[0] < w[1])
}

/// The wide axes of `x` in the order in which `y` has them, where the Reshape among the two ops moves no others.
fn order(m: &Match<'_>) -> Result<Vec<usize>, Miss> {
    let (x, h) = (known(m, "x")?, known(m, "h")?);
    let (input, output, name) = match m.op("h").is_some_and(|op| op.is("Transpose")) {
        true => (h, known(m, "y")?, "h"),
        false => (x.clone(), h, "y"),
    };
    if !alike(&input, &output) {
        return Err("");
    }
    let turned = if name == "h" { &x } else { &output };
    let perm = m.op(name).and_then(|op| permutation_of(op, turned.len())).ok_or("")?;
    let of_x: Vec<usize> = wide(&x).collect();
    let of_turned: Vec<usize> = wide(turned).collect();
    let places = perm.iter().filter_map(|k| of_turned.iter().position(|t| t == k));
    places.map(|place| of_x.get(place).copied().ok_or("")).collect()
}

/// Transpose and Reshape as one Transpose.
fn as_transpose(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (x, y, order) = (known(m, "x")?, known(m, "y")?, order(m)?);
    if ascending(&order) {
        return Err("");
    }
    Ok(Bindings::default().attr("perm", permutation(&x, &y, &order).ok_or("")?))
}

/// Transpose and Reshape as one Reshape, whatever the latter moves.
fn as_reshape(m: &Match<'_>) -> Result<Bindings, Miss> {
    let turned = if m.op("h").is_some_and(|op| op.is("Transpose")) { "h" } else { "y" };
    let input = known(m, if turned == "h" { "x" } else { "h" })?;
    let perm = m.op(turned).and_then(|op| permutation_of(op, input.len())).ok_or("")?;
    let order: Vec<usize> = perm.into_iter().filter(|k| input[*k] != Dim::Known(1)).collect();
    if m.opset < 5 || !ascending(&order) { Err("") } else { result_shape(m) }
}

/// A reduction and the Reshape that puts back or takes away its axes.
fn other_rank(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (x, y) = (known(m, "x")?, known(m, "y")?);
    let keeps = m.op("h").and_then(|op| op.int("keepdims")).unwrap_or(1) != 0;
    let axes = axes_of(m, "h", "axes").map_err(|_| "")?;
    let axes =
        axes.map_or_else(|| Some((0..x.len()).collect()), |axes| index::axes(&axes, x.len())).ok_or("")?;
    let gone = |k: &usize| axes.contains(k);
    let other: Shape = match keeps {
        true => (0..x.len()).filter(|k| !gone(k)).map(|k| x[k].clone()).collect(),
        false => (0..x.len()).map(|k| if gone(&k) { Dim::Known(1) } else { x[k].clone() }).collect(),
    };
    if other != y || other.contains(&Dim::Unknown) {
        return Err("");
    }
    Ok(Bindings::default().attr("keepdims", i64::from(!keeps)))
}

macro_rules! reductions {
    ($($op:literal)*) => { &[$(
        Rule {
            name: "reduction-to-rank",
            lhs: concat!("h = ", $op, "(x, $axes?)  y = Reshape(h, t) | Squeeze(h, $t?) | Unsqueeze(h, $t?) | Flatten(h)"),
            rhs: concat!("y = ", $op, "(x, axes)"),
            bind: other_rank,
        },
    )*] };
}

pub(super) const REDUCTIONS: &[Rule] = reductions! {
    "ReduceMean" "ReduceSum" "ReduceMax" "ReduceMin" "ReduceProd" "ReduceL1" "ReduceL2" "ReduceSumSquare"
    "ReduceLogSum" "ReduceLogSumExp"
};

const TRANSPOSE_FIRST: &str =
    "h = Transpose(x)  y = Reshape(h, t) | Squeeze(h, $t?) | Unsqueeze(h, $t?) | Flatten(h)";
const RESHAPE_FIRST: &str =
    "h = Reshape(x, t) | Squeeze(x, $t?) | Unsqueeze(x, $t?) | Flatten(x)  y = Transpose(h)";

pub(super) const RULES: &[Rule] = &[
    Rule { name: "transpose-of-ones", lhs: TRANSPOSE_FIRST, rhs: "y = Reshape(x, shape)", bind: as_reshape },
    Rule { name: "transpose-of-ones", lhs: RESHAPE_FIRST, rhs: "y = Reshape(x, shape)", bind: as_reshape },
    Rule { name: "reshape-of-ones", lhs: TRANSPOSE_FIRST, rhs: "y = Transpose(x)", bind: as_transpose },
    Rule { name: "reshape-of-ones", lhs: RESHAPE_FIRST, rhs: "y = Transpose(x)", bind: as_transpose },
];
