//! Slice: between constant bounds, an axis is what is before them, what is taken, and what is after. With a step `s` from end
//! to end, it is `(n s)`, of which one of each `s` is taken. Steps back take the same in the opposite order.

use super::{
    factor::{Arena, Factor, Factors},
    flow::Flow,
    picked::run,
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
        let (first, step) = (usize::try_from(start).ok()?, steps[j].unsigned_abs() as usize);
        let from_left = starts[j] >= 0 || first == 0;
        let bounds = match (steps[j], taken) {
            (_, 0) => None,
            (1, _) => forwards(&mut flow.arena, x[k], y[k], first),
            (2.., _) if from_left => spread(&mut flow.arena, x[k], y[k], first, step)
                .map(|()| (Extent::Keep(starts[j]), Extent::of(x[k]))),
            (-1, _) => backwards(&mut flow.arena, x[k], y[k], first.min(size - 1)),
            (..-1, _) => spread_backwards(&mut flow.arena, x[k], y[k], first.min(size - 1), step),
            _ => None,
        };
        match bounds {
            Some(bounds) => (from[j], to[j]) = bounds,
            None => [x[k], y[k]].into_iter().for_each(|f| flow.arena.freeze(f, "sliced with a step")),
        }
    }
    let rewrite = |slot: usize, name: &str, extents| match inputs {
        true => Rewrite::Input { op, slot, extents },
        false => Rewrite::Ints { op, name: name.to_owned(), extents },
    };
    flow.rewrites.extend([rewrite(1, "starts", from), rewrite(2, "ends", to)]);
    Some(())
}

/// A run of positions.
fn forwards(arena: &mut Arena, x: Factor, y: Factor, first: usize) -> Option<(Extent, Extent)> {
    let [before, _] = run(arena, x, first, y)?;
    Some((Extent::of(before), Extent::Sum(Factors::from_slice(&[before, y]))))
}
/// A run of positions, the last of them first. Counted from the end, bounds are right however little is left.
fn backwards(arena: &mut Arena, x: Factor, y: Factor, first: usize) -> Option<(Extent, Extent)> {
    let size = arena.size(y)?;
    let forth = arena.leaf(Some(size));
    let [_, after] = run(arena, x, (first + 1).checked_sub(size)?, forth)?;
    reverse(arena, forth, y);
    Some((before(x, &[after]), before(x, &[forth, after])))
}
/// One position of each `step`, from end to end.
fn spread(arena: &mut Arena, x: Factor, y: Factor, first: usize, step: usize) -> Option<()> {
    let even = arena.size(y)?.checked_mul(step) == arena.size(x);
    (first < step && even).then_some(())?;
    let inside = arena.leaf(Some(step));
    arena.freeze(inside, "sliced with a step");
    let nested = arena.product(&[y, inside]);
    arena.unify(x, nested);
    Some(())
}
fn spread_backwards(
    arena: &mut Arena,
    x: Factor,
    y: Factor,
    first: usize,
    step: usize,
) -> Option<(Extent, Extent)> {
    let (size, taken) = (arena.size(x)?, arena.size(y)?);
    let forth = arena.leaf(Some(taken));
    spread(arena, x, forth, (size - 1).checked_sub(first)?, step)?;
    reverse(arena, forth, y);
    let after = arena.leaf(Some(size - 1 - first));
    arena.freeze(after, "sliced with a step");
    Some((before(x, &[after]), before(x, &[x])))
}
fn reverse(arena: &mut Arena, x: Factor, y: Factor) {
    let order: Vec<usize> = (0..arena.size(x).unwrap_or(0)).rev().collect();
    let moved = arena.permuted(x, &order);
    arena.unify(y, moved);
}
fn before(axis: Factor, behind: &[Factor]) -> Extent {
    Extent::Before { axis, behind: Factors::from_slice(behind) }
}
