//! What is joined along an axis and then joined along it again is joined at once:
//! `Concat(Concat(a, b), c) = Concat(a, b, c)`.

use crate::{
    ir::{Graph, OpId, ValueId},
    ops::fold::index,
};

/// Joins at once, in bodies too; returns how many ops went.
pub(super) fn flatten(g: &mut Graph) -> usize {
    let mut joined = 0;
    for op in g.order() {
        g.edit_bodies(op, |body| {
            let inner = flatten(body);
            joined += inner;
            inner > 0
        });
        let mut inputs = Vec::new();
        let mut gone = Vec::new();
        for v in g.inputs_of(op) {
            match v.and_then(|v| part(g, op, v)) {
                Some(inner) => {
                    inputs.extend(g.inputs_of(inner));
                    gone.push(inner);
                }
                None => inputs.push(v),
            }
        }
        if !gone.is_empty() {
            g.set_inputs(op, &inputs);
            joined += gone.len();
            gone.into_iter().for_each(|inner| g.remove_op(inner));
        }
    }
    joined
}

/// The Concat along the same axis that gives a value to this Concat alone.
fn part(g: &Graph, op: OpId, v: ValueId) -> Option<OpId> {
    let (inner, _) = g.producer(v)?;
    g.sole_use(v)?;
    let rank = g.rank(v);
    let axis = |op: OpId| {
        let axis = g.op(op).int("axis").unwrap_or(1);
        rank.map_or(Some(axis), |rank| Some(index::axis(axis, rank)? as i64))
    };
    let both = g.op(op).is("Concat") && g.op(inner).is("Concat");
    (both && axis(op)? == axis(inner)?).then_some(inner)
}
