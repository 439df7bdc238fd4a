//! Slice: between constant bounds, an axis is what is before them, what is taken, and what is after. With a step `s` from end
//! to end, it is `(n s)`, of which one of each `s` is taken.

use super::{
    factor::Factors,
    flow::Flow,
    rewrite::{Extent, Rewrite},
    structural::axis,
};
use crate::ir::OpId;

/// Where bounds are computed, the axes they are for keep their extents; the others correspond all the same.
pub(super) fn slice(flow: &mut Flow<'_>, op: OpId) -> Option<()> {
    let (x, y) = (flow.input(op, 0)?, flow.output(op, 0)?);
    if x.len() != y.len() {
        return None;
    }
    let node = flow.graph.op(op);
    let inputs = node.attr("starts").is_none();
    let list = |slot: usize, name: &str| {
        if inputs { flow.ints(op, slot) } else { node.ints(name).map(<[i64]>::to_vec) }
    };
    let (starts, ends) = (list(1, "starts"), list(2, "ends"));
    let count = match &starts {
        Some(starts) => starts.len(),
        None => flow.graph.shape(flow.graph.input(op, 1)?)?.first()?.known()?,
    };
    let axes = match list(3, "axes") {
        Some(axes) => axes,
        None if flow.graph.input(op, 3).is_some() => return None,
        None => (0..count as i64).collect(),
    };
    let axes: Vec<usize> = axes.iter().map(|n| axis(*n, x.len())).collect::<Option<_>>()?;
    let steps = match flow.graph.input(op, 4) {
        Some(_) => flow.ints(op, 4),
        None => Some(vec![1; count]),
    };
    for k in (0..x.len()).filter(|k| !axes.contains(k)) {
        flow.arena.unify(x[k], y[k]);
    }
    let (Some(starts), Some(ends), Some(steps)) = (starts, ends, steps) else {
        for k in axes {
            flow.arena.freeze(x[k], "sliced at computed positions");
            flow.arena.freeze(y[k], "sliced at computed positions");
        }
        return Some(());
    };
    if axes.len() != count || ends.len() != count || steps.len() != count {
        return None;
    }
    let mut from: Vec<Extent> = starts.iter().map(|n| Extent::Keep(*n)).collect();
    let mut to: Vec<Extent> = ends.iter().map(|n| Extent::Keep(*n)).collect();
    for (j, k) in axes.into_iter().enumerate() {
        let (Some(size), Some(taken)) = (flow.arena.size(x[k]), flow.arena.size(y[k])) else {
            flow.arena.unify(x[k], y[k]);
            continue;
        };
        if steps[j] == 1 && taken == size {
            flow.arena.unify(x[k], y[k]);
            continue;
        }
        let start = if starts[j] < 0 { starts[j].saturating_add(size as i64).max(0) } else { starts[j] };
        let before = usize::try_from(start).ok()?;
        let step = usize::try_from(steps[j]).unwrap_or(0);
        let from_left = starts[j] >= 0 || before == 0;
        if step > 1 && from_left && before < step && taken.checked_mul(step) == Some(size) {
            // One of each `step`, from end to end.
            let inside = flow.arena.leaf(Some(step));
            flow.arena.freeze(inside, "sliced with a step");
            let nested = flow.arena.product(&[y[k], inside]);
            flow.arena.unify(x[k], nested);
            to[j] = Extent::of(x[k]);
            continue;
        }
        if step != 1 || taken == 0 {
            flow.arena.freeze(x[k], "sliced with a step");
            flow.arena.freeze(y[k], "sliced with a step");
            continue;
        }
        let after = size.checked_sub(before)?.checked_sub(taken)?;
        let (pre, post) = (flow.arena.leaf(Some(before)), flow.arena.leaf(Some(after)));
        let whole = flow.arena.concat(&[pre, y[k], post]);
        flow.arena.unify(x[k], whole);
        from[j] = Extent::Sum(Factors::from_slice(&[pre]));
        to[j] = Extent::Sum(Factors::from_slice(&[pre, y[k]]));
    }
    let rewrite = |slot: usize, name: &str, extents| match inputs {
        true => Rewrite::Input { op, slot, extents },
        false => Rewrite::Ints { op, name: name.to_owned(), extents },
    };
    flow.rewrites.extend([rewrite(1, "starts", from), rewrite(2, "ends", to)]);
    Some(())
}
