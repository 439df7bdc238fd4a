//! Finding seams: the axis algebra tells which axes are the same channels, and each operator whether scales get through.

use super::{Held, Meets, Seam, Touch, channels, ends};
use crate::{
    ir::{Graph, Model, OpId, Tensor, ValueId},
    ops::axes::{Factor, Flow},
};
use indexmap::IndexMap;

/// What an operator makes of channels.
enum Role {
    /// A linear layer by a constant weight.
    Linear,
    /// Normalizes, then scales and shifts by its inputs 1 and 2 along this axis, which are constant.
    Normalizes(usize),
    /// Multiplies by the constant in this slot.
    Multiplies(usize),
    /// Makes its output of its first input alone, homogeneously.
    Moves,
    /// Makes its output of all its inputs together, homogeneously.
    Joins,
    /// Anything else.
    Other,
}

impl Role {
    fn of(g: &Graph, op: OpId) -> Role {
        let node = g.op(op);
        let constant = |slot| g.input(op, slot).is_some_and(|v| is_own(g, v));
        let absent_or = |slot, holds: &dyn Fn(&Tensor) -> bool| {
            g.input(op, slot).is_none_or(|v| g.constant(v).is_some_and(holds))
        };
        let zero = |t: &Tensor| t.scalar_f32() == Some(0.0);
        if !node.is_standard() {
            return Role::Other;
        }
        match &*node.op_type {
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul"
                if constant(1)
                    && g.input(op, 1).is_some_and(|w| g.sole_use(w).is_some())
                    && (g.input(op, 2).is_none() || constant(2))
                    && node.int("transA").unwrap_or(0) == 0 =>
            {
                Role::Linear
            }
            "LayerNormalization" if constant(1) && (g.input(op, 2).is_none() || constant(2)) => {
                let last = g.input(op, 1).and_then(|v| g.rank(v)) == Some(1);
                let rank = g.output(op, 0).and_then(|y| g.rank(y));
                rank.filter(|_| last).map_or(Role::Other, |rank| Role::Normalizes(rank - 1))
            }
            "BatchNormalization" | "InstanceNormalization" if constant(1) && constant(2) => {
                Role::Normalizes(1)
            }
            "Mul" if constant(0) != constant(1) => Role::Multiplies(usize::from(constant(1))),
            "Clip" if absent_or(2, &|_| false) && g.input(op, 1).is_some() && absent_or(1, &zero) => {
                Role::Moves
            }
            "Pad" => match (node.str("mode").unwrap_or("constant"), absent_or(2, &zero)) {
                ("constant", false) => Role::Other,
                _ => Role::Moves,
            },
            "PRelu" if constant(1) => Role::Moves,
            "Relu" | "LeakyRelu" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool"
            | "Identity" | "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice"
            | "Split" | "Resize" | "Expand" | "DepthToSpace" | "SpaceToDepth" | "ReduceMean"
            | "ReduceMax" | "ReduceSum" => Role::Moves,
            "Add" | "Sub" | "Sum" | "Max" | "Min" | "Concat" => Role::Joins,
            _ => Role::Other,
        }
    }
}

/// Whether a value is a constant that may be changed.
fn is_own(g: &Graph, v: ValueId) -> bool {
    g.initializer(v).is_some_and(|t| t.view::<f32>().is_some())
        && !g.is_input(v)
        && !g.is_output(v)
        && g.value(v).quant.is_none()
}

/// A leaf of the channels of a value.
type Place = (ValueId, Factor);

/// What is known of the places while walking over the ops.
struct Search<'a, 'g> {
    g: &'g Graph,
    flow: &'a Flow<'g>,
    /// Each place with the one that it is joined to, itself where that is none.
    joined: IndexMap<Place, usize>,
    closed: Vec<usize>,
    touches: Vec<(usize, Touch)>,
}

/// The seams of a model, in the order of the ops that make them. Types must have been inferred.
pub(in crate::passes::quant) fn seams(model: &Model) -> Vec<Seam> {
    let (flow, g) = (Flow::of(model), &model.graph);
    let mut search =
        Search { g, flow: &flow, joined: IndexMap::new(), closed: Vec::new(), touches: Vec::new() };
    for op in g.order() {
        search.visit(op);
    }
    for v in g.inputs.iter().chain(&g.outputs) {
        search.close(*v);
    }
    search.finish()
}

impl Search<'_, '_> {
    fn visit(&mut self, op: OpId) {
        let (g, role) = (self.g, Role::of(self.g, op));
        let (reads, makes) = (g.inputs_of(op), g.outputs_of(op));
        let [reads, makes] = [reads, makes].map(|slots| slots.into_iter().flatten().collect::<Vec<_>>());
        g.captures_of(op).into_iter().for_each(|v| self.close(v));
        let (Some(y), Some(x)) = (g.output(op, 0), reads.first()) else { return };
        match role {
            Role::Linear => {
                let node = g.op(op);
                let at = |v: ValueId| g.rank(v).map(|rank| channels(node, rank));
                if let Some(x) = g.input(op, 0) {
                    self.touch(op, x, at(x), &[(1, Meets::Reads)]);
                }
                let biased = g.input(op, 2).is_some();
                let made = [(1, Meets::Makes), (2, Meets::Adds(0))];
                self.touch(op, y, at(y), &made[..1 + usize::from(biased)]);
            }
            Role::Normalizes(axis) => {
                reads.iter().for_each(|v| self.close(*v));
                let made = [(1, Meets::Adds(0)), (2, Meets::Adds(0))];
                self.touch(op, y, Some(axis), &made[..1 + usize::from(g.input(op, 2).is_some())]);
            }
            Role::Multiplies(slot) => {
                for (v, scales) in [(g.input(op, 1 - slot), true), (Some(y), false)] {
                    let Some(v) = v else { continue };
                    for (leaf, axis) in self.leaves(v) {
                        match self.lined_up(op, slot, y, axis, leaf) {
                            Some(k) if g.rank(v) == g.rank(y) => {
                                let meets = if scales { Meets::Scales(k) } else { Meets::Adds(k) };
                                self.touch(op, v, Some(axis), &[(slot, meets)]);
                            }
                            _ => self.close_one((v, leaf)),
                        }
                    }
                }
            }
            Role::Moves => {
                let node = g.op(op);
                for y in &makes {
                    let cut = |leaf| node.is("Slice") && self.flow.arena.frozen(leaf).is_some();
                    let shared = |(leaf, _): &(Factor, usize)| {
                        !cut(*leaf) && self.leaves(*y).iter().any(|(other, _)| other == leaf)
                    };
                    let (both, only): (Vec<_>, Vec<_>) = self.leaves(*x).into_iter().partition(shared);
                    both.iter().for_each(|(leaf, _)| self.join((*x, *leaf), (*y, *leaf)));
                    if !node.is("Split") {
                        only.iter().for_each(|(leaf, _)| self.close_one((*x, *leaf)));
                    }
                    let lost = |(leaf, _): &(Factor, usize)| !both.iter().any(|(other, _)| other == leaf);
                    let new: Vec<_> = self.leaves(*y).into_iter().filter(lost).collect();
                    new.iter().for_each(|(leaf, _)| self.close_one((*y, *leaf)));
                }
            }
            Role::Joins => self.join_all(op, &reads, y),
            Role::Other => reads.iter().chain(&makes).for_each(|v| self.close(*v)),
        }
    }
    /// Every operand has the leaf, or, of a concatenation, those that bring it in.
    fn join_all(&mut self, op: OpId, reads: &[ValueId], y: ValueId) {
        let node = self.g.op(op);
        let along = self.g.rank(y).zip(node.int("axis").filter(|_| node.is("Concat")));
        let along = along.map(|(rank, axis)| if axis < 0 { axis + rank as i64 } else { axis } as usize);
        for (leaf, axis) in self.leaves(y) {
            for (slot, v) in reads.iter().enumerate() {
                let constant = self.g.constant(*v).is_some();
                let has = self.leaves(*v).iter().any(|(other, _)| *other == leaf);
                match has {
                    true if constant && along.is_none() => match self.lined_up(op, slot, y, axis, leaf) {
                        Some(k) if is_own(self.g, *v) => {
                            self.touch(op, y, Some(axis), &[(slot, Meets::Adds(k))]);
                        }
                        _ => self.close_one((y, leaf)),
                    },
                    true if !constant => self.join((*v, leaf), (y, leaf)),
                    false if along == Some(axis) => {}
                    _ => self.close_one((y, leaf)),
                }
            }
        }
        for v in reads.iter().filter(|v| self.g.constant(**v).is_none()) {
            let here = self.leaves(y);
            let lost = |(leaf, _): &(Factor, usize)| !here.iter().any(|(other, _)| other == leaf);
            let lost: Vec<_> = self.leaves(*v).into_iter().filter(lost).collect();
            lost.iter().for_each(|(leaf, _)| self.close_one((*v, *leaf)));
        }
    }
    /// The axis of a constant operand that lies along an axis of the result, where it has an element for each index.
    fn lined_up(&self, op: OpId, slot: usize, y: ValueId, axis: usize, leaf: Factor) -> Option<usize> {
        let shape = self.g.constant(self.g.input(op, slot)?)?.shape();
        let k = (axis + shape.len()).checked_sub(self.g.rank(y)?)?;
        let size = self.flow.arena.size(self.flow.known_dims(y)[axis])?;
        (shape.get(k) == Some(&size) && self.flow.arena.size(leaf)? > 1).then_some(k)
    }
    /// The leaves of a value's axes of more than one element, each with its axis.
    fn leaves(&self, v: ValueId) -> Vec<(Factor, usize)> {
        let arena = &self.flow.arena;
        let dims = self.flow.known_dims(v).iter().enumerate();
        let leaves = dims.flat_map(|(axis, f)| arena.leaves(*f).into_iter().map(move |leaf| (leaf, axis)));
        leaves.filter(|(leaf, _)| arena.size(*leaf).is_some_and(|n| n > 1)).collect()
    }
    /// The leaves along `axis` are touched by constants, all others of the value closed.
    fn touch(&mut self, op: OpId, v: ValueId, axis: Option<usize>, by: &[(usize, Meets)]) {
        for (leaf, at) in self.leaves(v) {
            let positions = match axis == Some(at) {
                true => self.flow.arena.labels(self.flow.known_dims(v)[at], leaf),
                false => Vec::new(),
            };
            let fits = |(slot, meets): &(usize, Meets)| {
                let tensor = self.g.input(op, *slot).and_then(|c| self.g.constant(c));
                tensor.is_some_and(|t| match meets {
                    Meets::Scales(k) | Meets::Adds(k) => {
                        t.shape().get(*k) == Some(&positions.len())
                            && (t.rank() == 1 || self.g.op(op).is("Mul") || *slot != 2)
                    }
                    _ => ends(self.g.op(op), t.shape()).is_some(),
                })
            };
            if positions.is_empty() || !by.iter().all(fits) {
                // A linear layer does not mind what its other axes are, but what makes them does not end here.
                self.close_one((v, leaf));
                continue;
            }
            let place = self.place((v, leaf));
            for (slot, meets) in by {
                let touch = Touch { op, slot: *slot, meets: *meets, positions: positions.clone() };
                self.touches.push((place, touch));
            }
        }
    }
    fn place(&mut self, place: Place) -> usize {
        let next = self.joined.len();
        self.joined.insert_full(place, *self.joined.get(&place).unwrap_or(&next)).0
    }
    fn root(&self, mut at: usize) -> usize {
        while self.joined[at] != at {
            at = self.joined[at];
        }
        at
    }
    fn join(&mut self, a: Place, b: Place) {
        let [a, b] = [a, b].map(|place| self.place(place));
        let [a, b] = [a, b].map(|at| self.root(at));
        self.joined[a.max(b)] = a.min(b);
    }
    fn close_one(&mut self, place: Place) {
        let at = self.place(place);
        self.closed.push(at);
    }
    fn close(&mut self, v: ValueId) {
        self.leaves(v).into_iter().for_each(|(leaf, _)| self.close_one((v, leaf)));
    }
    fn finish(mut self) -> Vec<Seam> {
        // One leaf on two axes of a value has no scale of its own.
        for v in self.g.values() {
            let leaves = self.leaves(v);
            for (k, (leaf, _)) in leaves.iter().enumerate() {
                if leaves[..k].iter().any(|(other, _)| other == leaf) {
                    self.close_one((v, *leaf));
                }
            }
        }
        let mut seams: IndexMap<usize, Seam> = IndexMap::new();
        for ((v, leaf), at) in self.joined.keys().zip(0..) {
            let arena = &self.flow.arena;
            let size = arena.size(*leaf).unwrap_or(0);
            let new = || Seam { size, touches: Vec::new(), values: Vec::new() };
            let seam = seams.entry(self.root(at)).or_insert_with(new);
            let mut dims = self.flow.known_dims(*v).iter().enumerate();
            if let Some((axis, f)) = dims.find(|(_, f)| arena.leaves(**f).contains(leaf)) {
                seam.values.push(Held { value: *v, axis, positions: arena.labels(*f, *leaf) });
            }
        }
        for at in &self.closed {
            seams.swap_remove(&self.root(*at));
        }
        for (at, touch) in &self.touches {
            if let Some(seam) = seams.get_mut(&self.root(*at)) {
                seam.touches.push(touch.clone());
            }
        }
        seams.sort_unstable_keys();
        let ends = |seam: &Seam, reads: bool| {
            seam.touches.iter().any(|t| if reads { t.meets == Meets::Reads } else { t.meets != Meets::Reads })
        };
        seams.into_values().filter(|seam| ends(seam, true) && ends(seam, false)).collect()
    }
}
