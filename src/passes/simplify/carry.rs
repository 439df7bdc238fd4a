//! A scale or shift moves up to the linear layer whose result it is for, past what stands between:
//!
//! ```text
//! move(h)·s   = move(h·s')         Reshape, Flatten, Squeeze, Unsqueeze, Transpose; s' lies along the axis that s does
//! (h + b)·s   = h·s + b·s          b constant; so for h - b and b - h
//! relu(h)·s   = relu(h·s)          Relu and LeakyRelu, s > 0
//! ```
//!
//! A shift only moves past the first kind. The layer must be able to take it: then one op goes and none comes. A query
//! that is divided before its product with the keys stays: runtimes recognize attention by that.

use super::{
    affine::{Affine, Layer},
    constants::joined,
    sink::turned_back,
};
use crate::{
    ir::{Dim, Graph, OpId, Tensor, ValueId},
    ops::fold::moves::permutation,
};

/// Moves scales and shifts up in the graph and its bodies; returns how many ops went.
pub(super) fn scales(g: &mut Graph, opset: i64) -> usize {
    let mut moved = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = scales(body, opset);
            moved += inner;
            inner > 0
        });
        moved += usize::from(opset >= 7 && carry(g, op).is_some());
    }
    moved
}

/// What an op does with a constant.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Scale,
    Shift,
}

/// A map on its way up.
struct Map {
    kind: Kind,
    constant: Tensor,
}

/// The map that an op is: the value it applies to, and its constant as a factor or a summand.
fn map(g: &Graph, op: OpId) -> Option<(ValueId, Map)> {
    let node = g.op(op);
    let [a, b] = g.inputs_of(op)[..] else { return None };
    let (a, b) = (a?, b?);
    let (h, c) = match (g.constant(a), g.constant(b)) {
        (None, Some(c)) => (a, c),
        (Some(c), None) if node.is("Mul") || node.is("Add") => (b, c),
        _ => return None,
    };
    let fixed = |f: fn(f64, f64) -> f64, start| joined(&start_like(c, start)?, c, f).ok();
    let (kind, constant) = match &*node.op_type {
        "Mul" => (Kind::Scale, c.clone()),
        "Div" => (Kind::Scale, fixed(|a, b| a / b, 1.0)?),
        "Add" => (Kind::Shift, c.clone()),
        "Sub" => (Kind::Shift, fixed(|a, b| a - b, 0.0)?),
        _ => return None,
    };
    // Neither adds dimensions nor repeats what it applies to.
    let (shape, rank) = (g.shape(h)?, constant.rank());
    let lead = shape.len().checked_sub(rank)?;
    let fits = constant.shape().iter().zip(&shape[lead..]).all(|(n, d)| *n == 1 || *d == Dim::Known(*n));
    fits.then_some((h, Map { kind, constant }))
}

/// One number of the type of a constant.
fn start_like(c: &Tensor, number: f32) -> Option<Tensor> {
    Tensor::from_f32(c.dtype(), [], vec![number])
}

fn carry(g: &mut Graph, op: OpId) -> Option<()> {
    let (mut v, mut map) = map(g, op)?;
    let (divides, out) = (g.op(op).is("Div"), g.output(op, 0)?);
    let (mut last, mut summands, mut turned) = (None, Vec::new(), false);
    let layer = loop {
        let (above, _) = g.producer(v)?;
        if g.sole_use(v).is_none() || g.outputs_of(above).len() != 1 {
            return None;
        }
        if let Ok(layer) = Layer::of(g, above) {
            last?;
            break (above, layer);
        }
        last.get_or_insert(above);
        turned |= g.op(above).is("Transpose");
        v = past(g, above, &mut map, &mut summands)?;
    };
    if divides && turned && reads_attention(g, out) {
        return None;
    }
    let (above, layer) = layer;
    let n = layer.channels.count;
    let numbers = layer.channels.numbers(&map.constant).ok()?;
    let own = match map.kind {
        Kind::Scale => Affine { scale: numbers, shift: vec![0.0; n] },
        Kind::Shift if layer.op.is("MatMul") => return None,
        Kind::Shift => Affine { scale: vec![1.0; n], shift: numbers },
    };
    let (weight, shift) = layer.followed_by(&own).ok()?;
    let bias = g.input(above, 2).is_some() || map.kind == Kind::Shift;
    let name = g.name_of(v).to_owned();
    let mut inputs = vec![g.input(above, 0), Some(g.add_initializer(&format!("{name}_weight"), weight))];
    if bias {
        inputs.push(Some(g.add_initializer(&format!("{name}_shift"), shift)));
    }
    g.set_inputs(above, &inputs);
    if g.op(above).is("Gemm") {
        g.op_mut(above).set("beta", 1.0f32);
    }
    for (sum, slot, summand) in summands {
        let hint = g.input(sum, slot).map_or_else(String::new, |v| g.name_of(v).to_owned());
        let summand = g.add_initializer(&hint, summand);
        g.set_input(sum, slot, Some(summand));
    }
    let last = last?;
    let between = g.output(last, 0)?;
    g.remove_op(op);
    g.set_outputs(last, &[Some(out)]);
    g.remove_value_if_unused(between);
    Some(())
}

/// Whether a value is multiplied by another that is computed too.
fn reads_attention(g: &Graph, v: ValueId) -> bool {
    let computed = |op: OpId| g.inputs_of(op).into_iter().flatten().all(|v| g.constant(v).is_none());
    g.uses(v).iter().any(|u| g.op(u.op()).is("MatMul") && computed(u.op()))
}

/// Moves a map past an op to the input that is not constant; constants that change with it are collected.
fn past(g: &Graph, op: OpId, map: &mut Map, summands: &mut Vec<(OpId, usize, Tensor)>) -> Option<ValueId> {
    let node = g.op(op);
    let x = g.input(op, 0)?;
    match &*node.op_type {
        "Add" | "Sub" if map.kind == Kind::Scale => {
            let slot = (0..2).find(|k| g.input(op, *k).is_some_and(|v| g.constant(v).is_some()))?;
            let (h, b) = (g.input(op, 1 - slot)?, g.constant(g.input(op, slot)?)?);
            // The sum must not be of more axes than what is summed.
            (g.constant(h).is_none() && g.shape(h)? == g.shape(g.output(op, 0)?)?).then_some(())?;
            summands.push((op, slot, joined(b, &map.constant, |b, s| b * s).ok()?));
            Some(h)
        }
        "Relu" | "LeakyRelu" if map.kind == Kind::Scale => {
            map.constant.to_f32()?.iter().all(|s| *s > 0.0).then_some(x)
        }
        "Transpose" => {
            let perm = permutation(node, g.rank(x)?)?;
            map.constant = turned_back(&map.constant, &perm, 13)?;
            Some(x)
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            map.constant = reshaped_back(&map.constant, &g.shape(x)?, &g.shape(g.output(op, 0)?)?)?;
            Some(x)
        }
        _ => None,
    }
}

/// A constant along one axis of `to`, as it lies along the axis of `from` that holds the same elements.
fn reshaped_back(c: &Tensor, from: &[Dim], to: &[Dim]) -> Option<Tensor> {
    let known = |dims: &[Dim]| dims.iter().try_fold(1usize, |n, d| n.checked_mul(d.known()?));
    if c.len() == 1 {
        return Some(c.reshaped([]));
    }
    let at = c.shape().iter().position(|n| *n == c.len())?;
    let axis = to.len().checked_sub(c.rank() - at)?;
    let behind = known(&to[axis + 1..])?;
    let own =
        (0..from.len()).find(|k| from[*k] == Dim::Known(c.len()) && known(&from[k + 1..]) == Some(behind))?;
    let mut shape = vec![1; from.len() - own];
    shape[0] = c.len();
    Some(c.reshaped(shape))
}
