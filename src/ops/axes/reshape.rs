//! Operators that regroup axes without moving data: both sides list the same elements in row-major order.

use super::{
    factor::{Factor, Factors},
    flow::Flow,
    rewrite::{Extent, Rewrite},
};
use crate::ir::OpId;

/// Reshape to a constant shape. A computed shape cannot be rewritten, so its op is not covered.
pub(super) fn reshape(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let written = flow.graph.op(op).ints("shape").map(<[i64]>::to_vec);
    let shape = match &written {
        Some(shape) => shape.clone(),
        None => flow.ints(op, 1)?,
    };
    if shape.len() != y.len() {
        return None;
    }
    regroup(flow, &x, &y);
    let extents = shape.iter().zip(&y);
    let extents = extents
        .map(
            |(n, f)| if *n >= 0 && flow.arena.size(*f).is_some() { Extent::of(*f) } else { Extent::Keep(*n) },
        )
        .collect();
    flow.rewrites.push(match written {
        Some(_) => Rewrite::Ints { op, name: "shape".to_owned(), extents },
        None => Rewrite::Input { op, slot: 1, extents },
    });
    Some(())
}
pub(super) fn flatten(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    regroup(flow, &x, &y);
    Some(())
}
/// Axes of extent 1 come or go; the others stay in order.
pub(super) fn squeeze(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let node = flow.graph.op(op);
    if node.attr("axes").is_none() && flow.graph.input(op, 1).is_none() {
        // It would also drop an axis of which one position stays.
        return None;
    }
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let (x, y) = (wide(flow, &x), wide(flow, &y));
    if x.len() != y.len() {
        return None;
    }
    x.iter().zip(&y).for_each(|(a, b)| flow.arena.unify(*a, *b));
    Some(())
}
fn wide(flow: &Flow<'_>, dims: &[Factor]) -> Factors {
    dims.iter().copied().filter(|f| flow.arena.size(*f) != Some(1)).collect()
}

/// Unifies the shortest runs of axes that hold equally many elements, from the fastest axis on until one of unknown
/// extent; a run of unknown extents that is all that is left on either side is the batch. Anything else freezes.
fn regroup(flow: &mut Flow<'_>, x: &[Factor], y: &[Factor]) {
    let (mut xs, mut ys) = (wide(flow, x), wide(flow, y));
    while let (Some(mut m), Some(mut n)) = (last(flow, &xs, 0), last(flow, &ys, 0)) {
        let (mut i, mut j) = (1, 1);
        while m != n {
            let (side, more, volume) = if m < n { (&xs, &mut i, &mut m) } else { (&ys, &mut j, &mut n) };
            match last(flow, side, *more).and_then(|size| volume.checked_mul(size)) {
                Some(next) => (*volume, *more) = (next, *more + 1),
                None => break,
            }
        }
        if m != n {
            break;
        }
        let (run_x, run_y) = (xs.split_off_tail(i), ys.split_off_tail(j));
        let (a, b) = (flow.arena.product(&run_x), flow.arena.product(&run_y));
        flow.arena.unify(a, b);
    }
    for f in xs.into_iter().chain(ys) {
        flow.arena.freeze(f, "reshaped together with an axis of unknown extent");
    }
}
/// The extent of the axis that many places from the end.
fn last(flow: &Flow<'_>, dims: &[Factor], back: usize) -> Option<usize> {
    flow.arena.size(*dims.get(dims.len().checked_sub(back + 1)?)?)
}

trait Tail {
    fn split_off_tail(&mut self, n: usize) -> Factors;
}
impl Tail for Factors {
    fn split_off_tail(&mut self, n: usize) -> Factors {
        self.drain(self.len() - n..).collect()
    }
}
