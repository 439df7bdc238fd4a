//! The analysis: every axis of every value of a model's main graph becomes a factor, every op unifies some.

use super::{
    attention, einsum,
    factor::{Arena, Factor, Factors},
    rewrite::Rewrite,
    rule, structural, table,
};
use crate::ir::{Graph, Model, OpId, ValueId};
use std::collections::HashMap;

/// The axes of a model. Types must have been inferred: axes of values without a known rank are not followed.
pub struct Flow<'g> {
    pub(super) graph: &'g Graph,
    pub(super) opset: i64,
    /// All factors.
    pub arena: Arena,
    pub(super) rewrites: Vec<Rewrite>,
    /// Sums of products inside operators that are no MatMul: the operands that have the axis summed over, and the axis.
    pub(super) sums: Vec<(Vec<ValueId>, Factor)>,
    dims: HashMap<ValueId, Factors>,
    /// The axes that a computed shape describes.
    pub(super) shapes: HashMap<ValueId, Factors>,
}

impl<'g> Flow<'g> {
    /// Analyses the main graph. What bodies of control flow capture, graph inputs and outputs, and the operands of
    /// operators without a rule keep their extents.
    pub fn of(model: &'g Model) -> Flow<'g> {
        let graph = &model.graph;
        let (arena, rewrites, sums, dims, shapes) = Default::default();
        let mut flow = Flow { graph, opset: model.opset(), arena, rewrites, sums, dims, shapes };
        for v in &graph.inputs {
            flow.freeze_value(*v, "graph input");
        }
        for op in graph.order() {
            flow.visit(op);
        }
        for v in &graph.outputs {
            flow.freeze_value(*v, "graph output");
        }
        flow.mark_leftovers();
        flow
    }
    fn visit(&mut self, op: OpId) {
        let node = self.graph.op(op);
        let of_its_own = attention::apply(self, op).or_else(|| einsum::apply(self, op)).is_some();
        let known = of_its_own
            || node.is_standard()
                && match table::find(node, self.opset) {
                    Some(line) => rule::apply(self, op, line.text, line.bound).is_some(),
                    None => structural::apply(self, op).is_some(),
                };
        if !known {
            self.freeze_op(op, &format!("no axis rule covers {} here", node.op_type));
        }
        for v in self.graph.captures_of(op) {
            self.freeze_value(v, "used inside a control-flow body");
        }
    }
    /// The factors of a value's axes; `None` where its rank is not known.
    pub fn dims(&mut self, v: ValueId) -> Option<Factors> {
        if let Some(dims) = self.dims.get(&v) {
            return Some(dims.clone());
        }
        let shape = self.graph.shape(v)?;
        let dims: Factors = shape.iter().map(|d| self.arena.leaf(d.known())).collect();
        self.dims.insert(v, dims.clone());
        Some(dims)
    }
    /// The factors of a value's axes, where the analysis met it.
    pub fn known_dims(&self, v: ValueId) -> &[Factor] {
        self.dims.get(&v).map_or(&[], |d| d)
    }
    pub(super) fn freeze_value(&mut self, v: ValueId, why: &str) {
        for f in self.dims(v).unwrap_or_default() {
            self.arena.freeze(f, why);
        }
    }
    fn freeze_op(&mut self, op: OpId, why: &str) {
        let slots = [self.graph.inputs_of(op), self.graph.outputs_of(op)];
        for v in slots.into_iter().flatten().flatten() {
            self.freeze_value(v, why);
        }
    }
    /// The factors of an op's input, where it is there and of known rank.
    pub(super) fn input(&mut self, op: OpId, slot: usize) -> Option<Factors> {
        self.dims(self.graph.input(op, slot)?)
    }
    /// The factors of an op's output, where it is there and of known rank.
    pub(super) fn output(&mut self, op: OpId, slot: usize) -> Option<Factors> {
        self.dims(self.graph.output(op, slot)?)
    }
    /// The integers of a constant input; `None` where it is absent or computed.
    pub(super) fn ints(&self, op: OpId, slot: usize) -> Option<Vec<i64>> {
        self.graph.constant(self.graph.input(op, slot)?)?.to_i64()
    }
}
