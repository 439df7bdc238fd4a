//! What scales and shifts the result of a normalization moves into the normalization:
//!
//! ```text
//! (n(x)·g + b)·s + t = n(x)·(g·s) + (b·s + t)
//! ```
//!
//! with `s` and `t` constants over the axes that have their own `g`: for LayerNormalization and RMSNormalization the
//! last axes, for the others axis 1. RMSNormalization has no `b`, so it takes no `t`.

use super::weights::{floats, rounded};
use crate::{
    ir::Tensor,
    ops::fold::index::{axis, broadcast_strides, walk},
    passes::rules::{Bindings, Match, Miss, Rule},
};

/// The shape of the scale of a normalization, spread along the axes of its result: `[C, 1, 1]` for channels.
fn extents(m: &Match<'_>, scale: &Tensor) -> Result<Vec<usize>, Miss> {
    let rank = m.ty("x").and_then(|t| t.rank()).ok_or("the rank of the normalized value is not known")?;
    let op = m.op("h").ok_or("")?;
    if op.is("LayerNormalization") || op.is("RMSNormalization") {
        let axis = axis(op.int("axis").unwrap_or(-1), rank).ok_or("")?;
        return if scale.rank() == rank - axis {
            Ok(scale.shape().to_vec())
        } else {
            Err("the scale is broadcast")
        };
    }
    if op.is("BatchNormalization") && (op.int("training_mode").unwrap_or(0) != 0 || m.opset < 7) {
        return Err("BatchNormalization in training mode");
    }
    if op.is("GroupNormalization") && m.opset < 21 {
        return Err("before operator set 21 GroupNormalization scales by group");
    }
    if rank < 2 || scale.rank() != 1 {
        return Err("the scale is not one per channel");
    }
    let mut shape = vec![1; rank - 1];
    shape[0] = scale.len();
    Ok(shape)
}

/// One element of `c` for each of the scale.
fn spread(c: &Tensor, extents: &[usize]) -> Result<Vec<f64>, Miss> {
    let shape = c.shape();
    let lead = shape.len().saturating_sub(extents.len());
    let (outer, own) = shape.split_at(lead);
    let at = extents.len() - own.len();
    if outer.iter().any(|n| *n != 1)
        || own.iter().zip(&extents[at..]).any(|(n, extent)| *n != 1 && n != extent)
    {
        return Err("the constant varies along other axes than the scale");
    }
    let values = floats(c)?;
    Ok(walk(extents.to_vec(), broadcast_strides(own, extents), 0).map(|k| values[k]).collect())
}

fn fold(m: &Match<'_>) -> Result<Bindings, Miss> {
    if m.opset < 7 {
        return Err("before operator set 7 broadcasting is an attribute");
    }
    let (gain, c) = (m.tensor("g").ok_or("")?, m.tensor("c").ok_or("")?);
    let extents = extents(m, gain)?;
    if m.ty("x").and_then(|t| t.rank()).is_none_or(|rank| c.rank() > rank) {
        return Err("the constant adds dimensions");
    }
    let c = spread(c, &extents)?;
    let (mut scale, kind) = (floats(gain)?, m.op("y").map_or("", |op| &*op.op_type));
    let mut shift = match m.tensor("b") {
        Some(b) if b.shape() == gain.shape() => floats(b)?,
        Some(_) => return Err("the shift is broadcast"),
        None => vec![0.0; scale.len()],
    };
    for (k, c) in c.into_iter().enumerate() {
        match kind {
            "Mul" => (scale[k], shift[k]) = (scale[k] * c, shift[k] * c),
            "Div" => (scale[k], shift[k]) = (scale[k] / c, shift[k] / c),
            "Add" => shift[k] += c,
            _ => shift[k] -= c,
        }
    }
    let found = Bindings::default().tensor("scale", rounded(gain, gain.shape(), scale)?);
    if m.value("b").is_none() && (kind == "Mul" || kind == "Div") {
        return Ok(found); // what was left out stays so
    }
    Ok(found.tensor("shift", rounded(gain, gain.shape(), shift)?))
}

macro_rules! follow_ups {
    ($($name:literal $layer:literal $rhs:literal $follow:literal;)*) => { &[$(
        Rule { name: $name, lhs: concat!("h = ", $layer, "  y = ", $follow), rhs: $rhs, bind: fold },
    )*] };
}

pub(super) const RULES: &[Rule] = follow_ups! {
    "affine-into-layer-norm" "LayerNormalization(x, $g, $b?)" "y = LayerNormalization(x, scale, shift)"
        "Mul(h, $c) | Div(h, $c) | Add(h, $c) | Sub(h, $c)";
    "affine-into-rms-norm" "RMSNormalization(x, $g)" "y = RMSNormalization(x, scale)" "Mul(h, $c) | Div(h, $c)";
    "affine-into-group-norm" "GroupNormalization(x, $g, $b)" "y = GroupNormalization(x, scale, shift)"
        "Mul(h, $c) | Div(h, $c) | Add(h, $c) | Sub(h, $c)";
    "affine-into-instance-norm" "InstanceNormalization(x, $g, $b)" "y = InstanceNormalization(x, scale, shift)"
        "Mul(h, $c) | Div(h, $c) | Add(h, $c) | Sub(h, $c)";
    "affine-into-batch-norm" "BatchNormalization(x, $g, $b, $mean, $var)"
        "y = BatchNormalization(x, scale, shift, mean, var)" "Mul(h, $c) | Div(h, $c) | Add(h, $c) | Sub(h, $c)";
};
