//! Ops that give back what they take: `f(x) = x`.

use super::layout::transposed;
use crate::{
    ir::Tensor,
    passes::rules::{Bindings, Match, Miss, Rule},
};

fn always(_: &Match<'_>) -> Result<Bindings, Miss> {
    Ok(Bindings::default())
}
/// The result has the very type of `x`, all dimensions known.
fn same(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.same_type("x", "y") { Ok(Bindings::default()) } else { Err("") }
}
/// A constant of equal elements `c`, which broadcasts nothing: one element and no more dimensions than `x` has.
fn neutral(m: &Match<'_>, c: f32) -> Result<Bindings, Miss> {
    let t = m.tensor("c").ok_or("")?;
    if t.view::<f64>().is_some_and(|v| v.iter().any(|v| *v != f64::from(c))) {
        return Err("");
    }
    let value = t.scalar_f32().or_else(|| t.scalar_i64().map(|v| v as f32));
    if value != Some(c) {
        return Err("");
    }
    match m.ty("x").and_then(|x| x.rank()) {
        _ if t.rank() == 0 => always(m),
        Some(rank) if t.rank() <= rank => always(m),
        Some(_) => Err("the constant adds dimensions"),
        None => Err("the constant may add dimensions: the rank of the other input is not known"),
    }
}
fn one(m: &Match<'_>) -> Result<Bindings, Miss> {
    neutral(m, 1.0)
}
fn zero(m: &Match<'_>) -> Result<Bindings, Miss> {
    neutral(m, 0.0)
}
fn identity_permutation(m: &Match<'_>) -> Result<Bindings, Miss> {
    let perm = transposed(m, "y").ok_or("")?;
    if perm.iter().copied().eq(0..perm.len()) { always(m) } else { Err("") }
}
/// Dropout without a training mode input passes its input on; before version 7 an attribute says so.
fn inference(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 && m.op("y").and_then(|op| op.int("is_test")) != Some(1) {
        return Err("dropout in training mode");
    }
    if all(m, "training", 0) { always(m) } else { Err("dropout in training mode") }
}
/// Every element of an optional integer constant is `n`.
fn all(m: &Match<'_>, name: &str, n: i64) -> bool {
    let ints = m.value(name).map(|_| m.tensor(name).and_then(|t| t.to_i64()));
    ints.is_none_or(|v| v.is_some_and(|v| v.iter().all(|x| *x == n)))
}
fn same_dtype(m: &Match<'_>) -> Result<Bindings, Miss> {
    let to = m.op("y").and_then(|op| op.int("to")).ok_or("")?;
    let from = m.ty("x").and_then(|t| t.dtype).ok_or("")?;
    if i64::from(from.onnx()) == to { always(m) } else { Err("") }
}
/// Steps other than 1 can reorder and still keep the shape.
fn whole(m: &Match<'_>) -> Result<Bindings, Miss> {
    if all(m, "step", 1) { same(m) } else { Err("") }
}
/// Before version 11 the pads are an attribute.
fn zero_pads(m: &Match<'_>) -> Result<Bindings, Miss> {
    let zero = match m.op("y").and_then(|op| op.ints("pads")) {
        Some(pads) => pads.iter().all(|n| *n == 0),
        None => m.value("pads").is_some() && all(m, "pads", 0),
    };
    if zero { always(m) } else { Err("") }
}
/// A window of one element that visits every element.
fn window_of_one(m: &Match<'_>) -> Result<Bindings, Miss> {
    let op = m.op("y").ok_or("")?;
    let each = |name, n| op.ints(name).is_none_or(|list| list.iter().all(|k| *k == n));
    let padded = op.str("auto_pad").is_some_and(|mode| mode.starts_with("SAME"));
    if each("kernel_shape", 1) && each("strides", 1) && each("pads", 0) && !padded {
        always(m)
    } else {
        Err("")
    }
}
fn unbounded(m: &Match<'_>) -> Result<Bindings, Miss> {
    let op = m.op("y").ok_or("")?;
    if op.attr("min").is_none() && op.attr("max").is_none() { always(m) } else { Err("") }
}
fn tile_once(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset >= 6 && all(m, "n", 1) { always(m) } else { Err("") }
}

/// A Where whose condition is the same everywhere, and whose choice is not broadcast.
fn chosen(m: &Match<'_>, name: &str, wanted: bool) -> Result<Bindings, Miss> {
    let test = m.tensor("test").and_then(|t| t.to_i64()).ok_or("")?;
    let decided = !test.is_empty() && test.iter().all(|t| (*t != 0) == wanted);
    if decided && m.same_type(name, "y") { always(m) } else { Err("") }
}
fn chosen_first(m: &Match<'_>) -> Result<Bindings, Miss> {
    chosen(m, "a", true)
}
fn chosen_second(m: &Match<'_>) -> Result<Bindings, Miss> {
    chosen(m, "b", false)
}
/// Scales of one, and coordinates that they leave where they are.
fn unscaled(m: &Match<'_>) -> Result<Bindings, Miss> {
    let moves = ["tf_crop_and_resize", "tf_half_pixel_for_nn"];
    let op = m.op("y").ok_or("")?;
    if op.str("coordinate_transformation_mode").is_some_and(|mode| moves.contains(&mode)) {
        return Err("");
    }
    match m.tensor("scales").and_then(Tensor::to_f32) {
        Some(scales) if !scales.is_empty() => {
            if scales.iter().all(|s| *s == 1.0) {
                always(m)
            } else {
                Err("")
            }
        }
        _ if m.value("sizes").is_some() => same(m),
        _ => Err(""),
    }
}
/// Ops that give back what they once gave.
const IDEMPOTENT: &[&str] = &["Abs", "Relu", "Ceil", "Floor", "Round", "Sign"];
/// Ops whose results are never below zero.
const NOT_NEGATIVE: &[&str] =
    &["Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"];

/// Whether a value has no element below zero.
pub(super) fn never_negative(m: &Match<'_>, name: &str) -> bool {
    m.op(name).is_some_and(|op| NOT_NEGATIVE.iter().any(|kind| op.is(kind)))
}

fn done_before(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (before, op) = (m.op("x").ok_or("")?, m.op("y").ok_or("")?);
    let again = before.is(&op.op_type) && IDEMPOTENT.iter().any(|kind| before.is(kind));
    if again || (op.is("Relu") || op.is("Abs")) && never_negative(m, "x") { always(m) } else { Err("") }
}

pub(super) const RULES: &[Rule] = &[
    Rule { name: "identity", lhs: "y = Identity(x)", rhs: "x", bind: always },
    Rule { name: "dropout", lhs: "y = Dropout(x, r?, $training?)", rhs: "x", bind: inference },
    Rule { name: "cast-to-same", lhs: "y = Cast(x)", rhs: "x", bind: same_dtype },
    Rule { name: "reshape-to-same", lhs: "y = Reshape(x, s)", rhs: "x", bind: same },
    Rule { name: "flatten-of-matrix", lhs: "y = Flatten(x)", rhs: "x", bind: same },
    Rule { name: "expand-to-same", lhs: "y = Expand(x, s)", rhs: "x", bind: same },
    Rule {
        name: "slice-of-everything",
        lhs: "y = Slice(x, from?, to?, axes?, $step?)",
        rhs: "x",
        bind: whole,
    },
    Rule { name: "pad-by-nothing", lhs: "y = Pad(x, $pads?, value?, axes?)", rhs: "x", bind: zero_pads },
    Rule { name: "tile-once", lhs: "y = Tile(x, $n)", rhs: "x", bind: tile_once },
    Rule { name: "transpose-identity", lhs: "y = Transpose(x)", rhs: "x", bind: identity_permutation },
    Rule { name: "concat-of-one", lhs: "y = Concat(x)", rhs: "x", bind: always },
    Rule { name: "sum-of-one", lhs: "y = Sum(x)", rhs: "x", bind: always },
    // Which runtimes and passes know more of.
    Rule { name: "sum-of-two", lhs: "y = Sum(a, b)", rhs: "y = Add(a, b)", bind: always },
    Rule { name: "mean-of-one", lhs: "y = Mean(x)", rhs: "x", bind: always },
    Rule { name: "max-of-one", lhs: "y = Max(x)", rhs: "x", bind: always },
    Rule { name: "min-of-one", lhs: "y = Min(x)", rhs: "x", bind: always },
    Rule { name: "times-one", lhs: "y = Mul(x, $c)", rhs: "x", bind: one },
    Rule { name: "divided-by-one", lhs: "y = Div(x, $c)", rhs: "x", bind: one },
    Rule { name: "to-the-power-of-one", lhs: "y = Pow(x, $c)", rhs: "x", bind: one },
    Rule { name: "plus-zero", lhs: "y = Add(x, $c)", rhs: "x", bind: zero },
    Rule { name: "minus-zero", lhs: "y = Sub(x, $c)", rhs: "x", bind: zero },
    Rule { name: "where-all-true", lhs: "y = Where($test, a, b)", rhs: "a", bind: chosen_first },
    Rule { name: "where-none-true", lhs: "y = Where($test, a, b)", rhs: "b", bind: chosen_second },
    Rule { name: "resize-to-same", lhs: "y = Resize(x, roi?, $scales?, $sizes?)", rhs: "x", bind: unscaled },
    Rule { name: "resize-to-same", lhs: "y = Resize(x, $scales)", rhs: "x", bind: unscaled },
    Rule { name: "upsample-to-same", lhs: "y = Upsample(x, $scales)", rhs: "x", bind: unscaled },
    Rule { name: "and-true", lhs: "y = And(x, $c)", rhs: "x", bind: one },
    Rule { name: "or-false", lhs: "y = Or(x, $c)", rhs: "x", bind: zero },
    Rule { name: "xor-false", lhs: "y = Xor(x, $c)", rhs: "x", bind: zero },
    Rule { name: "split-into-one", lhs: "y = Split(x, s?)", rhs: "x", bind: same },
    Rule { name: "sum-over-one", lhs: "y = ReduceSum(x, axes?)", rhs: "x", bind: same },
    Rule { name: "mean-over-one", lhs: "y = ReduceMean(x, axes?)", rhs: "x", bind: same },
    Rule { name: "max-over-one", lhs: "y = ReduceMax(x, axes?)", rhs: "x", bind: same },
    Rule { name: "min-over-one", lhs: "y = ReduceMin(x, axes?)", rhs: "x", bind: same },
    Rule { name: "pool-over-one", lhs: "y = GlobalAveragePool(x)", rhs: "x", bind: same },
    Rule { name: "pool-over-one", lhs: "y = GlobalMaxPool(x)", rhs: "x", bind: same },
    Rule { name: "pool-over-one", lhs: "y = AveragePool(x)", rhs: "x", bind: window_of_one },
    Rule { name: "pool-over-one", lhs: "y = MaxPool(x)", rhs: "x", bind: window_of_one },
    Rule { name: "clip-without-bounds", lhs: "y = Clip(x)", rhs: "x", bind: unbounded },
    Rule { name: "absolute-of-natural", lhs: "y = Abs(x)", rhs: "x", bind: done_before },
    Rule { name: "relu-of-natural", lhs: "y = Relu(x)", rhs: "x", bind: done_before },
    Rule { name: "ceil-again", lhs: "y = Ceil(x)", rhs: "x", bind: done_before },
    Rule { name: "floor-again", lhs: "y = Floor(x)", rhs: "x", bind: done_before },
    Rule { name: "round-again", lhs: "y = Round(x)", rhs: "x", bind: done_before },
    Rule { name: "sign-again", lhs: "y = Sign(x)", rhs: "x", bind: done_before },
    Rule { name: "not-of-not", lhs: "h* = Not(x)  y = Not(h)", rhs: "x", bind: always },
    Rule { name: "negative-of-negative", lhs: "h* = Neg(x)  y = Neg(h)", rhs: "x", bind: always },
];

#[cfg(test)]
mod tests {
    use crate::{
        ir::{DType, Graph, Model, Op, Tensor, Type},
        passes::{Changed, Context, Pass, simplify::Simplify},
    };

    /// x -> Identity -> Mul by `factor` -> Relu -> y
    fn chain(factor: Tensor) -> Model {
        let ty = Type::tensor(DType::F32, [2.into(), 3.into()]);
        let mut g = Graph::new("g");
        let x = g.add_input("x", ty.clone());
        let a = g.add_node(Op::new("Identity", "i"), &[x], "a", None);
        let c = g.add_node(Op::new("Constant", "k").with("value", factor), &[], "c", None);
        let b = g.add_node(Op::new("Mul", "m"), &[c, a], "b", None);
        let y = g.add_node(Op::new("Relu", "r"), &[b], "y", Some(ty));
        g.outputs.push(y);
        Model { graph: g, ir_version: 8, ..Model::default() }
    }
    #[test]
    fn what_does_nothing_goes_and_a_second_run_changes_nothing() {
        for (factor, left) in [
            (Tensor::scalar(1f32), 1),
            (Tensor::scalar(2f32), 2),
            (Tensor::from_vec([1, 1, 1], vec![1f32]), 2),
        ] {
            let mut model = chain(factor);
            let mut cx = Context::new();
            assert_eq!(Simplify::default().run(&mut model, &mut cx).unwrap(), Changed::Yes);
            model.verify().unwrap();
            assert_eq!(model.graph.ops().count(), left);
            assert_eq!(Simplify::default().run(&mut model, &mut cx).unwrap(), Changed::No);
        }
    }
}
