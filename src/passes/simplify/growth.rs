//! Folding must not make a model large.
//!
//! A constant of at most [`TINY`] bytes takes about as much room as the node that computed it, so shape arithmetic
//! always folds. Whatever is larger is judged together with all else that is computed from the same weight, by how
//! much the model would grow: the new constants' bytes, less those of the constants that nothing needs any more.
//!
//! - What does not grow is folded.
//! - What grows by more than the limit alone is left.
//! - The rest is folded all or none: all, where its sum over the whole run stays within the limit.
//!
//! Folding as much of the rest as fits would not do: another run, whose sum begins at zero, would fold more of it.

use crate::ir::{Graph, OpId, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Bytes of a constant that is folded whatever the limit: a shape of eight dimensions.
pub(super) const TINY: u64 = 64;

/// What folding may add to a model, and what it did add.
#[derive(Clone)]
pub(super) struct Bounds {
    limit: u64,
    /// Whether what grows is folded, or only counted.
    may_grow: bool,
    grown: u64,
    /// What the last look at the graph left alone, and by how much that would grow in so far as it is within the limit.
    pub(super) left: Vec<ValueId>,
    left_growth: u64,
}

impl Bounds {
    /// Bounds under which nothing grows yet.
    pub(super) fn new(limit: u64) -> Bounds {
        Bounds { limit, may_grow: false, grown: 0, left: Vec::new(), left_growth: 0 }
    }
    /// From now on, what grows is folded too; says whether there is any that might fit.
    pub(super) fn allow_growth(&mut self) -> bool {
        self.may_grow = true;
        (1..=self.limit).contains(&self.left_growth)
    }
    /// Whether all that was to be folded is more than the limit.
    pub(super) fn exceeded(&self) -> bool {
        self.grown > self.limit
    }
    /// A new look at the graph begins.
    pub(super) fn begin(&mut self) {
        self.left.clear();
        self.left_growth = 0;
    }
    /// Those of some values, given with their bytes, that are to be folded now.
    pub(super) fn fitting(&mut self, g: &Graph, values: Vec<(ValueId, u64)>) -> Vec<ValueId> {
        let (tiny, large): (Vec<_>, Vec<_>) = values.into_iter().partition(|(_, bytes)| *bytes <= TINY);
        let mut fitting: Vec<ValueId> = tiny.into_iter().map(|(v, _)| v).collect();
        let mut groups: BTreeMap<ValueId, Vec<(ValueId, u64)>> = BTreeMap::new();
        for (v, bytes) in large {
            groups.entry(largest_source(g, v)).or_default().push((v, bytes));
        }
        for group in groups.into_values() {
            let values: Vec<ValueId> = group.iter().map(|(v, _)| *v).collect();
            let growth = group.iter().map(|(_, bytes)| bytes).sum::<u64>().saturating_sub(freed(g, &values));
            let grows_little = (1..=self.limit).contains(&growth);
            if growth == 0 || grows_little && self.may_grow {
                self.grown += growth;
                fitting.extend(values);
            } else {
                self.left_growth += if grows_little { growth } else { 0 };
                self.left.extend(values);
            }
        }
        fitting.sort_unstable();
        fitting
    }
}

/// The largest constant that a value is computed from; the value itself where that is a tiny one, which many share.
fn largest_source(g: &Graph, v: ValueId) -> ValueId {
    let bytes = |v: &ValueId| g.initializer(*v).map_or(0, |t| t.byte_len() as u64);
    let (_, leaves) = cone(g, &[v]);
    leaves.into_iter().filter(|leaf| bytes(leaf) > TINY).max_by_key(bytes).unwrap_or(v)
}

/// The ops, and the values that none of them computes, that some values are computed from.
pub(super) fn cone(g: &Graph, roots: &[ValueId]) -> (HashSet<OpId>, BTreeSet<ValueId>) {
    let (mut ops, mut leaves, mut todo) = (HashSet::new(), BTreeSet::new(), roots.to_vec());
    while let Some(v) = todo.pop() {
        match g.producer(v) {
            Some((op, _)) if ops.insert(op) => todo.extend(g.inputs_of(op).into_iter().flatten()),
            Some(_) => {}
            None => {
                leaves.insert(v);
            }
        }
    }
    (ops, leaves)
}

/// Bytes of the constants that nothing needs any more once these values are constants.
pub(super) fn freed(g: &Graph, values: &[ValueId]) -> u64 {
    let mut unneeded: HashSet<ValueId> = values.iter().copied().collect();
    let mut dead: HashSet<OpId> = HashSet::new();
    let mut todo: Vec<OpId> = values.iter().filter_map(|v| Some(g.producer(*v)?.0)).collect();
    let mut bytes = 0;
    while let Some(op) = todo.pop() {
        let unread = |v: &ValueId, dead: &HashSet<OpId>| {
            !g.is_output(*v) && g.uses(*v).iter().all(|u| dead.contains(&u.op()))
        };
        let lives = |v: &ValueId| !unneeded.contains(v) && !unread(v, &dead);
        if g.outputs_of(op).iter().flatten().any(lives) || !dead.insert(op) {
            continue;
        }
        for v in g.inputs_of(op).into_iter().flatten().chain(g.captures_of(op)) {
            if unread(&v, &dead) && unneeded.insert(v) {
                bytes += g.initializer(v).map_or(0, |t| t.byte_len() as u64);
                todo.extend(g.producer(v).map(|p| p.0));
            }
        }
    }
    bytes
}
