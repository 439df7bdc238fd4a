//! Operators that nest axes into each other: Tile, DepthToSpace and SpaceToDepth.

use super::{
    factor::{Factor, WORKED_ALONG},
    flow::Flow,
    rewrite::{Extent, Rewrite},
};
use crate::ir::OpId;

/// An axis repeated `r` times is `(r n)`.
pub(super) fn tile(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y, repeats) = (flow.input(op, 0)?, flow.output(op, 0)?, flow.ints(op, 1)?);
    if x.len() != y.len() || repeats.len() != x.len() {
        return None;
    }
    let mut extents = Vec::with_capacity(repeats.len());
    for (k, times) in repeats.into_iter().enumerate() {
        if times == 1 {
            flow.arena.unify(x[k], y[k]);
            extents.push(Extent::Keep(1));
            continue;
        }
        let times = flow.arena.leaf(Some(usize::try_from(times).ok()?));
        let nested = flow.arena.product(&[times, x[k]]);
        flow.arena.unify(nested, y[k]);
        extents.push(Extent::of(times));
    }
    flow.rewrites.push(Rewrite::Input { op, slot: 1, extents });
    Some(())
}
/// Blocks of the map that are nested in its channels, `(b b c)` or `(c b b)`, come to lie side by side.
pub(super) fn depth_to_space(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    let columns_first = flow.graph.op(op).str("mode") == Some("CRD");
    nest(flow, op, &x, &y, columns_first)
}
pub(super) fn space_to_depth(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    nest(flow, op, &y, &x, false)
}
fn nest(flow: &mut Flow<'_>, op: OpId, deep: &[Factor], wide: &[Factor], last: bool) -> Option<()> {
    let block = usize::try_from(flow.graph.op(op).int("blocksize")?).ok().filter(|n| *n > 0)?;
    let ([db, dc, dm @ ..], [wb, wc, wm @ ..]) = (deep, wide) else { return None };
    let blocks = flow.arena.leaf(Some(block.checked_mul(block)?));
    flow.arena.freeze(blocks, WORKED_ALONG);
    let nested = flow.arena.product(&if last { [*wc, blocks] } else { [blocks, *wc] });
    flow.arena.unify(*db, *wb);
    flow.arena.unify(*dc, nested);
    dm.iter().chain(wm).for_each(|f| flow.arena.freeze(*f, WORKED_ALONG));
    Some(())
}
