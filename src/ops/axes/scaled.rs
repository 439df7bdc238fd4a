//! QuantizeLinear and DequantizeLinear: element by element, with scales and zero points that follow an axis or blocks of it.

use super::{
    factor::{Factor, WORKED_ALONG},
    flow::Flow,
    structural::{axis, same},
};
use crate::ir::OpId;

pub(super) fn scaled(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    same(flow, &x, &y)?;
    for slot in [1, 2] {
        if let Some(v) = flow.graph.input(op, slot) {
            let dims = flow.dims(v)?;
            follow(flow, op, &x, &dims)?;
        }
    }
    Some(())
}
fn follow(flow: &mut Flow<'_>, op: OpId, x: &[Factor], scales: &[Factor]) -> Option<()> {
    let node = flow.graph.op(op);
    let at = axis(node.int("axis").unwrap_or(1), x.len());
    let block = node.int("block_size").filter(|n| *n > 0);
    match (scales, block) {
        ([], _) => {}
        ([one], _) if flow.arena.size(*one) == Some(1) => {}
        ([along], None) => flow.arena.unify(*along, x[at?]),
        (_, Some(block)) => {
            (scales.len() == x.len()).then_some(())?;
            (0..x.len()).filter(|k| Some(*k) != at).for_each(|k| flow.arena.unify(scales[k], x[k]));
            // Whole blocks go; the last one may be shorter.
            let (blocks, whole, block) = (scales[at?], x[at?], usize::try_from(block).ok()?);
            let even = flow.arena.size(blocks).and_then(|n| n.checked_mul(block));
            if even.is_none() || even != flow.arena.size(whole) {
                [blocks, whole].into_iter().for_each(|f| flow.arena.freeze(f, "scaled in uneven blocks"));
                return Some(());
            }
            let inside = flow.arena.leaf(Some(block));
            flow.arena.freeze(inside, WORKED_ALONG);
            let nested = flow.arena.product(&[blocks, inside]);
            flow.arena.unify(whole, nested);
        }
        _ => return None,
    }
    Some(())
}
