//! The layers that sum over a group's positions, and what they see on the calibration samples.

use super::Context;
use crate::{
    error::Result,
    ir::{Model, OpId},
    ops::axes::{Flow, Group, Member},
    passes::linear::{Kept, Layer, Recurrent, Sight, Sums, collect, moments},
};
use faer::Mat;
use std::collections::{BTreeMap, BTreeSet};

/// Layers with more inputs than this are not read: the time to judge them grows with the cube.
const MOST_UNKNOWNS: usize = 2_304;

/// The layers of a model that can be read.
pub(super) struct Layers {
    pub(super) linear: BTreeMap<OpId, Layer>,
    pub(super) recurrent: BTreeMap<OpId, Recurrent>,
}

/// A linear map that sums over a group: a layer, or one of the maps of a recurrent layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reader {
    pub(super) op: OpId,
    /// Which map of the layer.
    pub(super) map: usize,
    /// For each position of the group the map's inputs that it is; the same in each part.
    pub(super) rows: Vec<Vec<usize>>,
}

/// The weights of each part of a map, and the sums of what it sees.
pub(super) struct Read {
    pub(super) weights: Vec<Mat<f64>>,
    pub(super) sums: Vec<[Sums; 2]>,
    /// Whether the last input is a one, for a bias.
    pub(super) bias: bool,
    /// Whether what it sees are windows of an image, which overlap.
    pub(super) windows: bool,
}

impl Layers {
    pub(super) fn of(model: &Model) -> Layers {
        let (g, opset) = (&model.graph, model.opset());
        let order = g.order();
        let linear = order.iter().filter_map(|op| Some((*op, Layer::of(g, *op, opset)?.ok()?)));
        let recurrent = order.iter().filter_map(|op| Some((*op, Recurrent::of(g, *op)?.ok()?)));
        Layers {
            linear: linear.filter(|(_, l)| l.unknowns() <= MOST_UNKNOWNS).collect(),
            recurrent: recurrent.filter(|(_, l)| l.inputs + l.hidden < MOST_UNKNOWNS).collect(),
        }
    }
    /// The bytes of the second moments of a layer's inputs, with the held-out rows and without them.
    pub(super) fn bytes(&self, op: OpId) -> usize {
        let linear = self.linear.get(&op).map(|l| l.groups * l.unknowns().pow(2));
        let recurrent =
            || self.recurrent.get(&op).map(|l| l.backwards.len() * (l.inputs + l.hidden + 1).pow(2));
        2 * linear.or_else(recurrent).unwrap_or(0) * size_of::<f64>()
    }
    /// All maps that read a group.
    pub(super) fn readers(&self, flow: &Flow<'_>, group: &Group) -> Vec<Reader> {
        let mut readers = Vec::new();
        for layer in self.linear.values() {
            let input = 1 - layer.axis.min(1);
            if let Some(member) = group.members.iter().find(|m| m.value == layer.weight && m.axis == input) {
                let rows = |channel: usize| channel * layer.area..(channel + 1) * layer.area;
                readers.push(Reader { op: layer.op, map: 0, rows: by_position(flow, group, member, rows) });
            }
        }
        for layer in self.recurrent.values() {
            for (k, map) in layer.maps.iter().enumerate() {
                let inputs = if map.input { layer.inputs } else { 0 };
                let slots = [(layer.w, 0, map.input), (layer.r, inputs, map.sees_state())];
                for (weight, start, _) in slots.into_iter().filter(|(_, _, seen)| *seen) {
                    if let Some(member) = group.members.iter().find(|m| m.value == weight && m.axis == 2) {
                        let rows = |channel: usize| start + channel..start + channel + 1;
                        readers.push(Reader {
                            op: layer.op,
                            map: k,
                            rows: by_position(flow, group, member, rows),
                        });
                    }
                }
            }
        }
        readers
    }
    /// What `of` makes of what is known of each map that is read, where it makes something of it.
    pub(super) fn read<T>(
        &self,
        model: &Model,
        readers: &[Vec<Reader>],
        cx: &Context<'_>,
        of: impl Fn(Read) -> Option<T>,
    ) -> Result<BTreeMap<(OpId, usize), T>> {
        let ops: BTreeSet<OpId> = readers.iter().flatten().map(|r| r.op).collect();
        let linear: Vec<_> = ops.iter().filter_map(|op| self.linear.get(op)).collect();
        let sights: Vec<_> = linear.iter().map(|layer| Sight { layer, target: None }).collect();
        let mut known = BTreeMap::new();
        collect(model, model, &sights, cx, |k, found| {
            let weights = linear[k].weights(&model.graph);
            let (bias, windows) = (linear[k].has_bias(), linear[k].area > 1);
            let made =
                weights.zip(found.ok()).and_then(|(weights, sums)| of(Read { weights, sums, bias, windows }));
            known.extend(made.map(|made| ((linear[k].op, 0), made)));
        })?;
        for layer in ops.iter().filter_map(|op| self.recurrent.get(op)) {
            let Some(weights) = layer.weights(&model.graph) else { continue };
            let Some(parts) = moments(model, layer, &weights, &Kept::all(layer), cx)? else { continue };
            let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
            for (k, map) in layer.maps.iter().enumerate() {
                let sums = parts.iter_mut().filter_map(Iterator::next).collect();
                let weights = weights.iter().map(|w| w.of_map(map, layer.hidden)).collect();
                let made = of(Read { weights, sums, bias: true, windows: false });
                known.extend(made.map(|made| ((layer.op, k), made)));
            }
        }
        Ok(known)
    }
}

/// The rows of the channels that each position of a group is along an axis.
fn by_position(
    flow: &Flow<'_>,
    group: &Group,
    member: &Member,
    rows: impl Fn(usize) -> std::ops::Range<usize>,
) -> Vec<Vec<usize>> {
    let mut found = vec![Vec::new(); group.size];
    for (channel, position) in flow.arena.labels(member.factor, group.factor).into_iter().enumerate() {
        if let Some(position) = position {
            found[position].extend(rows(channel));
        }
    }
    found
}
