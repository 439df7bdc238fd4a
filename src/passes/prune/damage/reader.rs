//! The linear layers that read a group: those that sum over its positions.

use crate::{
    ir::OpId,
    ops::axes::{Flow, Group},
    passes::linear::Layer,
};
use std::collections::BTreeMap;

/// A layer that sums over a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reader {
    pub(super) op: OpId,
    /// For each position of the group the layer's inputs that it is, each of `area` unknowns; the same in each part.
    pub(super) channels: Vec<Vec<usize>>,
}

/// All layers that read a group.
pub(super) fn of_group(flow: &Flow<'_>, group: &Group, layers: &BTreeMap<OpId, Layer>) -> Vec<Reader> {
    let mut readers = Vec::new();
    for layer in layers.values() {
        let input = 1 - layer.axis.min(1);
        let Some(member) = group.members.iter().find(|m| m.value == layer.weight && m.axis == input) else {
            continue;
        };
        let mut channels = vec![Vec::new(); group.size];
        for (channel, position) in flow.arena.labels(member.factor, group.factor).into_iter().enumerate() {
            if let Some(position) = position {
                channels[position].push(channel);
            }
        }
        readers.push(Reader { op: layer.op, channels });
    }
    readers
}
