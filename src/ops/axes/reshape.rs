//! Operators that regroup axes without moving data: both sides list the same elements in row-major order.

use super::{
    factor::{Factor, Factors},
    flow::Flow,
    rewrite::{Extent, Rewrite},
};
use crate::ir::{OpId, Use, ValueId};

/// Reshape to a shape whose extents are constant or belong to axes that keep theirs (see [`shape_input`]).
pub(super) fn reshape(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    if let Some(shape) = flow.graph.op(op).ints("shape") {
        let extents = shape.iter().zip(&y).map(|(n, f)| extent(flow, *n, *f)).collect();
        flow.rewrites.push(Rewrite::Ints { op, name: "shape".to_owned(), extents });
    } else {
        shape_input(flow, op, 1, &y)?;
    }
    regroup(flow, &x, &y);
    Some(())
}
/// What stands for an axis in a shape: -1 and unknown extents follow from the rest, 1 repeats.
fn extent(flow: &Flow<'_>, written: i64, f: Factor) -> Extent {
    match flow.arena.size(f) {
        Some(_) if written == 0 || written > 1 => Extent::of(f),
        _ => Extent::Keep(written),
    }
}
/// Keeps the shape in an input of an op in step with the axes it describes. The shape is a constant, or a concatenation
/// of constants and computed parts (a batch, mostly); axes described by a computed part keep their extents.
pub(super) fn shape_input(flow: &mut Flow<'_>, op: OpId, slot: usize, dims: &[Factor]) -> Option<()> {
    let shape = flow.graph.input(op, slot)?;
    if let Some(values) = flow.ints(op, slot) {
        let extents = values.iter().zip(dims).map(|(n, f)| extent(flow, *n, *f)).collect();
        flow.rewrites.push(Rewrite::Input { op, slot, extents });
        return (values.len() == dims.len()).then_some(());
    }
    let (concat, _) = flow.graph.producer(shape)?;
    let reads_shape = |u: &Use| {
        let reader = flow.graph.op(u.op());
        match u {
            Use::Input(_, 0) => reader.is("ConstantOfShape"),
            Use::Input(_, 1) => reader.is("Reshape") || reader.is("Expand"),
            _ => false,
        }
    };
    if !flow.graph.op(concat).is("Concat") || !flow.graph.uses(shape).iter().all(reads_shape) {
        return None;
    }
    // All readers of one concatenation see the same new extents.
    if let Some(others) = flow.shapes.get(&shape).cloned() {
        others.iter().zip(dims).for_each(|(a, b)| flow.arena.unify(*a, *b));
        return (others.len() == dims.len()).then_some(());
    }
    let (mut rest, mut rewrites) = (dims, Vec::new());
    for (slot, part) in flow.graph.inputs_of(concat).into_iter().enumerate() {
        let constant = flow.ints(concat, slot);
        let n = match &constant {
            Some(values) => values.len(),
            None => flow.graph.tensor_type(part?)?.static_shape()?.into_iter().product(),
        };
        let (described, tail) = rest.split_at_checked(n)?;
        match constant {
            Some(values) => {
                let extents = values.iter().zip(described).map(|(n, f)| extent(flow, *n, *f)).collect();
                rewrites.push(Rewrite::Input { op: concat, slot, extents });
            }
            None => described.iter().for_each(|f| flow.arena.freeze(*f, "its extent is computed")),
        }
        rest = tail;
    }
    flow.rewrites.extend(rewrites);
    flow.shapes.insert(shape, dims.into());
    rest.is_empty().then_some(())
}
/// The elements of a shape, as far as they are constant: of a constant, a concatenation, or a choice by a constant
/// between two such. `None` where there are not `n`.
pub(super) fn written(flow: &Flow<'_>, shape: ValueId, n: usize) -> Option<Vec<Option<i64>>> {
    let choice = flow.graph.producer(shape).filter(|(op, _)| flow.graph.op(*op).is("Where"));
    let Some((choice, _)) = choice else { return listed(flow, shape, n) };
    let [a, b] = [1, 2].map(|slot| listed(flow, flow.graph.input(choice, slot)?, n));
    let first = flow.ints(choice, 0).filter(|first| first.len() == n)?;
    let pairs = a?.into_iter().zip(b?).zip(first);
    Some(pairs.map(|((a, b), first)| if first != 0 { a } else { b }).collect())
}
fn listed(flow: &Flow<'_>, shape: ValueId, n: usize) -> Option<Vec<Option<i64>>> {
    let constant = |v: ValueId| Some(flow.constant(v)?.to_i64()?.into_iter().map(Some).collect::<Vec<_>>());
    let mut elements = Vec::new();
    match constant(shape) {
        Some(all) => elements = all,
        None => {
            let (concat, _) = flow.graph.producer(shape).filter(|(op, _)| flow.graph.op(*op).is("Concat"))?;
            for part in flow.graph.inputs_of(concat) {
                let part = part?;
                match constant(part) {
                    Some(some) => elements.extend(some),
                    None => {
                        let more = flow.graph.shape(part)?.first()?.known()?;
                        elements.resize(elements.len().checked_add(more).filter(|all| *all <= n)?, None);
                    }
                }
            }
        }
    }
    (elements.len() == n).then_some(elements)
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
