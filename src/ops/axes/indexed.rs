//! Operators that pick, place or order elements by their positions along some axes: those keep their extents, unless it is
//! known which positions a Gather picks; the others correspond.

use super::{
    factor::{Factor, Factors, WORKED_ALONG},
    flow::Flow,
    picked,
    structural::{axis, same},
};
use crate::ir::OpId;

const PICKED: &str = "gathered by position";
const PLACED: &str = "scattered by position";

fn written_axis(flow: &Flow<'_>, op: OpId, default: i64, rank: usize) -> Option<usize> {
    axis(flow.graph.op(op).int("axis").unwrap_or(default), rank)
}
fn freeze(flow: &mut Flow<'_>, dims: &[Factor], why: &str) {
    dims.iter().for_each(|f| flow.arena.freeze(*f, why));
}

pub(super) fn gather(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, i, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let at = written_axis(flow, op, 0, x.len())?;
    if y.len() + 1 != x.len() + i.len() {
        return None;
    }
    same(flow, &x[..at], &y[..at])?;
    same(flow, &x[at + 1..], &y[at + i.len()..])?;
    match known_positions(flow, op, x[at]).filter(|_| i.len() < 2) {
        Some(listed) => {
            freeze(flow, &i, "a parameter of an operator");
            picked::picked(flow, op, x[at], y.get(at).copied().filter(|_| i.len() == 1), listed)
        }
        None => {
            freeze(flow, &x[at..=at], PICKED);
            same(flow, &i, &y[at..at + i.len()])
        }
    }
}
/// What constant indices pick of an axis, counted from the left.
fn known_positions(flow: &Flow<'_>, op: OpId, f: Factor) -> Option<Vec<usize>> {
    let size = flow.arena.size(f)?;
    flow.ints(op, 1)?.into_iter().map(|n| axis(n, size)).collect()
}
/// Each element comes from its own line along the axis; a shorter axis beside it takes the first lines.
pub(super) fn gather_elements(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, i, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let at = written_axis(flow, op, 0, x.len())?;
    same(flow, &i, &y)?;
    beside(flow, &x, &y, at, PICKED)?;
    freeze(flow, &x[at..=at], PICKED);
    Some(())
}
/// The axes of lines of a tensor and of one that lists elements of some of them.
fn beside(flow: &mut Flow<'_>, lines: &[Factor], listed: &[Factor], at: usize, why: &str) -> Option<()> {
    (lines.len() == listed.len()).then_some(())?;
    for k in (0..lines.len()).filter(|k| *k != at) {
        let (a, b) = (&lines[k], &listed[k]);
        match flow.arena.size(*a) == flow.arena.size(*b) {
            true => flow.arena.unify(*a, *b),
            false => freeze(flow, &[*a, *b], why),
        }
    }
    Some(())
}
/// Rows of indices pick whatever the axes behind those that they point into hold.
pub(super) fn gather_nd(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, i, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let batch = usize::try_from(flow.graph.op(op).int("batch_dims").unwrap_or(0)).ok()?;
    let (row, lists) = i.split_last()?;
    let inner =
        batch.checked_add(flow.arena.size(*row)?).filter(|n| *n <= x.len() && batch <= lists.len())?;
    freeze(flow, &[*row], PICKED);
    freeze(flow, &x[batch..inner], PICKED);
    let (outer, rest) = y.split_at_checked(lists.len())?;
    same(flow, lists, outer)?;
    same(flow, &x[..batch], &lists[..batch])?;
    same(flow, &x[inner..], rest)
}
pub(super) fn scatter_elements(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, i, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let updates = flow.input(op, 2)?;
    let at = written_axis(flow, op, 0, x.len())?;
    same(flow, &x, &y)?;
    same(flow, &i, &updates)?;
    beside(flow, &x, &i, at, PLACED)?;
    freeze(flow, &[x[at], i[at]], PLACED);
    Some(())
}
pub(super) fn scatter_nd(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, i, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let updates = flow.input(op, 2)?;
    let (row, lists) = i.split_last()?;
    let inner = flow.arena.size(*row).filter(|n| *n <= x.len())?;
    let (outer, rest) = updates.split_at_checked(lists.len())?;
    same(flow, &x, &y)?;
    same(flow, lists, outer)?;
    same(flow, &x[inner..], rest)?;
    freeze(flow, &i, PLACED);
    freeze(flow, &x[..inner], PLACED);
    Some(())
}
/// The largest along an axis, and where they are.
pub(super) fn top_k(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let x = flow.input(op, 0)?;
    let at = written_axis(flow, op, -1, x.len())?;
    for slot in [0, 1] {
        if flow.graph.output(op, slot).is_none() {
            continue;
        }
        let y = flow.output(op, slot)?;
        (y.len() == x.len()).then_some(())?;
        freeze(flow, &[x[at], y[at]], "ordered by value");
        (0..x.len()).filter(|k| *k != at).for_each(|k| flow.arena.unify(x[k], y[k]));
    }
    Some(())
}
/// A new axis, as long as there are classes.
pub(super) fn one_hot(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let at = written_axis(flow, op, -1, y.len())?;
    freeze(flow, &y[at..=at], "its positions stand for numbers");
    let others: Factors = (0..y.len()).filter(|k| *k != at).map(|k| y[k]).collect();
    same(flow, &x, &others)
}
/// Each position holds the sum of those before it.
pub(super) fn cumulative(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let at = axis(*flow.ints(op, 1)?.first()?, x.len())?;
    same(flow, &x, &y)?;
    flow.arena.mark_statistic(x[at]);
    Some(())
}
/// The first steps of each sequence of a batch, as many as an input says, in reverse.
pub(super) fn reversed(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, lengths, y) = (flow.input(op, 0)?, flow.input(op, 1)?, flow.output(op, 0)?);
    let node = flow.graph.op(op);
    let time = axis(node.int("time_axis").unwrap_or(0), x.len())?;
    let batch = axis(node.int("batch_axis").unwrap_or(1), x.len())?;
    same(flow, &x, &y)?;
    same(flow, &lengths, &x[batch..=batch])?;
    freeze(flow, &x[time..=time], "reversed");
    Some(())
}
/// One side of the diagonal of each matrix of the last two axes.
pub(super) fn triangle(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    same(flow, &x, &y)?;
    freeze(flow, &x[x.len().checked_sub(2)?..], WORKED_ALONG);
    Some(())
}
