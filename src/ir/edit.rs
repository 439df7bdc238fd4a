//! Edits: the only ways to change a graph's structure. Each keeps the invariants of [`Graph::verify`].

use super::{
    Graph, Op, OpId, Origin, Tensor, Type, Use, Value, ValueId,
    graph::{Edge, Entity},
};
use petgraph::{
    Direction::{Incoming, Outgoing},
    visit::EdgeRef,
};
use std::collections::HashSet;

impl Graph {
    /// A new value under `hint`, or a name made from it where that is taken.
    pub fn add_value(&mut self, hint: &str, ty: Option<Type>) -> ValueId {
        let name = self.names.fresh(if hint.is_empty() { "value" } else { hint });
        self.insert_value(Value { name, ty, ..Value::default() })
    }
    /// The value of exactly that name, made if it is not there yet. For readers of files and text.
    pub fn named_value(&mut self, name: &str) -> ValueId {
        if let Some(v) = self.find(name) {
            return v;
        }
        self.names.take(name);
        self.insert_value(Value { name: name.to_owned(), ..Value::default() })
    }
    pub(super) fn insert_value(&mut self, value: Value) -> ValueId {
        let name = value.name.clone();
        let id = ValueId(self.g.add_node(Entity::Value(Box::new(value))));
        self.by_name.insert(name, id);
        id
    }
    /// A new constant under `hint`, or a name made from it where that is taken.
    pub fn add_initializer(&mut self, hint: &str, tensor: Tensor) -> ValueId {
        let v = self.add_value(hint, None);
        self.value_mut(v).origin = Origin::Initializer(tensor);
        v
    }
    /// A new graph input.
    pub fn add_input(&mut self, hint: &str, ty: Type) -> ValueId {
        let v = self.add_value(hint, Some(ty));
        self.inputs.push(v);
        v
    }
    /// A new op. Outputs must be values that nothing defines yet. Values its bodies capture are found by name.
    pub fn add_op(&mut self, op: Op, inputs: &[Option<ValueId>], outputs: &[Option<ValueId>]) -> OpId {
        let has_bodies = op.bodies().next().is_some();
        let id = OpId(self.g.add_node(Entity::Op(Box::new(op), [0, 0])));
        self.set_inputs(id, inputs);
        self.set_outputs(id, outputs);
        if has_bodies {
            self.refresh_captures(id);
        }
        id
    }
    /// A new op with one new output of the given type, named after `hint`; returns that output.
    pub fn add_node(&mut self, op: Op, inputs: &[ValueId], hint: &str, ty: Option<Type>) -> ValueId {
        let out = self.add_value(hint, ty);
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.add_op(op, &inputs, &[Some(out)]);
        out
    }
    /// Replaces all inputs of an op.
    pub fn set_inputs(&mut self, id: OpId, inputs: &[Option<ValueId>]) {
        self.set_slots(id, 0, inputs);
    }
    /// Replaces all outputs of an op. Values it no longer defines must be given a new definition or lose their uses.
    pub fn set_outputs(&mut self, id: OpId, outputs: &[Option<ValueId>]) {
        self.set_slots(id, 1, outputs);
    }
    /// Replaces one input of an op, growing its slots if need be.
    pub fn set_input(&mut self, id: OpId, slot: usize, value: Option<ValueId>) {
        let mut inputs = self.inputs_of(id);
        if inputs.len() <= slot {
            inputs.resize(slot + 1, None);
        }
        inputs[slot] = value;
        self.set_inputs(id, &inputs);
    }
    fn set_slots(&mut self, id: OpId, side: usize, values: &[Option<ValueId>]) {
        let direction = if side == 0 { Incoming } else { Outgoing };
        let old: Vec<_> = self
            .g
            .edges_directed(id.0, direction)
            .filter(|e| *e.weight() != Edge::Capture)
            .map(|e| e.id())
            .collect();
        for e in old {
            self.g.remove_edge(e);
        }
        for (k, v) in values.iter().enumerate() {
            if let Some(v) = v {
                let ends = if side == 0 { (v.0, id.0) } else { (id.0, v.0) };
                self.g.add_edge(ends.0, ends.1, Edge::Slot(k as u32));
            }
        }
        if let Entity::Op(_, arity) = &mut self.g[id.0] {
            arity[side] = values.len();
        }
    }
    /// Makes every op (and body) that uses `from` use `to` instead. Graph outputs are not touched.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        if from == to {
            return;
        }
        for u in self.uses(from) {
            self.replace_use(u, from, to);
        }
    }
    /// Makes one use of `from` use `to` instead.
    pub fn replace_use(&mut self, at: Use, from: ValueId, to: ValueId) {
        match at {
            Use::Input(op, slot) => self.set_input(op, slot, Some(to)),
            Use::Capture(op) => {
                let (old, new) = (self.name_of(from).to_owned(), self.name_of(to).to_owned());
                for body in self.op_mut(op).bodies_mut() {
                    body.recapture(&old, &new);
                }
                self.refresh_captures(op);
            }
        }
    }
    /// In a body: what was captured under `old` is now captured under `new`.
    fn recapture(&mut self, old: &str, new: &str) {
        let Some(v) = self.find(old).filter(|v| self.value(*v).origin == Origin::Captured) else { return };
        match self.find(new) {
            Some(existing) => {
                self.replace_value(v, existing);
                self.remove_value_if_unused(v);
            }
            None => self.rename(v, new),
        }
    }
    /// Makes `to` stand wherever `from` stood, graph outputs included. If `from` was a graph output, `to` takes over
    /// its name, so the graph's interface stays as it was; where `to` cannot (it is itself an input, an output, a
    /// constant or captured), an Identity op keeps computing `from`.
    pub fn replace_value(&mut self, from: ValueId, to: ValueId) {
        if from == to {
            return;
        }
        self.replace_uses(from, to);
        if !self.is_output(from) {
            return;
        }
        self.undefine(from);
        let fixed = self.is_input(to) || self.is_output(to) || self.value(to).origin != Origin::Computed;
        if fixed {
            let name = format!("{}_identity", self.name_of(from));
            self.add_op(Op::new("Identity", name), &[Some(to)], &[Some(from)]);
            return;
        }
        let interface = self.value(from).clone();
        self.by_name.remove(&interface.name);
        for o in &mut self.outputs {
            if *o == from {
                *o = to;
            }
        }
        self.g[from.0] = Entity::Removed;
        self.rename(to, &interface.name);
        let value = self.value_mut(to);
        value.ty = interface.ty.or_else(|| value.ty.take());
        value.carried = interface.carried;
    }
    /// Takes away a value's definition (its producer keeps an empty slot).
    fn undefine(&mut self, v: ValueId) {
        if let Some((op, slot)) = self.producer(v) {
            let mut outputs = self.outputs_of(op);
            outputs[slot] = None;
            self.set_outputs(op, &outputs);
        }
    }
    /// Gives a value another name, also in the bodies that capture it. The name must be free in this graph.
    pub fn rename(&mut self, v: ValueId, name: &str) {
        let old = self.name_of(v).to_owned();
        if old == name {
            return;
        }
        self.names.take(name);
        self.by_name.remove(&old);
        self.by_name.insert(name.to_owned(), v);
        self.value_mut(v).name = name.to_owned();
        for u in self.uses(v) {
            if let Use::Capture(op) = u {
                for body in self.op_mut(op).bodies_mut() {
                    body.recapture(&old, name);
                }
            }
        }
    }
    /// Gives a value of a body a name that no graph of the model uses.
    pub fn make_unique(&mut self, v: ValueId) {
        let name = self.names.fresh(self.name_of(v));
        self.rename(v, &name);
    }
    /// Makes a value a constant. Whatever computed it no longer does, and it is no graph input any more.
    pub fn make_constant(&mut self, v: ValueId, tensor: Tensor) {
        self.undefine(v);
        self.inputs.retain(|i| *i != v);
        self.value_mut(v).origin = Origin::Initializer(tensor);
    }
    /// Removes an op; its outputs stay, undefined, and must be replaced or swept.
    pub fn remove_op(&mut self, id: OpId) {
        debug_assert!(self.has_op(id), "an op is removed once");
        let edges: Vec<_> = self
            .g
            .edges_directed(id.0, Incoming)
            .chain(self.g.edges_directed(id.0, Outgoing))
            .map(|e| e.id())
            .collect();
        for e in edges {
            self.g.remove_edge(e);
        }
        self.g[id.0] = Entity::Removed;
    }
    /// Removes a value that nothing uses, computes, takes in or gives out; says whether it did.
    pub fn remove_value_if_unused(&mut self, v: ValueId) -> bool {
        let unused = self.g.edges(v.0).next().is_none() && self.producer(v).is_none();
        if !unused || self.is_input(v) || self.is_output(v) {
            return false;
        }
        let name = self.name_of(v).to_owned();
        self.by_name.remove(&name);
        self.g[v.0] = Entity::Removed;
        true
    }
    /// Brings an op's capture edges in line with what its bodies capture, dropping captures no body uses any more.
    pub fn refresh_captures(&mut self, id: OpId) {
        let old: Vec<_> = self
            .g
            .edges_directed(id.0, Incoming)
            .filter(|e| *e.weight() == Edge::Capture)
            .map(|e| e.id())
            .collect();
        for e in old {
            self.g.remove_edge(e);
        }
        let mut names: Vec<String> = Vec::new();
        for body in self.op_mut(id).bodies_mut() {
            let captured: Vec<_> =
                body.values().filter(|v| body.value(*v).origin == Origin::Captured).collect();
            for v in captured {
                if !body.remove_value_if_unused(v) {
                    names.push(body.name_of(v).to_owned());
                }
            }
        }
        let mut seen = HashSet::new();
        for name in names {
            if let Some(v) = self.find(&name).filter(|v| seen.insert(*v)) {
                self.g.add_edge(v.0, id.0, Edge::Capture);
            }
        }
    }
    /// Moves a constant, with its scheme, into the body that alone reads it; returns the op of that and which of its bodies it is.
    pub fn sink(&mut self, v: ValueId) -> Option<(OpId, usize)> {
        let constant = matches!(self.value(v).origin, Origin::Initializer(_)) && !self.is_input(v);
        let (op, which) = self.sole_body(v).filter(|_| constant)?;
        // From here on nothing is missing: that body captures the value by its name.
        let (name, value) = (self.name_of(v).to_owned(), self.value_mut(v));
        let (origin, scheme) = (std::mem::take(&mut value.origin), value.quant.take());
        let body = self.op_mut(op).bodies_mut().nth(which)?;
        let inner = body.value_mut(body.find(&name)?);
        (inner.origin, inner.quant) = (origin, scheme);
        self.refresh_captures(op);
        self.remove_value_if_unused(v);
        Some((op, which))
    }
    /// Changes each body of an op through `f`, then brings the captures in line. `f` says whether it changed the body.
    pub fn edit_bodies(&mut self, id: OpId, mut f: impl FnMut(&mut Graph) -> bool) -> bool {
        let mut changed = false;
        for body in self.op_mut(id).bodies_mut() {
            changed |= f(body);
        }
        if changed {
            self.refresh_captures(id);
        }
        changed
    }
    /// Removes ops whose outputs nothing needs, and values that nothing refers to; returns how many ops went.
    /// Graph inputs and outputs stay. Bodies are swept too.
    pub fn sweep(&mut self) -> usize {
        let mut removed = 0;
        let ops: Vec<_> = self.ops().collect();
        for op in ops {
            let mut inner = 0;
            self.edit_bodies(op, |body| {
                inner += body.sweep();
                true
            });
            removed += inner;
        }
        for op in self.order().into_iter().rev() {
            let outputs = self.outputs_of(op);
            let needed =
                outputs.iter().flatten().any(|v| self.is_output(*v) || self.g.edges(v.0).next().is_some());
            if !needed {
                self.remove_op(op);
                removed += 1;
            }
        }
        let outputs: HashSet<_> = self.outputs.iter().chain(&self.inputs).copied().collect();
        let values: Vec<_> = self.values().filter(|v| !outputs.contains(v)).collect();
        for v in values {
            self.remove_value_if_unused(v);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim};

    fn float(n: usize) -> Type {
        Type::tensor(DType::F32, [Dim::Known(n)])
    }
    /// x -> Relu -> a -> Neg -> y, and an If whose branch captures `a`.
    fn sample() -> (Graph, ValueId, ValueId, OpId) {
        let mut g = Graph::new("main");
        let x = g.add_input("x", float(2));
        let cond = g.add_input("cond", Type::tensor(DType::Bool, []));
        let a = g.add_node(Op::new("Relu", "relu"), &[x], "a", None);
        let y = g.add_node(Op::new("Neg", "neg"), &[a], "y", Some(float(2)));
        let mut branch = g.new_body("then");
        let inner = branch.named_value("a");
        branch.value_mut(inner).origin = Origin::Captured;
        let out = branch.add_node(Op::new("Abs", "abs"), &[inner], "t", None);
        branch.outputs.push(out);
        let z = g.add_value("z", None);
        let choose = Op::new("If", "if").with("then_branch", branch.clone()).with("else_branch", branch);
        let op = g.add_op(choose, &[Some(cond)], &[Some(z)]);
        g.outputs = vec![y, z];
        g.verify().unwrap();
        (g, x, a, op)
    }

    #[test]
    fn captures_are_uses_and_follow_renames() {
        let (mut g, _, a, op) = sample();
        assert_eq!(g.uses(a).len(), 2);
        assert_eq!(g.captures_of(op), [a]);
        g.rename(a, "b");
        g.verify().unwrap();
        assert!(g.op(op).bodies().all(|b| b.find("b").is_some() && b.find("a").is_none()));
    }
    #[test]
    fn replacing_a_value_reaches_into_bodies() {
        let (mut g, x, a, op) = sample();
        g.replace_value(a, x);
        assert_eq!(g.sweep(), 1, "the Relu is dead now");
        g.verify().unwrap();
        assert_eq!(g.captures_of(op), [x]);
    }
    #[test]
    fn an_output_keeps_its_name() {
        let (mut g, x, a, _) = sample();
        let y = g.outputs[0];
        g.replace_value(y, a);
        g.sweep();
        g.verify().unwrap();
        assert_eq!(g.name_of(g.outputs[0]), "y");
        let (y, _) = (g.outputs[0], g.uses(x));
        g.replace_value(y, x);
        g.sweep();
        g.verify().unwrap();
        assert_eq!(g.name_of(g.outputs[0]), "y", "an input cannot be renamed, so an Identity stands between");
    }
}
