//! Axis rules that need more than a line: broadcasting, reductions, and operators that move or cut axes.

use super::{
    factor::{Factor, Factors, WORKED_ALONG},
    flow::Flow,
    indexed, repeat, reshape,
    rewrite::{Extent, Rewrite},
    scaled, slice,
};
use crate::ir::{Dim, OpId, Use};
use crate::ops::fold::moves::permutation;

/// Operators of several operands whose axes all correspond. Any other takes one operand and parameters (shapes, axes,
/// bounds), whose elements have meanings of their own.
#[rustfmt::skip]
const READS_ALL: &[&str] = &[
    "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Pow", "Where", "Max", "Min", "PRelu", "Mod", "And", "Or", "Xor", "Equal",
    "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    "Gemm", "LayerNormalization", "RMSNormalization", "Concat", "Gather", "GatherElements", "GatherND",
    "ScatterElements", "ScatterND", "QuantizeLinear", "DequantizeLinear", "CastLike", "ReverseSequence",
];

/// Applies the rule of an op's operator. `None`: there is none, or this op is not of the form it covers.
pub(super) fn apply(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    operands(flow, op)?;
    if !READS_ALL.contains(&flow.graph.op(op).op_type.as_str()) {
        for v in flow.graph.inputs_of(op).into_iter().skip(1).flatten() {
            flow.freeze_value(v, "a parameter of an operator");
        }
    }
    Some(())
}
fn operands(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    match flow.graph.op(op).op_type.as_str() {
        "Relu" | "LeakyRelu" | "Sigmoid" | "Tanh" | "Erf" | "Clip" | "Dropout" | "Identity" | "Sqrt"
        | "Exp" | "Log" | "Neg" | "Cast" | "HardSwish" | "HardSigmoid" | "Gelu" | "Elu" | "Selu" | "Celu"
        | "Softplus" | "Softsign" | "Mish" | "ThresholdedRelu" | "Abs" | "Reciprocal" | "Floor" | "Ceil"
        | "Round" | "Sign" | "Not" | "Swish" | "Sin" | "Cos" | "Tan" | "Sinh" | "Cosh" | "Asin" | "Acos"
        | "Atan" | "Asinh" | "Acosh" | "Atanh" | "IsNaN" | "IsInf" | "BitwiseNot" | "Shrink" => {
            unary(flow, op)
        }
        "Gemm" => gemm(flow, op),
        // Of what a value is cast like, the type alone counts.
        "CastLike" => unary(flow, op),
        "MeanVarianceNormalization" => mean_variance(flow, op),
        "LayerNormalization" | "RMSNormalization" => layer_norm(flow, op),
        "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" => softmax(flow, op),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" | "ArgMax" | "ArgMin" => reduce(flow, op),
        "Transpose" => transpose(flow, op),
        "Concat" => concat(flow, op),
        "Split" => split(flow, op),
        "Slice" => slice::slice(flow, op),
        "Gather" => indexed::gather(flow, op),
        "GatherElements" => indexed::gather_elements(flow, op),
        "GatherND" => indexed::gather_nd(flow, op),
        "ScatterElements" => indexed::scatter_elements(flow, op),
        "ScatterND" => indexed::scatter_nd(flow, op),
        "TopK" => indexed::top_k(flow, op),
        "OneHot" => indexed::one_hot(flow, op),
        "CumSum" => indexed::cumulative(flow, op),
        "Trilu" => indexed::triangle(flow, op),
        "ReverseSequence" => indexed::reversed(flow, op),
        "Tile" => repeat::tile(flow, op),
        "DepthToSpace" => repeat::depth_to_space(flow, op),
        "SpaceToDepth" => repeat::space_to_depth(flow, op),
        "QuantizeLinear" | "DequantizeLinear" => scaled::scaled(flow, op),
        "Pad" => pad(flow, op),
        "Resize" | "Upsample" => resize(flow, op),
        "Expand" => expand(flow, op),
        "ConstantOfShape" => constant_of_shape(flow, op),
        "Reshape" => reshape::reshape(flow, op),
        "Flatten" => reshape::flatten(flow, op),
        "Squeeze" | "Unsqueeze" => reshape::squeeze(flow, op),
        "Shape" => shape(flow, op),
        "Constant" => {
            flow.output(op, 0)?
                .iter()
                .for_each(|f| flow.arena.freeze(*f, "a constant that is no initializer"));
            Some(())
        }
        name if READS_ALL.contains(&name) => elementwise(flow, op),
        _ => None,
    }
}

/// An axis number as written, counted from the left.
pub(super) fn axis(n: i64, rank: usize) -> Option<usize> {
    let n = if n < 0 { n + rank as i64 } else { n };
    usize::try_from(n).ok().filter(|n| *n < rank)
}

/// Lines up axes from the right; an axis of extent 1 repeats and corresponds to none.
pub(super) fn broadcast(flow: &mut Flow<'_>, dims: &[Factor], out: &[Factor]) {
    for (x, y) in dims.iter().rev().zip(out.iter().rev()) {
        if flow.arena.size(*x) != Some(1) || flow.arena.size(*y) == Some(1) {
            flow.arena.unify(*x, *y);
        }
    }
}
pub(super) fn same(flow: &mut Flow<'_>, a: &[Factor], b: &[Factor]) -> Option<()> {
    if a.len() != b.len() {
        return None;
    }
    a.iter().zip(b).for_each(|(x, y)| flow.arena.unify(*x, *y));
    Some(())
}
/// Input and output of equal shape; outputs without a known shape (an unused mask) do not matter.
pub(super) fn unary(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    same(flow, &x, &y)?;
    if let Some(mask) = flow.output(op, 1) {
        same(flow, &x, &mask)?;
    }
    Some(())
}
fn elementwise(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    // The form before opset 7 lines axes up as an attribute says.
    if flow.graph.op(op).attr("broadcast").is_some() {
        return None;
    }
    let y = flow.output(op, 0)?;
    for v in flow.graph.inputs_of(op).into_iter().flatten() {
        let dims = flow.dims(v)?;
        broadcast(flow, &dims, &y);
    }
    Some(())
}
pub(super) fn gemm(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (a, b, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let ([a0, a1], [b0, b1], [y0, y1]) = (&a[..], &b[..], &y[..]) else { return None };
    let node = flow.graph.op(op);
    let turned = |name| node.int(name).unwrap_or(0) != 0;
    let (m, k) = if turned("transA") { (a1, a0) } else { (a0, a1) };
    let (k2, n) = if turned("transB") { (b1, b0) } else { (b0, b1) };
    flow.arena.unify(*m, *y0);
    flow.arena.unify(*k, *k2);
    flow.arena.unify(*n, *y1);
    if let Some(c) = flow.graph.input(op, 2) {
        let c = flow.dims(c)?;
        broadcast(flow, &c, &y);
    }
    Some(())
}
fn layer_norm(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    if flow.graph.outputs_of(op).iter().skip(1).any(Option::is_some) {
        return None;
    }
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let first = axis(flow.graph.op(op).int("axis").unwrap_or(-1), x.len())?;
    same(flow, &x, &y)?;
    x[first..].iter().for_each(|f| flow.arena.mark_statistic(*f));
    for slot in [1, 2] {
        if let Some(v) = flow.graph.input(op, slot) {
            let dims = flow.dims(v)?;
            broadcast(flow, &dims, &x);
        }
    }
    Some(())
}
fn mean_variance(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    same(flow, &x, &y)?;
    for n in flow.graph.op(op).ints("axes").unwrap_or(&[0, 2, 3]) {
        flow.arena.mark_statistic(x[axis(*n, x.len())?]);
    }
    Some(())
}
fn softmax(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    same(flow, &x, &y)?;
    let node = flow.graph.op(op);
    // Before opset 13 all axes from `axis` on are normalised together.
    let together = flow.opset < 13 && node.op_type != "LpNormalization";
    let first = axis(node.int("axis").unwrap_or(if together { 1 } else { -1 }), x.len())?;
    let last = if together { x.len() } else { first + 1 };
    x[first..last].iter().for_each(|f| flow.arena.mark_statistic(*f));
    Some(())
}
fn reduce(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let node = flow.graph.op(op);
    let written = match (node.ints("axes"), node.op_type.starts_with("Arg")) {
        (_, true) => vec![node.int("axis").unwrap_or(0)],
        (Some(axes), _) => axes.to_vec(),
        (None, _) if flow.graph.input(op, 1).is_some() => flow.ints(op, 1)?,
        _ if node.int("noop_with_empty_axes") == Some(1) => return same(flow, &x, &y),
        _ => (0..x.len() as i64).collect(),
    };
    let axes: Vec<usize> = written.iter().map(|n| axis(*n, x.len())).collect::<Option<_>>()?;
    let keep = node.int("keepdims").unwrap_or(1) != 0;
    let mut out = y.iter();
    for (k, f) in x.iter().enumerate() {
        if axes.contains(&k) {
            flow.arena.mark_statistic(*f);
            if node.op_type.starts_with("Arg") {
                flow.arena.freeze(*f, "positions along it are results");
            }
            if keep {
                out.next()?;
            }
        } else {
            flow.arena.unify(*f, *out.next()?);
        }
    }
    Some(())
}
fn transpose(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let perm = permutation(flow.graph.op(op), x.len())?;
    for (y, k) in y.iter().zip(perm) {
        flow.arena.unify(*y, x[k]);
    }
    Some(())
}
/// One axis of `whole` is the concatenation of the parts' axes, the others are equal.
fn joined(flow: &mut Flow<'_>, whole: &[Factor], parts: &[Factors], at: usize) -> Option<()> {
    if parts.iter().any(|p| p.len() != whole.len()) {
        return None;
    }
    for (k, f) in whole.iter().enumerate() {
        if k == at {
            let along: Factors = parts.iter().map(|p| p[k]).collect();
            if along.iter().any(|p| flow.arena.size(*p).is_none()) {
                along.iter().chain([f]).for_each(|f| flow.arena.freeze(*f, "its extent is not known"));
            } else {
                let along = flow.arena.concat(&along);
                flow.arena.unify(*f, along);
            }
        } else {
            parts.iter().for_each(|p| flow.arena.unify(p[k], *f));
        }
    }
    Some(())
}
fn concat(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let y = flow.output(op, 0)?;
    let at = axis(flow.graph.op(op).int("axis").unwrap_or(1), y.len())?;
    let parts: Vec<Factors> =
        flow.graph.inputs_of(op).into_iter().map(|v| flow.dims(v?)).collect::<Option<_>>()?;
    joined(flow, &y, &parts, at)
}
fn split(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let x = flow.input(op, 0)?;
    let at = axis(flow.graph.op(op).int("axis").unwrap_or(0), x.len())?;
    if flow.graph.input(op, 1).is_some() {
        flow.ints(op, 1)?;
    }
    let parts: Vec<Factors> =
        flow.graph.outputs_of(op).into_iter().map(|v| flow.dims(v?)).collect::<Option<_>>()?;
    joined(flow, &x, &parts, at)?;
    let extents = parts.iter().map(|p| Extent::of(p[at])).collect();
    flow.rewrites.push(Rewrite::Split { op, extents, as_input: flow.opset >= 13 });
    Some(())
}
fn pad(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let node = flow.graph.op(op);
    let pads = match node.ints("pads").or(node.ints("paddings")) {
        Some(pads) => pads.to_vec(),
        None => flow.ints(op, 1)?,
    };
    if flow.graph.input(op, 3).is_some() || pads.len() != 2 * x.len() || y.len() != x.len() {
        return None;
    }
    for k in 0..x.len() {
        if pads[k] == 0 && pads[k + x.len()] == 0 {
            flow.arena.unify(x[k], y[k]);
        } else {
            flow.arena.freeze(x[k], "padded");
            flow.arena.freeze(y[k], "padded");
        }
    }
    Some(())
}
fn resize(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    if x.len() != y.len() || flow.graph.op(op).attr("axes").is_some() {
        return None;
    }
    let sized = flow.graph.op(op).is("Resize") && flow.graph.input(op, 3).is_some();
    let sizes = if sized { flow.ints(op, 3)? } else { Vec::new() };
    for (k, (x, y)) in x.iter().zip(&y).enumerate() {
        if k > 1 {
            flow.arena.freeze(*x, WORKED_ALONG);
            flow.arena.freeze(*y, WORKED_ALONG);
        } else {
            flow.arena.unify(*x, *y);
        }
    }
    if sized && sizes.len() == y.len() {
        let extents = sizes.iter().zip(&y).enumerate();
        let extents =
            extents.map(|(k, (n, f))| if k == 1 { Extent::of(*f) } else { Extent::Keep(*n) }).collect();
        flow.rewrites.push(Rewrite::Input { op, slot: 3, extents });
    }
    Some(())
}
/// The extents that are read must stay; where Gathers pick some by constant positions, the others are free.
fn shape(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.graph.output(op, 0)?);
    flow.freeze_value(y, "its positions stand for axes");
    let mut read: Vec<bool> =
        vec![flow.graph.is_output(y) || flow.graph.op(op).attr("start").is_some(); x.len()];
    for at in flow.graph.uses(y) {
        let picks = matches!(at, Use::Input(gather, 0) if flow.graph.op(gather).is("Gather"));
        let positions = flow.ints(at.op(), 1).filter(|_| picks);
        match positions.and_then(|ks| ks.iter().map(|k| axis(*k, x.len())).collect::<Option<Vec<_>>>()) {
            Some(positions) => positions.into_iter().for_each(|k| read[k] = true),
            None => read.fill(true),
        }
    }
    for (f, _) in x.iter().zip(read).filter(|(_, read)| *read) {
        flow.arena.freeze(*f, "its extent is computed with");
    }
    Some(())
}
fn expand(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let shape = flow.graph.input(op, 1)?;
    let described = match flow.graph.shape(shape)?[..] {
        [Dim::Known(n)] => &y[y.len().checked_sub(n)?..],
        _ => return None,
    };
    if reshape::shape_input(flow, op, 1, described).is_none() {
        // What is written as 1 stays as it is in the operand, however the rest is computed.
        let written = reshape::written(flow, shape, described.len()).unwrap_or_default();
        for (k, f) in described.iter().enumerate() {
            if written.get(k) != Some(&Some(1)) {
                flow.arena.freeze(*f, "its extent is computed");
            }
        }
    }
    broadcast(flow, &x, &y);
    Some(())
}
/// Every position holds the same.
fn constant_of_shape(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (shape, y) = (flow.graph.input(op, 0)?, flow.output(op, 0)?);
    flow.freeze_value(shape, "a parameter of an operator");
    reshape::shape_input(flow, op, 0, &y)
}
