//! Depth: an operand of a sum that can go as a whole, with all that is computed for it alone, as the blocks of a residual
//! network can. The other operand then stands where the sum stood.

use super::{
    is_quantized,
    select::{Candidate, Droppable},
};
use crate::{
    ir::{Dim, Graph, Model, OpId, ValueId, Where},
    ops::axes::keeps_zero,
    passes::linear::Layer,
};
use globset::GlobSet;
use std::collections::HashSet;

/// The branches that are not excluded by the name of a weight or an op.
pub(super) fn open(model: &Model, exclude: &GlobSet) -> Vec<Branch> {
    let g = &model.graph;
    let excluded = |branch: &Branch| {
        let weights = branch.weights.iter().map(|v| g.name_of(*v).to_owned());
        let ops = branch.ops.iter().map(|op| g.place(*op).name().to_owned());
        !exclude.is_empty() && weights.chain(ops).any(|name| exclude.is_match(name))
    };
    Branch::all(model).into_iter().filter(|b| !excluded(b)).collect()
}

/// What may go, with the candidates that go along.
pub(super) fn droppable(branches: Vec<Branch>, damage: Vec<f64>, candidates: &[Candidate]) -> Vec<Droppable> {
    let inside = |branch: &Branch| {
        let goes = |c: &Candidate| c.group.members.iter().all(|m| branch.weights.contains(&m.value));
        (0..candidates.len()).filter(|k| goes(&candidates[*k])).collect()
    };
    // Outputs that are no numbers tell nothing.
    let told = branches.into_iter().zip(damage).filter(|(_, damage)| *damage > 0.0);
    told.map(|(branch, damage)| Droppable { inside: inside(&branch), branch, damage }).collect()
}

/// An operand of an Add of two computed values of the same shape, at the end of which is a linear layer.
#[derive(Clone, Debug)]
pub struct Branch {
    pub(super) sum: OpId,
    /// Which operand.
    slot: usize,
    /// With zero weights, this makes the operand zero.
    last: Layer,
    /// What goes with it.
    pub(super) ops: HashSet<OpId>,
    pub(super) weights: HashSet<ValueId>,
}

impl Branch {
    /// Every one of the main graph that takes a layer with it, and no quantized weights. The model's types must have been
    /// inferred.
    pub fn all(model: &Model) -> Vec<Branch> {
        let g = &model.graph;
        let sums = g.order().into_iter().filter(|op| g.op(*op).is("Add"));
        let branches = sums.flat_map(|sum| [0, 1].map(|slot| Branch::at(model, sum, slot)));
        branches.flatten().filter(|b| !b.weights.iter().any(|v| is_quantized(g, *v))).collect()
    }
    /// The one that is known by [`Branch::name`].
    pub(super) fn named(model: &Model, (sum, slot): &(String, usize)) -> Option<Branch> {
        let (sum, _) = model.graph.producer(model.graph.find(sum)?)?;
        Branch::at(model, sum, *slot)
    }
    fn at(model: &Model, sum: OpId, slot: usize) -> Option<Branch> {
        let g = &model.graph;
        let (branch, other, output) =
            (g.input(sum, slot)?, g.input(sum, 1 - slot.min(1))?, g.output(sum, 0)?);
        let same = g.shape(other)? == g.shape(output)? && !g.shape(other)?.contains(&Dim::Unknown);
        (same && g.constant(other).is_none() && !g.is_output(output)).then_some(())?;
        let last = zeroing(model, branch)?;
        let mut without = g.clone();
        drop_from(&mut without, sum, slot)?;
        let (ops, weights): (HashSet<_>, HashSet<_>) = (without.ops().collect(), without.values().collect());
        let ops: HashSet<OpId> = g.ops().filter(|op| *op != sum && !ops.contains(op)).collect();
        let weights = g.initializers().map(|(v, _)| v).filter(|v| !weights.contains(v)).collect();
        ops.contains(&last.op).then_some(Branch { sum, slot, last, ops, weights })
    }
    /// The name of what the sum puts out, and which operand goes: what the model is known by afterwards.
    pub(super) fn name(&self, g: &Graph) -> (String, usize) {
        (g.output(self.sum, 0).map_or("", |v| g.name_of(v)).to_owned(), self.slot)
    }
    /// Takes it out of a graph, where another one has not taken it along, and returns what then stands for the sum.
    pub fn drop_from(&self, g: &mut Graph) -> Option<ValueId> {
        let still = g.ops().any(|op| op == self.sum);
        still.then(|| drop_from(g, self.sum, self.slot)).flatten()
    }
    /// Makes it zero instead, with which the model computes the same as without it.
    pub fn zero(&self, g: &mut Graph) {
        self.last.silence(g);
    }
    pub(super) fn place(&self, g: &Graph) -> Where {
        g.place(self.last.op)
    }
}

fn drop_from(g: &mut Graph, sum: OpId, slot: usize) -> Option<ValueId> {
    let (output, other) = (g.output(sum, 0)?, g.input(sum, 1 - slot.min(1))?);
    g.replace_uses(output, other);
    g.sweep();
    Some(other)
}

/// The linear layer whose zero weights make a value zero.
fn zeroing(model: &Model, value: ValueId) -> Option<Layer> {
    let (g, opset) = (&model.graph, model.opset());
    let computed = |op: OpId| g.inputs_of(op).into_iter().flatten().find(|v| g.constant(*v).is_none());
    let mut at = value;
    loop {
        let (op, _) = g.producer(at)?;
        // A MatMul has its bias in an Add behind it.
        let behind = || g.producer(computed(op)?).map(|(op, _)| op).filter(|_| g.op(op).is("Add"));
        let layer = |op| Layer::of(g, op, opset)?.ok().filter(|layer| layer.output == at);
        if let Some(layer) = layer(op).or_else(|| layer(behind()?)) {
            return Some(layer);
        }
        let node = g.op(op);
        at = match node.is_standard() {
            true if node.is("Mul") => computed(op)?,
            true if keeps_zero(&node.op_type) => g.input(op, 0)?,
            _ => return None,
        };
    }
}
