//! Prune groups: leaves that may shrink, and everything that shrinks with them.

use super::{factor::Factor, flow::Flow};
use crate::ir::ValueId;
use indexmap::IndexMap;

/// An axis of an initializer that a group runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The initializer.
    pub value: ValueId,
    /// The axis, counted from the left.
    pub axis: usize,
    /// What that axis is made of; the group's leaf is in it.
    pub factor: Factor,
}

/// Positions that can be removed together, anywhere in the model.
#[derive(Clone, Debug)]
pub struct Group {
    /// The leaf.
    pub factor: Factor,
    /// How many positions it has.
    pub size: usize,
    /// The initializer axes it runs through.
    pub members: Vec<Member>,
    /// Whether removing positions equals setting their weights to zero. Otherwise a statistic (a mean, a softmax)
    /// runs over the group and changes when the group shrinks.
    pub exact: bool,
}

impl Flow<'_> {
    /// The groups, in order of their first member.
    pub fn groups(&self) -> Vec<Group> {
        let leaves = self.initializer_leaves();
        let open = leaves.into_iter().filter(|(l, _)| self.arena.frozen(*l).is_none());
        open.map(|(factor, members)| Group {
            factor,
            size: self.arena.size(factor).unwrap_or(0),
            members,
            exact: !self.arena.is_statistic(factor),
        })
        .filter(|g| g.size > 1)
        .collect()
    }
    /// Every leaf of an initializer's axis, with all the axes it runs through.
    pub fn initializer_leaves(&self) -> IndexMap<Factor, Vec<Member>> {
        let mut leaves: IndexMap<Factor, Vec<Member>> = IndexMap::new();
        for (value, _) in self.graph.initializers() {
            for (axis, f) in self.known_dims(value).iter().enumerate() {
                for leaf in self.arena.leaves(*f) {
                    leaves.entry(leaf).or_default().push(Member { value, axis, factor: *f });
                }
            }
        }
        leaves
    }
}
