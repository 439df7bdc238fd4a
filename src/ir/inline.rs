//! Moving what a body computes into the graph around it, and bodies that were changed elsewhere back into their ops.

use super::{Graph, OpId, Origin, ValueId, graph::Names};
use std::collections::{BTreeSet, HashMap, HashSet};

impl Graph {
    /// A copy of a graph of another scope, such as the body of a function, to be a body in this one: what it defines, in
    /// nested bodies too, gets a name that is fresh here.
    pub fn adopt(&self, other: &Graph) -> Graph {
        let mut names = BTreeSet::new();
        other.for_each_nested(&mut |g| names.extend(g.by_name.keys().cloned()));
        let renamed = names.iter().map(|name| {
            let mut fresh = self.names.fresh(name);
            while fresh != *name && names.contains(&fresh) {
                fresh = self.names.fresh(name);
            }
            (name.clone(), fresh)
        });
        let mut copy = other.clone();
        copy.move_into(self, &renamed.collect());
        copy
    }

    /// Gives this graph and its bodies the name table of another one, and the names that are fresh there.
    fn move_into(&mut self, scope: &Graph, renamed: &HashMap<String, String>) {
        self.names = scope.names.clone();
        for op in self.ops().collect::<Vec<_>>() {
            self.op_mut(op).bodies_mut().for_each(|body| body.move_into(scope, renamed));
        }
        for v in self.defined() {
            if let Some(fresh) = renamed.get(self.name_of(v)) {
                self.rename_annotated(v, fresh);
            }
        }
    }

    /// The values that this graph does not take from the graph around it.
    fn defined(&self) -> Vec<ValueId> {
        self.values().filter(|v| self.value(*v).origin != Origin::Captured).collect()
    }

    /// Gives a value another name, also in the quantization annotations.
    fn rename_annotated(&mut self, v: ValueId, name: &str) {
        let old = self.name_of(v).to_owned();
        for annotation in &mut self.annotations {
            let tensors = annotation.parameters.iter_mut().map(|(_, tensor)| tensor);
            for tensor in tensors.chain([&mut annotation.tensor]).filter(|tensor| **tensor == old) {
                name.clone_into(tensor);
            }
        }
        self.rename(v, name);
    }

    /// Moves the ops and constants of a body, which was taken off the op `of`, into this graph, with values of this
    /// graph in the place of the body's inputs; returns what stands for the body's outputs. Names are kept unless
    /// another scope has them. The op is left as it is, and is to be removed.
    pub fn inline_body(&mut self, of: OpId, mut body: Graph, inputs: &[ValueId]) -> Vec<ValueId> {
        self.tell_apart(of, &mut body);
        for (v, outer) in std::mem::take(&mut body.inputs).into_iter().zip(inputs) {
            let name = self.name_of(*outer);
            match body.find(name) {
                Some(captured) => {
                    body.replace_uses(v, captured);
                    for output in body.outputs.iter_mut().filter(|output| **output == v) {
                        *output = captured;
                    }
                    body.remove_value_if_unused(v);
                }
                None => {
                    body.rename(v, name);
                    body.value_mut(v).origin = Origin::Captured;
                }
            }
        }
        let mut moved: HashMap<ValueId, ValueId> = HashMap::new();
        for v in body.values() {
            let value = body.value(v);
            let here = match value.origin {
                Origin::Captured => self.find(&value.name),
                _ => {
                    self.names.take(&value.name);
                    Some(self.insert_value(value.clone()))
                }
            };
            moved.extend(here.map(|here| (v, here)));
        }
        let here = |v: &Option<ValueId>| v.and_then(|v| moved.get(&v).copied());
        for op in body.order() {
            let inputs: Vec<_> = body.inputs_of(op).iter().map(here).collect();
            let outputs: Vec<_> = body.outputs_of(op).iter().map(here).collect();
            self.add_op(body.op(op).clone(), &inputs, &outputs);
        }
        self.annotations.append(&mut body.annotations);
        body.outputs.iter().filter_map(|v| here(&Some(*v))).collect()
    }

    /// Puts another graph in the place of a body of the op `of`: one that was made of it, and defines and captures what it did
    /// by the same names. What it defines besides gets other names where those are taken.
    pub fn replace_body(&mut self, of: OpId, which: usize, mut body: Graph) {
        let Some(old) = self.op_mut(of).bodies_mut().nth(which).map(std::mem::take) else { return };
        let (mut known, mut taken) = (HashSet::new(), HashSet::new());
        old.for_each_nested(&mut |g| known.extend(g.by_name.keys().cloned()));
        self.for_each_nested(&mut |g| taken.extend(g.by_name.keys().cloned()));
        body.name_anew(&self.names, &|name| taken.contains(name) && !known.contains(name));
        if let Some(place) = self.op_mut(of).bodies_mut().nth(which) {
            *place = body;
        }
        self.refresh_captures(of);
    }

    /// Gives this graph and its bodies that name table, and fresh names to what they define under such names.
    fn name_anew(&mut self, names: &Names, clashes: &impl Fn(&str) -> bool) {
        self.names = names.clone();
        for v in self.defined() {
            let name = self.name_of(v).to_owned();
            match clashes(&name) {
                true => self.rename_annotated(v, &names.fresh(&name)),
                false => names.take(&name),
            }
        }
        for op in self.ops().collect::<Vec<_>>() {
            self.op_mut(op).bodies_mut().for_each(|body| body.name_anew(names, clashes));
        }
    }

    /// Renames what a body of the op `of` defines under a name that stands for something else in this graph or in the
    /// bodies of other ops.
    fn tell_apart(&self, of: OpId, body: &mut Graph) {
        let mut taken: HashSet<String> = self.by_name.keys().cloned().collect();
        for nested in self.ops().filter(|op| *op != of).flat_map(|op| self.op(op).bodies()) {
            nested.for_each_nested(&mut |g| taken.extend(g.by_name.keys().cloned()));
        }
        for v in body.defined() {
            let name = body.name_of(v).to_owned();
            if taken.contains(&name) {
                body.rename_annotated(v, &self.names.fresh(&name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{Attr, DType, Graph, Op, Origin, Type};

    /// A body `(p, q) -> (r, s)` with an If inside that captures both inputs; it shadows the name `taken`.
    fn body(g: &Graph) -> Graph {
        let ty = || Type::tensor(DType::F32, [2.into()]);
        let mut body = g.new_body("body");
        let inputs = ["p", "q"].map(|name| body.named_value(name));
        body.inputs = inputs.to_vec();
        let mut branch = body.new_body("branch");
        let captured = ["p", "q"].map(|name| {
            let v = branch.named_value(name);
            branch.value_mut(v).origin = Origin::Captured;
            v
        });
        let out = branch.add_node(Op::new("Sub", ""), &captured, "inside", Some(ty()));
        branch.outputs.push(out);
        let choose = Op::new("If", "").with("then_branch", branch.clone()).with("else_branch", branch);
        let test = body.add_node(Op::new("IsInf", ""), &[inputs[0]], "test", None);
        let r = body.named_value("taken");
        body.add_op(choose, &[Some(test)], &[Some(r)]);
        body.outputs = vec![r, inputs[1]];
        body
    }
    #[test]
    fn a_body_that_comes_back_keeps_its_names_and_what_is_new_gets_free_ones() {
        let mut g = Graph::new("main");
        let x = g.add_input("x", Type::tensor(DType::F32, [2.into()]));
        let test = g.add_node(Op::new("IsInf", ""), &[x], "test", None);
        let mut then = g.new_body("then");
        let captured = then.named_value("x");
        then.value_mut(captured).origin = Origin::Captured;
        let out = then.add_node(Op::new("Abs", ""), &[captured], "p", None);
        then.outputs.push(out);
        let mut other = then.clone();
        other.rename(other.outputs[0], "q");
        let y = g.add_value("y", None);
        let choose = Op::new("If", "").with("then_branch", then).with("else_branch", other);
        let op = g.add_op(choose, &[Some(test)], &[Some(y)]);
        g.outputs.push(y);
        // Elsewhere, with names of its own, two more ops come in; their values are called as ones of the other graphs are.
        let mut body = g.op(op).bodies().next().unwrap().clone();
        body.own_names();
        for name in ["y", "q"] {
            let before = body.outputs[0];
            let after = body.named_value(name);
            body.add_op(Op::new("Neg", ""), &[Some(before)], &[Some(after)]);
            body.outputs[0] = after;
        }
        g.replace_body(op, 0, body);
        g.verify().unwrap();
        assert_eq!(g.captures_of(op), [x]);
        let then = g.op(op).bodies().next().unwrap();
        let names: Vec<_> = then.values().map(|v| then.name_of(v)).collect();
        assert_eq!(names, ["x", "p", "y_1", "q_1"]);
        assert_eq!(g.add_value("q", None), g.find("q_2").unwrap(), "the names that came are known here");
    }
    #[test]
    fn inputs_reach_nested_bodies_and_names_stay_apart() {
        for (first, second, captured) in [(0, 1, 2), (1, 0, 2), (0, 0, 1)] {
            let mut g = Graph::new("main");
            let ty = || Type::tensor(DType::F32, [2.into()]);
            let values = [g.add_input("a", ty()), g.add_input("b", ty())];
            let taken = g.add_node(Op::new("Neg", ""), &[values[0]], "taken", None);
            let body = body(&g);
            let (x, y) = (g.add_value("x", None), g.add_value("y", None));
            let call = g.add_op(Op::new("Call", "").with("body", body), &[], &[Some(x), Some(y)]);
            let Some(Attr::Graph(body)) = g.op_mut(call).unset("body") else { unreachable!() };
            let results = g.inline_body(call, *body, &[values[first], values[second]]);
            g.remove_op(call);
            g.outputs = vec![taken, results[0]];
            g.sweep();
            g.verify().unwrap();
            assert_eq!(results[1], values[second]);
            assert_eq!(g.name_of(results[0]), "taken_1");
            let (choose, _) = g.producer(results[0]).unwrap();
            assert_eq!(g.captures_of(choose).len(), captured);
            let branch = g.op(choose).bodies().next().unwrap();
            let sub = branch.ops().next().unwrap();
            let names: Vec<_> = branch.inputs_of(sub).iter().map(|v| branch.name_of(v.unwrap())).collect();
            assert_eq!(names, [first, second].map(|k| g.name_of(values[k])));
        }
    }
}
