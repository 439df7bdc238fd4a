//! Normalizations:
//!
//! ```text
//! LayerNormalization(x) = (x - mean(x)) / √(mean((x - mean(x))²) + ε)       from operator set 17
//! RMSNormalization(x)   = x / √(mean(x²) + ε)                                              23
//! GroupNormalization(x) = InstanceNormalization of x with each group as one channel        21
//! ```
//!
//! The means are over the last axes, and their extents are known: the scale, all ones here, has their shape.

use super::reduction::axes_of;
use crate::{
    ir::{Dim, Tensor},
    ops::fold::index,
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The last axes that a mean keeps as extents of one, with those of `x`.
fn normalized(m: &Match<'_>, out: &str, input: &str) -> Result<(usize, Vec<usize>), Miss> {
    let shape = m.ty("x").and_then(|t| t.shape).ok_or("the rank of the input is not known")?;
    let keeps = m.op(out).is_some_and(|op| op.int("keepdims").unwrap_or(1) != 0);
    let axes = axes_of(m, out, input)?.unwrap_or_else(|| (0..shape.len() as i64).collect());
    let axes = index::axes(&axes, shape.len()).ok_or("")?;
    let first = *axes.first().ok_or("")?;
    if !keeps || !axes.iter().copied().eq(first..shape.len()) {
        return Err("the axes are not the last ones");
    }
    let extents = shape[first..].iter().map(Dim::known).collect::<Option<Vec<usize>>>();
    Ok((first, extents.ok_or("the normalized extents are not known")?))
}

/// Scale, axis and ε of a normalization over the last axes.
fn parts(m: &Match<'_>, axis: usize, extents: Vec<usize>) -> Result<Bindings, Miss> {
    let x = m.ty("x").ok_or("")?;
    let epsilon = m.tensor("eps").filter(|t| x.rank().is_some_and(|rank| t.rank() <= rank));
    let epsilon = epsilon.and_then(Tensor::scalar_f32).ok_or("ε is not one number")?;
    let ones = vec![1.0; extents.iter().product()];
    let scale =
        Tensor::from_f32(x.dtype.ok_or("")?, extents, ones).ok_or("the input is not floating point")?;
    // Counted from the end, the axis outlives a change of rank.
    let axis = axis as i64 - x.rank().unwrap_or(0) as i64;
    Ok(super::narrow(m)?.tensor("scale", scale).attr("axis", axis).attr("epsilon", epsilon))
}

fn layer_norm(m: &Match<'_>) -> Result<Bindings, Miss> {
    let (axis, extents) = normalized(m, "m", "i")?;
    if normalized(m, "v", "j")?.0 != axis {
        return Err("mean and variance are over different axes");
    }
    if m.opset < 17 {
        return Err("LayerNormalization needs operator set 17");
    }
    parts(m, axis, extents)
}

fn rms_norm(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 23 && m.op("x").is_some_and(|op| op.is("Sub")) {
        return Err(""); // most likely a LayerNormalization that was not recognized, for reasons of its own
    }
    let (axis, extents) = normalized(m, "v", "j")?;
    if m.opset < 23 {
        return Err("RMSNormalization needs operator set 23");
    }
    parts(m, axis, extents)
}

fn group_norm(m: &Match<'_>) -> Result<Bindings, Miss> {
    const MISS: Miss = "the groups are not whole channels";
    let shape = |name| m.ty(name).and_then(|t| t.shape).filter(|s| s.len() > 2).ok_or("");
    let (x, grouped) = (shape("x")?, shape("h")?);
    let (channels, groups) = (x[1].known().ok_or(MISS)?, grouped[1].known().ok_or(MISS)?);
    if x[0] == Dim::Unknown || x[0] != grouped[0] || !m.same_type("x", "y") {
        return Err(MISS);
    }
    if groups == 0 || channels == 0 || channels % groups != 0 {
        return Err(MISS);
    }
    if m.opset < 21 {
        return Err("GroupNormalization needs operator set 21");
    }
    let spread = |name| {
        let t = m.tensor(name).filter(|t| t.shape() == [groups]).ok_or("")?;
        let values = t.to_f32().ok_or("")?;
        let each = (0..channels).map(|c| values[c / (channels / groups)]).collect();
        Tensor::from_f32(t.dtype(), [channels], each).ok_or("")
    };
    let epsilon = m.op("n").and_then(|op| op.float("epsilon")).unwrap_or(1e-5);
    let found = super::narrow(m)?.tensor("scale", spread("g")?).tensor("shift", spread("b")?);
    Ok(found.attr("num_groups", groups as i64).attr("epsilon", epsilon))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "layer-norm",
        lhs: "m* = ReduceMean(x, $i?)  d* = Sub(x, m)  q = Mul(d, d) | Pow(d, 2)  v = ReduceMean(q, $j?)
              e = Add(v, $eps)  s = Sqrt(e) | Pow(e, 0.5)  r = Reciprocal(s) | Div(1, s) | Pow(e, -0.5)
              y = Div(d, s) | Mul(d, r)",
        rhs: "y = LayerNormalization(x, scale)",
        bind: layer_norm,
    },
    Rule {
        name: "rms-norm",
        lhs: "q = Mul(x, x) | Pow(x, 2)  v = ReduceMean(q, $j?)  e = Add(v, $eps)  s = Sqrt(e) | Pow(e, 0.5)
              r = Reciprocal(s) | Div(1, s) | Pow(e, -0.5)  y = Div(x, s) | Mul(x, r)",
        rhs: "y = RMSNormalization(x, scale)",
        bind: rms_norm,
    },
    Rule {
        name: "group-norm",
        lhs: "h = Reshape(x, s)  n = InstanceNormalization(h, $g, $b)  y = Reshape(n, t)",
        rhs: "y = GroupNormalization(x, scale, shift)",
        bind: group_norm,
    },
];
