//! Constant folding: cheap evaluators for shape arithmetic and for moving weights about.
//!
//! [`evaluate`] computes an op whose inputs are all known, exactly as ONNX defines it, or says `None`: the operator is
//! not covered, an attribute or input does not fit, or the work is too large to be done here (what is constant but
//! `None` is the runtime's to fold). It never guesses and never panics on a malformed op.

mod arith;
pub(crate) mod index;
pub(crate) mod moves;
pub(crate) mod numbers;
mod reals;
#[cfg(test)]
mod tests;

use crate::ir::{Attr, Op, Tensor};
use bytes::Bytes;
pub use reals::reals;

/// One evaluation: an op and what it is given.
#[derive(Clone, Copy)]
struct Call<'a> {
    op: &'a Op,
    opset: i64,
    inputs: &'a [Option<&'a Tensor>],
    outputs: usize,
}

impl<'a> Call<'a> {
    fn input(&self, slot: usize) -> Option<&'a Tensor> {
        self.inputs.get(slot).copied().flatten()
    }
    /// A list that older opsets give as an attribute and newer ones as an input.
    fn ints(&self, attribute: &str, slot: usize) -> Option<Vec<i64>> {
        match self.op.ints(attribute) {
            Some(list) => Some(list.to_vec()),
            None => self.input(slot)?.to_i64(),
        }
    }
}

/// The outputs of an op for these inputs, one for each of `outputs` slots; `None` where this is not covered here.
/// `opset` is the version of ONNX's operator set that the op is read by.
pub fn evaluate(op: &Op, opset: i64, inputs: &[Option<&Tensor>], outputs: usize) -> Option<Vec<Tensor>> {
    if !op.is_standard() || op.attrs.iter().any(|a| matches!(a.value, Attr::Reference(..))) {
        return None;
    }
    let c = &Call { op, opset, inputs, outputs };
    let out = match &*op.op_type {
        "Constant" => constant(op)?,
        "Shape" => shape(c)?,
        "Size" => vec![Tensor::scalar(i64::try_from(c.input(0)?.len()).ok()?)],
        "Identity" => moves::identity(c)?,
        "Reshape" => moves::reshape(c)?,
        "Flatten" => moves::flatten(c)?,
        "Squeeze" => moves::squeeze(c)?,
        "Unsqueeze" => moves::unsqueeze(c)?,
        "Transpose" => moves::transpose(c)?,
        "Expand" => moves::expand(c)?,
        "Tile" => moves::tile(c)?,
        "Concat" => moves::concat(c)?,
        "Slice" => moves::slice(c)?,
        "Split" => moves::split(c)?,
        "Gather" => moves::gather(c)?,
        "ConstantOfShape" => moves::constant_of_shape(c)?,
        "Where" => moves::where_(c)?,
        "Add" | "Sub" | "Mul" | "Div" | "Mod" => arith::binary(c)?,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" => {
            arith::compare(c)?
        }
        "Min" | "Max" => arith::extreme(c)?,
        "Neg" | "Abs" | "Not" | "Floor" | "Ceil" | "Sqrt" => arith::unary(c)?,
        "Cast" | "CastLike" => arith::cast(c)?,
        "Range" => arith::range(c)?,
        "ReduceSum" | "ReduceProd" | "ReduceMin" | "ReduceMax" => arith::reduce(c)?,
        "NonZero" => arith::non_zero(c)?,
        _ => return None,
    };
    (out.len() == outputs).then_some(out)
}

/// A Constant's tensor, in whichever attribute it is written.
fn constant(op: &Op) -> Option<Vec<Tensor>> {
    let strings = |shape: Vec<usize>, v: &[Bytes]| Tensor::strings(shape, v.to_vec()).ok();
    Some(vec![op.attrs.iter().find_map(|a| match (&*a.name, &a.value) {
        ("value", Attr::Tensor(t)) => Some(t.clone()),
        ("value_float", Attr::Float(x)) => Some(Tensor::scalar(*x)),
        ("value_floats", Attr::Floats(v)) => Some(Tensor::from_vec([v.len()], v.clone())),
        ("value_int", Attr::Int(x)) => Some(Tensor::scalar(*x)),
        ("value_ints", Attr::Ints(v)) => Some(Tensor::ints(v.iter().copied())),
        ("value_string", Attr::String(s)) => strings(vec![], std::slice::from_ref(s)),
        ("value_strings", Attr::Strings(v)) => strings(vec![v.len()], v),
        _ => None,
    })?])
}

fn shape(c: &Call<'_>) -> Option<Vec<Tensor>> {
    let dims: Vec<i64> = c.input(0)?.shape().iter().map(|d| i64::try_from(*d).ok()).collect::<Option<_>>()?;
    Some(vec![Tensor::ints(dims[shape_range(c.op, dims.len())].iter().copied())])
}

/// The dimensions that a Shape op gives of a tensor of that rank.
pub(crate) fn shape_range(op: &Op, rank: usize) -> std::ops::Range<usize> {
    let n = i64::try_from(rank).unwrap_or(i64::MAX);
    let clamp = |x: i64| (if x < 0 { x.saturating_add(n) } else { x }).clamp(0, n) as usize;
    let (start, end) = (clamp(op.int("start").unwrap_or(0)), clamp(op.int("end").unwrap_or(n)));
    start..end.max(start)
}
