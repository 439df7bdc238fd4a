//! What scales and shifts the channels of several linear layers joined along these moves into each of them:
//! `Concat(h₁, h₂)·s + t = Concat(h₁·s₁ + t₁, h₂·s₂ + t₂)`, where `s` and `t` divide as the channels do.
//!
//! All of the branches must be able to take their part; then one op goes and none comes.

use super::affine::{Affine, Channels, Layer};
use crate::{
    ir::{Graph, OpId, Tensor, ValueId},
    ops::fold::index,
};

const MAPS: &[&str] = &["BatchNormalization", "Mul", "Div", "Add", "Sub", "Neg"];

/// Moves maps into the branches before them, in bodies too; returns how many ops went.
pub(super) fn maps(g: &mut Graph, opset: i64) -> usize {
    let mut moved = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = maps(body, opset);
            moved += inner;
            inner > 0
        });
        moved += usize::from(distribute(g, op, opset).is_some());
    }
    moved
}

/// The value that only this op reads and a Concat gives.
fn joined(g: &Graph, op: OpId) -> Option<(ValueId, OpId)> {
    g.inputs_of(op).into_iter().flatten().find_map(|v| {
        let (concat, _) = g.producer(v)?;
        (g.op(concat).is("Concat") && g.sole_use(v).is_some()).then_some((v, concat))
    })
}

fn distribute(g: &mut Graph, op: OpId, opset: i64) -> Option<()> {
    if !MAPS.iter().any(|kind| g.op(op).is(kind)) || opset < 7 {
        return None;
    }
    let (h, concat) = joined(g, op)?;
    let branches: Vec<OpId> = g
        .inputs_of(concat)
        .into_iter()
        .map(|v| v.filter(|v| g.sole_use(*v).is_some()).and_then(|v| Some(g.producer(v)?.0)))
        .collect::<Option<_>>()?;
    let layers = branches.iter().map(|b| Layer::of(g, *b).ok()).collect::<Option<Vec<_>>>()?;
    let Channels { rank, axis, .. } = layers.first()?.channels;
    let along = index::axis(g.op(concat).int("axis").unwrap_or(1), rank?)?;
    let alike = |l: &Layer<'_>| l.channels.rank == rank && l.channels.axis == axis && axis == along;
    if !layers.iter().all(alike) {
        return None;
    }
    let count = layers.iter().map(|l| l.channels.count).sum();
    let mut whole = Affine::of(g, op, h, Channels { count, rank, axis }, opset).ok()?;
    let mut parts: Vec<(Tensor, Option<Tensor>)> = Vec::new();
    for (branch, layer) in branches.iter().zip(&layers) {
        let n = layer.channels.count;
        let rest = Affine { scale: whole.scale.split_off(n), shift: whole.shift.split_off(n) };
        let own = std::mem::replace(&mut whole, rest);
        let (weight, shift) = layer.followed_by(&own).ok()?;
        let shifts = own.shift.iter().any(|t| *t != 0.0);
        if shifts && layer.op.is("MatMul") {
            return None; // it has no bias
        }
        let biased = shifts || g.input(*branch, 2).is_some();
        parts.push((weight, biased.then_some(shift)));
    }
    let out = g.output(op, 0)?;
    for (branch, (weight, shift)) in branches.into_iter().zip(parts) {
        let name = g.name_of(g.output(branch, 0)?).to_owned();
        let weight = g.add_initializer(&format!("{name}_weight"), weight);
        g.set_input(branch, 1, Some(weight));
        if let Some(shift) = shift {
            let shift = g.add_initializer(&format!("{name}_shift"), shift);
            let x = g.input(branch, 0);
            g.set_inputs(branch, &[x, Some(weight), Some(shift)]);
        }
        if g.op(branch).is("Gemm") {
            g.op_mut(branch).set("beta", 1.0f32);
        }
    }
    g.remove_op(op);
    g.set_outputs(concat, &[Some(out)]);
    g.remove_value_if_unused(h);
    Some(())
}
