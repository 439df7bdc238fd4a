//! Axes of which known positions are taken: a run of them, some in any order, some several times.

use super::{
    factor::{Arena, Factor},
    flow::Flow,
    rewrite::Rewrite,
};
use crate::ir::OpId;
use std::collections::BTreeSet;

/// The second input of an op lists the positions of `x` that `y` has; `None` where it is the number of one, which `y` then has
/// no axis for.
pub(super) fn picked(
    flow: &mut Flow<'_>,
    op: OpId,
    x: Factor,
    y: Option<Factor>,
    listed: Vec<usize>,
) -> Option<()> {
    let arena = &mut flow.arena;
    // Of what keeps its extent, positions can be taken or not.
    let open = arena.leaves(x).iter().any(|l| arena.frozen(*l).is_none());
    match (y, listed.as_slice()) {
        (None, [only]) => {
            let one = arena.leaf(Some(1));
            arena.freeze(one, "gathered by position");
            run(arena, x, *only, one)?;
        }
        (None, _) => return None,
        (Some(y), _) if arena.size(y) != Some(listed.len()) => return None,
        (Some(y), _) if open => take(arena, x, y, &listed)?,
        _ => {}
    }
    flow.rewrites.push(Rewrite::Positions { op, slot: 1, listed, from: x, to: y });
    Some(())
}
/// Position `k` of `y` is position `listed[k]` of `x`.
fn take(arena: &mut Arena, x: Factor, y: Factor, listed: &[usize]) -> Option<()> {
    let first = listed.first()?;
    match listed.iter().enumerate().all(|(k, p)| *p == first + k) {
        true => run(arena, x, *first, y).map(drop),
        false => scattered(arena, x, y, listed),
    }
}
/// A run of positions behind others: what is before it, and what is after it.
pub(super) fn run(arena: &mut Arena, x: Factor, before: usize, y: Factor) -> Option<[Factor; 2]> {
    let after = arena.size(x)?.checked_sub(before)?.checked_sub(arena.size(y)?)?;
    let ends = [before, after].map(|n| arena.leaf(Some(n)));
    let whole = arena.concat(&[ends[0], y, ends[1]]);
    arena.unify(x, whole);
    Some(ends)
}
/// Positions that are taken equally often are one factor, as those are that are not taken.
fn scattered(arena: &mut Arena, x: Factor, y: Factor, listed: &[usize]) -> Option<()> {
    let size = arena.size(x)?;
    let mut times = vec![0usize; size];
    listed.iter().for_each(|p| times[*p] += 1);
    let (mut places, mut copies, mut widths) = (vec![0; size], vec![0; size], vec![0; size]);
    let (mut once, mut taken) = (Vec::new(), Vec::new());
    // Where what is taken so often begins, in `x` and in `y`.
    let (mut start, mut begin) = (0, 0);
    for often in times.iter().copied().collect::<BTreeSet<usize>>() {
        let positions: Vec<usize> = (0..size).filter(|p| times[*p] == often).collect();
        let n = positions.len();
        let part = arena.leaf(Some(n));
        for (k, p) in positions.into_iter().enumerate() {
            (places[p], copies[p], widths[p]) = (start + k, begin + k, n);
        }
        (start, begin) = (start + n, begin + often * n);
        once.push(part);
        taken.extend(std::iter::repeat_n(part, often));
    }
    // Each time that a position is taken it is the next copy's.
    let mut next = |p: &usize| {
        copies[*p] += widths[*p];
        copies[*p] - widths[*p]
    };
    let order: Vec<usize> = listed.iter().map(&mut next).collect();
    for (f, parts, order) in [(x, once, places), (y, taken, order)] {
        let whole = arena.concat(&parts);
        let moved = arena.permuted(whole, &order);
        arena.unify(f, moved);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::axes::Kind;
    use proptest::prelude::*;

    /// What an op may make of axes that there are already, each chosen by a number.
    #[derive(Clone, Debug)]
    enum Step {
        Take(usize, Vec<usize>),
        Same(usize, usize),
        Nest(usize),
        Join(usize, usize),
    }
    fn step() -> impl Strategy<Value = Step> {
        let any = 0..64usize;
        prop_oneof![
            4 => (any.clone(), prop::collection::vec(0..64usize, 1..12)).prop_map(|(f, list)| Step::Take(f, list)),
            1 => (any.clone(), 0..12usize, 1..12usize).prop_map(|(f, from, n)| Step::Take(f, (from..from + n).collect())),
            2 => any.clone().prop_map(|f| Step::Take(f, vec![5, 4, 3, 2, 1, 0])),
            2 => any.clone().prop_map(|f| Step::Take(f, (0..12).map(|k| k % 4 * 3 + k / 4).collect())),
            4 => (any.clone(), any.clone()).prop_map(|(a, b)| Step::Same(a, b)),
            2 => any.clone().prop_map(Step::Nest),
            1 => (any.clone(), any).prop_map(|(a, b)| Step::Join(a, b)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]
        /// However axes are tied to each other, a cut takes of each what the others say.
        #[test]
        fn every_cut_takes_the_same_of_all(steps in prop::collection::vec(step(), 1..10), gone in any::<u64>()) {
            let mut arena = Arena::default();
            let mut all: Vec<Factor> = [12, 12, 6, 4].map(|n| arena.leaf(Some(n))).into();
            let (mut taken, mut same) = (Vec::new(), Vec::new());
            for step in steps {
                let pick = |k: usize| all[k % all.len()];
                match step {
                    Step::Take(f, list) => {
                        let x = pick(f);
                        let size = arena.size(x).unwrap();
                        let list: Vec<usize> = list.into_iter().map(|p| p % size).collect();
                        let y = arena.leaf(Some(list.len()));
                        take(&mut arena, x, y, &list).unwrap();
                        all.push(y);
                        taken.push((x, y, list));
                    }
                    Step::Same(a, b) => {
                        let x = pick(a);
                        let alike: Vec<Factor> =
                            all.iter().copied().filter(|f| arena.size(*f) == arena.size(x)).collect();
                        let y = alike[b % alike.len()];
                        arena.unify(x, y);
                        same.push((x, y));
                    }
                    Step::Nest(f) => {
                        let x = pick(f);
                        let Some(half) = arena.size(x).filter(|n| n % 2 == 0).map(|n| n / 2) else { continue };
                        let parts = [2, half].map(|n| arena.leaf(Some(n)));
                        let nested = arena.product(&parts);
                        arena.unify(x, nested);
                        all.extend(parts);
                    }
                    Step::Join(a, b) => {
                        let (x, y) = (pick(a), pick(b));
                        let whole = arena.concat(&[x, y]);
                        if arena.size(whole).unwrap() <= 24 {
                            let joined = arena.leaf(arena.size(whole));
                            arena.unify(joined, whole);
                            all.push(joined);
                        }
                    }
                }
            }
            let mut keeps = std::collections::HashMap::new();
            for (k, leaf) in all.iter().flat_map(|f| arena.leaves(*f)).enumerate() {
                // One position alone is no group.
                if arena.frozen(leaf).is_none() && arena.size(leaf) != Some(1) {
                    let stays = |p: &usize| gone.rotate_left((7 * k + p) as u32) & 1 == 0;
                    let kept: Vec<usize> = (0..arena.size(leaf).unwrap()).filter(stays).collect();
                    keeps.entry(leaf).or_insert(kept);
                }
            }
            let keep = |leaf: Factor| keeps.get(&leaf).map(Vec::as_slice);
            for f in &all {
                let kept = arena.positions(*f, &keep);
                prop_assert!(kept.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(kept.len(), arena.extent(*f, &|leaf| keep(leaf).map(<[usize]>::len)));
                if arena.kind(*f) == Kind::Permuted {
                    let from = arena.leaves(*f).into_iter().map(|leaf| (leaf, arena.labels(*f, leaf)));
                    for (leaf, labels) in from.collect::<Vec<_>>() {
                        let of_leaf = |p: &usize| labels[*p].is_none_or(|at| keep(leaf).is_none_or(|k| k.contains(&at)));
                        prop_assert!(kept.iter().all(of_leaf));
                    }
                }
            }
            for (x, y) in same {
                prop_assert_eq!(arena.positions(x, &keep), arena.positions(y, &keep));
            }
            for (x, y, list) in taken {
                let stay = arena.positions(x, &keep);
                let expected: Vec<usize> = (0..list.len()).filter(|k| stay.contains(&list[*k])).collect();
                prop_assert_eq!(arena.positions(y, &keep), expected);
            }
        }
    }
}
