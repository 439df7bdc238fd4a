//! The analysis: every axis of every value of a model becomes a factor, every op unifies some. In a body of control flow
//! the axes of what it captures are those of the graph around it.

use super::{
    attention, contrib, einsum,
    factor::{Arena, Factor, Factors},
    rewrite::Rewrite,
    rule, structural, table,
};
use crate::ir::{Graph, Model, OpId, Origin, Tensor, ValueId};
use std::collections::{HashMap, HashSet};

/// The axes of a model. Types must have been inferred: axes of values without a known rank are not followed.
pub struct Flow<'g> {
    pub(super) graph: &'g Graph,
    pub(super) opset: i64,
    /// All factors. A body has none of its own: while it is analysed it works in those of the main graph.
    pub arena: Arena,
    pub(super) rewrites: Vec<Rewrite>,
    /// Sums of products inside operators that are no MatMul: the operands that have the axis summed over, and the axis.
    pub(super) sums: Vec<(Vec<ValueId>, Factor)>,
    dims: HashMap<ValueId, Factors>,
    /// The axes that a computed shape describes.
    pub(super) shapes: HashMap<ValueId, Factors>,
    /// What a body captures that is an initializer outside.
    pub(super) weights: HashSet<ValueId>,
    /// What a body captures that is constant outside.
    constants: HashMap<ValueId, &'g Tensor>,
    /// The bodies of each op that has any, in order.
    pub(super) bodies: Vec<(OpId, Vec<Flow<'g>>)>,
}

impl<'g> Flow<'g> {
    /// Analyses the main graph and the bodies in it. Graph inputs and outputs, what goes into and comes out of bodies, and
    /// the operands of operators without a rule keep their extents.
    pub fn of(model: &'g Model) -> Flow<'g> {
        let mut flow = Flow::over(&model.graph, model.opset());
        flow.walk("graph input", "graph output");
        flow.mark_leftovers();
        flow
    }
    fn over(graph: &'g Graph, opset: i64) -> Flow<'g> {
        let (arena, rewrites, sums, dims, shapes, weights, constants, bodies) = Default::default();
        Flow { graph, opset, arena, rewrites, sums, dims, shapes, weights, constants, bodies }
    }
    fn walk(&mut self, input: &str, output: &str) {
        let graph = self.graph;
        for v in &graph.inputs {
            self.freeze_value(*v, input);
        }
        for op in graph.order() {
            self.visit(op);
        }
        for v in &graph.outputs {
            self.freeze_value(*v, output);
        }
    }
    fn visit(&mut self, op: OpId) {
        let node = self.graph.op(op);
        let of_its_own = attention::apply(self, op)
            .or_else(|| einsum::apply(self, op))
            .or_else(|| contrib::apply(self, op))
            .is_some();
        let known = of_its_own
            || node.is_standard()
                && match table::find(node, self.opset) {
                    Some(line) => rule::apply(self, op, line.text, line.bound).is_some(),
                    None => structural::apply(self, op).is_some(),
                };
        if !known {
            self.freeze_op(op, &format!("no axis rule covers {} here", node.op_type));
        }
        let bodies: Vec<_> = self.graph.op(op).bodies().map(|body| self.body(body)).collect();
        if !bodies.is_empty() {
            self.bodies.push((op, bodies));
        }
    }
    /// Analyses a body of an op of this graph.
    fn body(&mut self, graph: &'g Graph) -> Flow<'g> {
        let mut body = Flow::over(graph, self.opset);
        for v in graph.values().filter(|v| graph.value(*v).origin == Origin::Captured) {
            let Some(outer) = self.graph.find(graph.name_of(v)) else { continue };
            body.dims.extend(self.dims(outer).map(|dims| (v, dims)));
            if self.is_weight(outer) {
                body.weights.insert(v);
            }
            body.constants.extend(self.constant(outer).map(|tensor| (v, tensor)));
        }
        std::mem::swap(&mut self.arena, &mut body.arena);
        body.walk("goes into a control-flow body", "comes out of a control-flow body");
        // Only what the main graph holds is cut.
        graph.initializers().for_each(|(v, _)| body.freeze_value(v, "a constant of a control-flow body"));
        std::mem::swap(&mut self.arena, &mut body.arena);
        body
    }
    /// Whether a value is an initializer, here or outside.
    pub(super) fn is_weight(&self, v: ValueId) -> bool {
        self.graph.initializer(v).is_some() || self.weights.contains(&v)
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
        self.constant(self.graph.input(op, slot)?)?.to_i64()
    }
    /// The constant that a value is, here or outside.
    pub(super) fn constant(&self, v: ValueId) -> Option<&'g Tensor> {
        self.graph.constant(v).or_else(|| self.constants.get(&v).copied())
    }
}
